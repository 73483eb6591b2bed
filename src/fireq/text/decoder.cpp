#include "fireq/text/decoder.h"

#include <charconv>

#include "fireq/base/error.h"
#include "fireq/text/byte_level.h"
#include "fireq/text/normalizer.h"
#include "fireq/text/sequence_depth.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

constexpr int kMaxStrip = 1024;

// "<0x0A>" -> the byte 0x0A; anything else stays.
std::string ReadByteToken(std::string token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return token;
  int byte = 0;
  const char* end = token.data() + 5;
  const auto result = std::from_chars(token.data() + 3, end, byte, 16);
  if (result.ec != std::errc() || result.ptr != end || byte < 0) return token;
  return std::string(1, static_cast<char>(byte));
}

std::string ReadByteLevel(std::string token) {
  std::string bytes;
  // A token with a character outside the alphabet is an addition, spelled as it is.
  return FromByteLevel(token, &bytes) ? std::move(bytes) : std::move(token);
}

std::string ReplaceAll(const std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(from); hit != text.npos; hit = text.find(from, at)) {
    out.append(text, at, hit - at).append(to);
    at = hit + from.size();
  }
  return out.append(text, at);
}

}  // namespace

Decoder::Decoder(const JsonObject& spec) : has_spec_(true), first_differs_(false) { Add(spec, 0); }

std::string Decoder::Spell(std::string_view token, bool first) const {
  std::string out = has_spec_ || first ? "" : " ";
  out += token;
  for (const Step& step : steps_) out = step(std::move(out), first);
  return out;
}

void Decoder::Add(const JsonObject& spec, int depth) {
  FIREQ_CHECK(depth < kMaxSequenceDepth, kUnsupported, spec.place(), ": nested too deeply");
  const std::string type = spec.String("type");
  if (type == "Sequence") {
    const nlohmann::json* list = spec.Find("decoders");
    FIREQ_CHECK(list != nullptr && list->is_array(), kCorrupt, spec.PlaceOf("decoders"),
                ": expected an array");
    for (size_t i = 0; i < list->size(); ++i) {
      Add(JsonObject((*list)[i], StrCat(spec.PlaceOf("decoders"), "[", i, "]")), depth + 1);
    }
    return;
  }
  if (type == "Strip") return AddStrip(spec);
  FIREQ_CHECK(!fused_, kUnsupported, spec.place(), ": ", type,
              " after Fuse would need the whole text at once");
  if (type == "Fuse") {
    fused_ = true;
  } else if (type == "ByteLevel") {
    steps_.push_back([](std::string token, bool) { return ReadByteLevel(std::move(token)); });
  } else if (type == "ByteFallback") {
    steps_.push_back([](std::string token, bool) { return ReadByteToken(std::move(token)); });
  } else if (type == "Replace") {
    steps_.push_back([replace = MakeReplace(spec)](const std::string& token, bool) {
      return replace->Apply(token);
    });
  } else if (type == "Metaspace") {
    AddMetaspace(spec);
  } else {
    Throw(ErrorCode::kUnsupported,
          StrCat(spec.PlaceOf("type"), ": the decoder ", type, " is not supported"));
  }
}

void Decoder::AddStrip(const JsonObject& spec) {
  const std::string content = spec.String("content");
  const auto start = static_cast<int>(spec.IntOr("start", 0, kMaxStrip, 0));
  const auto stop = static_cast<int>(spec.IntOr("stop", 0, kMaxStrip, 0));
  FIREQ_CHECK(!content.empty(), kCorrupt, spec.PlaceOf("content"), ": nothing to strip");
  if (fused_) {
    FIREQ_CHECK(stop == 0 && strip_count_ == 0, kUnsupported, spec.place(),
                ": stripping the end of the whole text, or stripping twice");
    strip_text_ = content;
    strip_count_ = start;
    return;
  }
  steps_.push_back([content, start, stop](const std::string& token, bool) {
    std::string_view rest = token;
    for (int i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
    for (int i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
    return std::string(rest);
  });
}

void Decoder::AddMetaspace(const JsonObject& spec) {
  const std::string mark = spec.String("replacement");
  FIREQ_CHECK(!mark.empty(), kCorrupt, spec.PlaceOf("replacement"), ": empty");
  const bool old_flag = spec.BoolOr("add_prefix_space", true);
  const bool prepends = spec.StringOr("prepend_scheme", old_flag ? "always" : "never") != "never";
  first_differs_ = first_differs_ || prepends;
  steps_.push_back([mark, prepends](const std::string& token, bool first) {
    return ReplaceAll(token, mark, first && prepends ? "" : " ");
  });
}

}  // namespace fireq::text
