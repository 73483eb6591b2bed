#include "fireq/text/normalizer.h"

#include <functional>

#include "fireq/base/error.h"
#include "fireq/text/byte_level.h"
#include "fireq/text/regex.h"
#include "fireq/text/sequence_depth.h"
#include "fireq/text/unicode_normal.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// A step that is a plain function.
class Mapping : public Normalizer::Step {
 public:
  explicit Mapping(std::function<std::string(std::string_view)> map) : map_(std::move(map)) {}
  std::string Apply(std::string_view text) const override { return map_(text); }

 private:
  std::function<std::string(std::string_view)> map_;
};

class ReplaceString : public Normalizer::Step {
 public:
  ReplaceString(std::string pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::string Apply(std::string_view text) const override {
    std::string out;
    out.reserve(text.size());
    size_t at = 0;
    for (size_t hit = text.find(pattern_); hit != text.npos; hit = text.find(pattern_, at)) {
      out.append(text.substr(at, hit - at)).append(content_);
      at = hit + pattern_.size();
    }
    return out.append(text.substr(at));
  }

 private:
  std::string pattern_;
  std::string content_;
};

class ReplaceRegex : public Normalizer::Step {
 public:
  ReplaceRegex(std::string_view pattern, std::string content, std::string place)
      : regex_(pattern, std::move(place)), content_(std::move(content)) {}

  std::string Apply(std::string_view text) const override {
    RegexMatcher matcher(regex_);
    matcher.Reset(text);
    std::string out;
    size_t at = 0;
    for (Span match; matcher.Next(&match); at = match.end) {
      out.append(text.substr(at, match.begin - at)).append(content_);
    }
    return out.append(text.substr(at));
  }

 private:
  Regex regex_;
  std::string content_;
};

std::string StripSpace(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const DecodedChar c = DecodeFirst(text);
    if (!IsWhiteSpace(c.code)) break;
    text.remove_prefix(static_cast<size_t>(c.length));
  }
  while (right && !text.empty()) {
    const size_t last = PreviousChar(text, text.size());
    if (!IsWhiteSpace(DecodeFirst(text.substr(last)).code)) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

std::shared_ptr<const Normalizer::Step> MakeMapping(
    std::function<std::string(std::string_view)> map) {
  return std::make_shared<Mapping>(std::move(map));
}

std::shared_ptr<const Normalizer::Step> MakeUnicodeStep(const std::string& type) {
  const auto normal = [](NormalForm form) {
    return MakeMapping([form](std::string_view text) { return NormalizeUnicode(text, form); });
  };
  if (type == "NFC") return normal(NormalForm::kNfc);
  if (type == "NFD") return normal(NormalForm::kNfd);
  if (type == "NFKC") return normal(NormalForm::kNfkc);
  if (type == "NFKD") return normal(NormalForm::kNfkd);
  if (type == "Lowercase") return MakeMapping(LowerCase);
  if (type == "StripAccents") return MakeMapping(StripAccents);
  return nullptr;
}

std::shared_ptr<const Normalizer::Step> MakeStep(const JsonObject& spec, const std::string& type) {
  if (auto step = MakeUnicodeStep(type)) return step;
  if (type == "Replace") return MakeReplace(spec);
  if (type == "Prepend") {
    return MakeMapping([added = spec.String("prepend")](std::string_view text) {
      return text.empty() ? std::string() : added + std::string(text);
    });
  }
  if (type == "Append") {
    return MakeMapping([added = spec.String("append")](std::string_view text) {
      return text.empty() ? std::string() : std::string(text) + added;
    });
  }
  if (type == "Strip") {
    const bool left = spec.BoolOr("strip_left", true);
    const bool right = spec.BoolOr("strip_right", true);
    return MakeMapping(
        [left, right](std::string_view text) { return StripSpace(text, left, right); });
  }
  if (type == "ByteLevel") {
    return MakeMapping([](std::string_view text) {
      std::string out;
      AppendByteLevel(out, text);
      return out;
    });
  }
  Throw(ErrorCode::kUnsupported,
        StrCat(spec.PlaceOf("type"), ": the normalizer ", type, " is not supported"));
}

}  // namespace

std::shared_ptr<const Normalizer::Step> MakeReplace(const JsonObject& spec) {
  const JsonObject pattern = spec.Object("pattern");
  const std::string content = spec.String("content");
  if (pattern.Has("Regex")) {
    return std::make_shared<ReplaceRegex>(pattern.String("Regex"), content,
                                          pattern.PlaceOf("Regex"));
  }
  const std::string text = pattern.String("String");
  FIREQ_CHECK(!text.empty(), kCorrupt, pattern.PlaceOf("String"), ": an empty text to replace");
  return std::make_shared<ReplaceString>(text, content);
}

Normalizer::Normalizer(const JsonObject& spec) { Add(spec, 0); }

void Normalizer::Add(const JsonObject& spec, int depth) {
  FIREQ_CHECK(depth < kMaxSequenceDepth, kUnsupported, spec.place(), ": nested too deeply");
  const std::string type = spec.String("type");
  if (type != "Sequence") {
    makes_byte_level_ |= type == "ByteLevel";
    return steps_.push_back(MakeStep(spec, type));
  }
  const nlohmann::json* list = spec.Find("normalizers");
  FIREQ_CHECK(list != nullptr && list->is_array(), kCorrupt, spec.PlaceOf("normalizers"),
              ": expected an array");
  for (size_t i = 0; i < list->size(); ++i) {
    Add(JsonObject((*list)[i], StrCat(spec.PlaceOf("normalizers"), "[", i, "]")), depth + 1);
  }
}

std::string Normalizer::Apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) {
    out = step->Apply(out);
    FIREQ_CHECK(out.size() <= kMaxTextBytes, kUnsupported, "normalising a text of ", text.size(),
                " bytes makes it larger than ", kMaxTextBytes, " bytes");
  }
  return out;
}

}  // namespace fireq::text
