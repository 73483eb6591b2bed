#include "fireq/model/batch.h"

#include <algorithm>

#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

// Arrays begin at multiples of so many values.
constexpr int64_t kAlign = 32;

// Where the arrays of a step begin, in values.
struct Places {
  Places(int64_t tokens, int64_t sequences, int64_t max_pages)
      : positions(AlignUp(tokens, kAlign)),
        query_start(2 * positions),
        context_len(query_start + AlignUp(sequences + 1, kAlign)),
        page_table(context_len + AlignUp(sequences, kAlign)),
        end(page_table + AlignUp(sequences * max_pages, kAlign)) {}
  int64_t positions, query_start, context_len, page_table, end;  // ids are at 0
};

void Check(const SequenceStep& step, size_t index, int64_t max_pages) {
  const int64_t count = static_cast<int64_t>(step.ids.size());
  const int64_t context = step.position + count;
  const int64_t pages = CeilDiv<int64_t>(context, kTokensPerPage);
  FIREQ_CHECK(count > 0, kInvalidArgument, "sequence ", index, " of the step has no tokens");
  FIREQ_CHECK(pages <= static_cast<int64_t>(step.pages.size()), kInvalidArgument, "sequence ",
              index, " needs ", pages, " pages for ", context, " tokens, has ", step.pages.size());
  FIREQ_CHECK(pages <= max_pages, kInvalidArgument, "sequence ", index, " needs ", pages,
              " pages in a table of ", max_pages);
}

// Writes the arrays of the steps and of the fillers behind them, and keeps the host's part of the
// view.
void Write(std::span<const SequenceStep> steps, int64_t fillers, int64_t max_pages,
           const Places& at, int32_t* out, BatchView& batch) {
  int32_t token = 0;
  out[at.query_start] = 0;
  for (size_t s = 0; s < steps.size(); ++s) {
    const SequenceStep& step = steps[s];
    const auto count = static_cast<int32_t>(step.ids.size());
    const auto context = static_cast<int32_t>(step.position) + count;
    std::copy(step.ids.begin(), step.ids.end(), out + token);
    for (int32_t i = 0; i < count; ++i)
      out[at.positions + token + i] = static_cast<int32_t>(step.position) + i;
    token += count;
    const auto row = static_cast<int64_t>(s);
    out[at.query_start + row + 1] = token;
    out[at.context_len + row] = context;
    const int64_t pages = std::min(max_pages, static_cast<int64_t>(step.pages.size()));
    int32_t* table = out + at.page_table + row * max_pages;
    std::fill(std::copy_n(step.pages.begin(), pages, table), table + max_pages, 0);
    batch.query_lens.push_back(count);
    batch.context_lens.push_back(context);
    batch.max_query_len = std::max<int64_t>(batch.max_query_len, count);
    batch.max_context = std::max<int64_t>(batch.max_context, context);
  }
  const auto first = static_cast<int64_t>(steps.size());
  std::fill_n(out + token, fillers, 0);
  std::fill_n(out + at.positions + token, fillers, 0);
  std::fill_n(out + at.query_start + first + 1, fillers, token);
  std::fill_n(out + at.context_len + first, fillers, 0);
  std::fill_n(out + at.page_table + first * max_pages, fillers * max_pages, 0);
  batch.query_lens.resize(static_cast<size_t>(first + fillers), 0);
  batch.context_lens.resize(static_cast<size_t>(first + fillers), 0);
}

}  // namespace

BatchArrays::BatchArrays(Backend& backend, int64_t max_tokens, int64_t max_sequences,
                         int64_t max_pages)
    : backend_(backend),
      values_(backend.Allocate(DType::kI32, {Places(max_tokens, max_sequences, max_pages).end})),
      staging_(Tensor::Empty(DType::kI32, values_.shape())) {}

BatchView BatchArrays::Fill(std::span<const SequenceStep> steps, int64_t max_pages,
                            int64_t fillers) {
  BatchView batch;
  batch.num_sequences = static_cast<int64_t>(steps.size()) + fillers;
  batch.num_tokens = fillers;
  for (size_t s = 0; s < steps.size(); ++s) {
    Check(steps[s], s, max_pages);
    batch.num_tokens += static_cast<int64_t>(steps[s].ids.size());
  }
  const Places at(batch.num_tokens, batch.num_sequences, max_pages);
  FIREQ_CHECK(at.end <= values_.num_elements(), kInvalidArgument, "a step of ", batch.num_tokens,
              " tokens, ", batch.num_sequences, " sequences and ", max_pages,
              " pages in arrays of ", values_.num_elements(), " values");
  Write(steps, fillers, max_pages, at, staging_.as<int32_t>(), batch);
  backend_.UploadTo(staging_.Rows(0, at.end), values_.Rows(0, at.end));
  const auto view = [&](int64_t begin, Shape shape) {
    const int64_t end = begin + NumElements(shape);
    return values_.Rows(begin, end).Reshape(std::move(shape));
  };
  batch.ids = view(0, {batch.num_tokens});
  batch.positions = view(at.positions, {batch.num_tokens});
  batch.query_start = view(at.query_start, {batch.num_sequences + 1});
  batch.context_len = view(at.context_len, {batch.num_sequences});
  batch.page_table = view(at.page_table, {batch.num_sequences, max_pages});
  return batch;
}

int64_t MaxPages(std::span<const SequenceStep> steps) {
  int64_t pages = 1;
  for (const SequenceStep& step : steps)
    pages = std::max(pages, CeilDiv<int64_t>(step.position + static_cast<int64_t>(step.ids.size()),
                                             kTokensPerPage));
  return pages;
}

BatchView MakeBatch(Backend& backend, std::span<const SequenceStep> steps) {
  int64_t tokens = 0;
  for (const SequenceStep& step : steps) tokens += static_cast<int64_t>(step.ids.size());
  const int64_t pages = MaxPages(steps);
  return BatchArrays(backend, tokens, static_cast<int64_t>(steps.size()), pages).Fill(steps, pages);
}

}  // namespace fireq
