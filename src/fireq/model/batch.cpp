#include "fireq/model/batch.h"

#include <algorithm>

#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

Tensor UploadInts(Backend& backend, const std::vector<int32_t>& values, Shape shape) {
  return backend.Upload(Tensor::FromVector(DType::kI32, std::move(shape), values));
}

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
  batch.ids = UploadInts(backend, ids, {batch.num_tokens});
  batch.positions = UploadInts(backend, positions, {batch.num_tokens});
  batch.query_start = UploadInts(backend, query_start, {batch.num_sequences + 1});
  batch.context_len = UploadInts(backend, context_len, {batch.num_sequences});
  batch.context_lens = std::move(context_len);
  batch.page_table = UploadInts(backend, page_table, {batch.num_sequences, max_pages});
  return batch;
}

}  // namespace fireq
