// The "post_processor" of a tokenizer.json, for a single text: ids before and after it.
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/io/json.h"

namespace fireq::text {

class PostProcessor {
 public:
  PostProcessor() = default;  // adds nothing

  // Sequence, TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing. Errors:
  // kUnsupported for others, by name; kCorrupt for a template that refers to unknown tokens.
  explicit PostProcessor(const JsonObject& spec);

  PostProcessor(std::vector<int32_t> prefix, std::vector<int32_t> suffix)
      : prefix_(std::move(prefix)), suffix_(std::move(suffix)) {}

  const std::vector<int32_t>& prefix() const { return prefix_; }
  const std::vector<int32_t>& suffix() const { return suffix_; }

 private:
  void Add(const JsonObject& spec, int depth);
  void AddTemplate(const JsonObject& spec);

  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
};

}  // namespace fireq::text
