#include "fireq/text/post_processor.h"

#include "fireq/base/error.h"
#include "fireq/text/sequence_depth.h"
#include "fireq/text/vocab.h"

namespace fireq::text {
namespace {

const nlohmann::json& NeedArray(const JsonObject& spec, const std::string& key) {
  const nlohmann::json* list = spec.Find(key);
  FIREQ_CHECK(list != nullptr && list->is_array(), kCorrupt, spec.PlaceOf(key),
              ": expected an array");
  return *list;
}

// ["</s>", 2] as BERT's processors write it.
int32_t NamedId(const JsonObject& spec, const std::string& key) {
  const nlohmann::json& pair = NeedArray(spec, key);
  FIREQ_CHECK(pair.size() == 2 && pair[1].is_number_integer() && pair[1].get<int64_t>() >= 0 &&
                  pair[1].get<int64_t>() <= kMaxTokenId,
              kCorrupt, spec.PlaceOf(key), ": expected [token, id], got ", DescribeJson(pair));
  return pair[1].get<int32_t>();
}

}  // namespace

PostProcessor::PostProcessor(const JsonObject& spec) { Add(spec, 0); }

void PostProcessor::Add(const JsonObject& spec, int depth) {
  FIREQ_CHECK(depth < kMaxSequenceDepth, kUnsupported, spec.place(), ": nested too deeply");
  const std::string type = spec.String("type");
  if (type == "Sequence") {
    const nlohmann::json& list = NeedArray(spec, "processors");
    for (size_t i = 0; i < list.size(); ++i) {
      Add(JsonObject(list[i], StrCat(spec.PlaceOf("processors"), "[", i, "]")), depth + 1);
    }
  } else if (type == "TemplateProcessing") {
    AddTemplate(spec);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    prefix_.insert(prefix_.begin(), NamedId(spec, "cls"));
    suffix_.push_back(NamedId(spec, "sep"));
  } else {
    FIREQ_CHECK(type == "ByteLevel", kUnsupported, spec.PlaceOf("type"), ": the post-processor ",
                type, " is not supported");
  }
}

void PostProcessor::AddTemplate(const JsonObject& spec) {
  const nlohmann::json& single = NeedArray(spec, "single");
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool seen_text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonObject item(single[i], StrCat(spec.PlaceOf("single"), "[", i, "]"));
    if (item.Has("Sequence")) {
      FIREQ_CHECK(!seen_text, kCorrupt, item.place(), ": the text occurs twice");
      seen_text = true;
      continue;
    }
    const std::string name = item.Object("SpecialToken").String("id");
    const JsonObject token = spec.Object("special_tokens").Object(name);
    const std::vector<int64_t> ids = token.Ints("ids", 0, kMaxTokenId);
    FIREQ_CHECK(!ids.empty(), kCorrupt, token.PlaceOf("ids"), ": no ids");
    auto& side = seen_text ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  FIREQ_CHECK(seen_text, kCorrupt, spec.PlaceOf("single"), ": the text does not occur");
  prefix_.insert(prefix_.begin(), before.begin(), before.end());
  suffix_.insert(suffix_.end(), after.begin(), after.end());
}

}  // namespace fireq::text
