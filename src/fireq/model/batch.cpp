#include "fireq/model/batch.h"

#include <algorithm>

#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

// The step's arrays one behind the other, for a single upload.
class FlatArrays {
 public:
  // Where `values` will be.
  int64_t Add(const std::vector<int32_t>& values) {
    const int64_t begin = static_cast<int64_t>(values_.size());
    values_.insert(values_.end(), values.begin(), values.end());
    values_.resize(AlignUp<size_t>(values_.size(), kBatchArrayAlign));
    return begin;
  }
  void Upload(Backend& backend) {
    uploaded_ = backend.Upload(
        Tensor::FromVector(DType::kI32, {static_cast<int64_t>(values_.size())}, values_));
  }
  Tensor At(int64_t begin, Shape shape) const {
    return uploaded_.Rows(begin, begin + NumElements(shape)).Reshape(std::move(shape));
  }

 private:
  std::vector<int32_t> values_;
  Tensor uploaded_;
};

}  // namespace

BatchView MakeBatch(Backend& backend, std::span<const SequenceStep> steps) {
  BatchView batch;
  batch.num_sequences = static_cast<int64_t>(steps.size());
  int64_t max_pages = 1;
  for (const SequenceStep& step : steps)
    max_pages = std::max(max_pages, static_cast<int64_t>(step.pages.size()));

  std::vector<int32_t> ids, positions, query_start{0}, context_len;
  std::vector<int32_t> page_table(static_cast<size_t>(batch.num_sequences * max_pages), 0);
  for (size_t s = 0; s < steps.size(); ++s) {
    const SequenceStep& step = steps[s];
    const int64_t count = static_cast<int64_t>(step.ids.size());
    const int64_t context = step.position + count;
    const int64_t pages = CeilDiv<int64_t>(context, kTokensPerPage);
    FIREQ_CHECK(count > 0, kInvalidArgument, "sequence ", s, " of the step has no tokens");
    FIREQ_CHECK(pages <= static_cast<int64_t>(step.pages.size()), kInvalidArgument, "sequence ", s,
                " needs ", pages, " pages for ", context, " tokens, has ", step.pages.size());
    ids.insert(ids.end(), step.ids.begin(), step.ids.end());
    for (int64_t i = 0; i < count; ++i)
      positions.push_back(static_cast<int32_t>(step.position + i));
    query_start.push_back(static_cast<int32_t>(ids.size()));
    context_len.push_back(static_cast<int32_t>(context));
    batch.query_lens.push_back(static_cast<int32_t>(count));
    std::copy(step.pages.begin(), step.pages.end(),
              page_table.begin() + static_cast<int64_t>(s) * max_pages);
    batch.max_query_len = std::max(batch.max_query_len, count);
    batch.max_context = std::max(batch.max_context, context);
  }
  batch.num_tokens = static_cast<int64_t>(ids.size());
  FlatArrays arrays;
  const int64_t at_ids = arrays.Add(ids);
  const int64_t at_positions = arrays.Add(positions);
  const int64_t at_query_start = arrays.Add(query_start);
  const int64_t at_context_len = arrays.Add(context_len);
  const int64_t at_page_table = arrays.Add(page_table);
  arrays.Upload(backend);
  batch.ids = arrays.At(at_ids, {batch.num_tokens});
  batch.positions = arrays.At(at_positions, {batch.num_tokens});
  batch.query_start = arrays.At(at_query_start, {batch.num_sequences + 1});
  batch.context_len = arrays.At(at_context_len, {batch.num_sequences});
  batch.page_table = arrays.At(at_page_table, {batch.num_sequences, max_pages});
  batch.context_lens = std::move(context_len);
  return batch;
}

}  // namespace fireq
