#include "fireq/ops/validate.h"

#include "fireq/base/math.h"

namespace fireq {
namespace {

bool IsBorder(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

// `tensor` is defined, has this dtype and shape; -1 in `shape` fits anything.
void CheckTensor(const char* op, const char* what, const Tensor& tensor, DType dtype,
                 const Shape& shape) {
  FIREQ_CHECK(tensor.defined(), kInvalidArgument, op, ": ", what, " is missing");
  FIREQ_CHECK(tensor.dtype() == dtype, kInvalidArgument, op, ": ", what, " is ",
              Name(tensor.dtype()), ", not ", Name(dtype));
  bool same = tensor.shape().size() == shape.size();
  for (size_t i = 0; same && i < shape.size(); ++i) {
    same = shape[i] < 0 || shape[i] == tensor.shape()[i];
  }
  FIREQ_CHECK(same, kShapeMismatch, op, ": ", what, " is ", ToString(tensor.shape()), ", not ",
              ToString(shape));
}

void CheckBorder(const char* op, const char* what, const Tensor& tensor, const Shape& shape) {
  FIREQ_CHECK(tensor.defined() && IsBorder(tensor.dtype()), kInvalidArgument, op, ": ", what,
              tensor.defined() ? StrCat(" is ", Name(tensor.dtype()), ", not BF16 or F32")
                               : std::string(" is missing"));
  CheckTensor(op, what, tensor, tensor.dtype(), shape);
}

// Border [t, k], or codes with their scale, E4M3 with their sums too.
void CheckActivations(const char* op, const char* what, const ActTensor& x, int64_t t, int64_t k) {
  FIREQ_CHECK(x.values.defined(), kInvalidArgument, op, ": ", what, " is missing");
  const DType dtype = x.values.dtype();
  if (!IsCodes(dtype)) {
    CheckBorder(op, what, x.values, {t, k});
    FIREQ_CHECK(!x.scale.defined(), kInvalidArgument, op, ": ", what, " is ", Name(dtype),
                " and has a scale");
    return;
  }
  CheckTensor(op, what, x.values, dtype, {t, k});
  CheckTensor(op, StrCat(what, " scale").c_str(), x.scale, DType::kF32, {t});
  if (dtype != DType::kE4M3) return;
  CheckTensor(op, StrCat(what, " sums").c_str(), x.sums, DType::kF32,
              {t, CeilDiv<int64_t>(k, kGroup)});
}

bool OnHost(const Tensor& tensor) { return tensor.space() == MemorySpace::kHost; }

void CheckRange(const char* op, const char* what, const Tensor& tensor, int64_t limit,
                int64_t first = 0) {
  if (!OnHost(tensor)) return;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const int32_t value = tensor.as<int32_t>()[i];
    FIREQ_CHECK(value >= first && value < limit, kInvalidArgument, op, ": ", what, "[", i,
                "] = ", value, " is not in [", first, ", ", limit, ")");
  }
}

void CheckKv(const char* op, const KvLayer& kv, int64_t num_heads) {
  const KvPageLayout& layout = kv.layout;
  FIREQ_CHECK(layout.kv_heads > 0 && num_heads > 0 && num_heads % layout.kv_heads == 0,
              kShapeMismatch, op, ": ", num_heads, " heads over ", layout.kv_heads, " KV heads");
  FIREQ_CHECK(layout.head_dim > 0 && layout.head_dim % 8 == 0 && layout.head_dim <= 512,
              kUnsupported, op, ": head_dim ", layout.head_dim,
              " is not a multiple of 8 up to 512");
  CheckTensor(op, "pages", kv.pages, DType::kU8, {-1, layout.page_bytes()});
}

void CheckSequences(const char* op, const BatchView& batch, int64_t num_pages) {
  const auto* start = batch.query_start.as<int32_t>();
  const auto* context = batch.context_len.as<int32_t>();
  const int64_t s_count = batch.num_sequences;
  FIREQ_CHECK(start[0] == 0 && start[s_count] <= batch.num_tokens, kInvalidArgument, op,
              ": query_start runs from ", start[0], " to ", start[s_count], ", not 0 to at most ",
              batch.num_tokens);
  const int64_t max_pages = batch.page_table.dim(1);
  for (int64_t s = 0; s < s_count; ++s) {
    const int64_t length = start[s + 1] - start[s];
    FIREQ_CHECK(length >= 0 && context[s] >= length, kInvalidArgument, op, ": sequence ", s,
                " has ", length, " tokens and context ", context[s]);
    const int64_t pages = CeilDiv<int64_t>(context[s], kTokensPerPage);
    FIREQ_CHECK(pages <= max_pages, kInvalidArgument, op, ": context ", context[s], " of sequence ",
                s, " needs ", pages, " pages of ", max_pages);
    for (int64_t p = 0; p < pages; ++p) {
      const int32_t page = batch.page_table.as<int32_t>()[s * max_pages + p];
      FIREQ_CHECK(page >= 0 && page < num_pages, kInvalidArgument, op, ": page_table[", s, ", ", p,
                  "] = ", page, " is not in [0, ", num_pages, ")");
    }
  }
}

void CheckBatch(const char* op, const BatchView* batch, const KvLayer& kv) {
  FIREQ_CHECK(batch != nullptr, kInvalidArgument, op, ": batch is missing");
  CheckTensor(op, "query_start", batch->query_start, DType::kI32, {batch->num_sequences + 1});
  CheckTensor(op, "context_len", batch->context_len, DType::kI32, {batch->num_sequences});
  CheckTensor(op, "page_table", batch->page_table, DType::kI32, {batch->num_sequences, -1});
  if (OnHost(batch->query_start) && OnHost(batch->context_len) && OnHost(batch->page_table)) {
    CheckSequences(op, *batch, kv.pages.dim(0));
  }
}

// Q [t, H Dh]: F32, or E4M3 with scale [t, H].
void CheckQuery(const char* op, const ActTensor& q, int64_t t, int64_t heads, int64_t dim) {
  FIREQ_CHECK(q.values.defined(), kInvalidArgument, op, ": q is missing");
  const bool e4m3 = q.values.dtype() == DType::kE4M3;
  CheckTensor(op, "q", q.values, e4m3 ? DType::kE4M3 : DType::kF32, {t, heads * dim});
  if (e4m3) CheckTensor(op, "q scale", q.scale, DType::kF32, {t, heads});
}

void CheckOptional(const char* op, const char* what, const Tensor& tensor, const Shape& shape) {
  if (tensor.defined()) CheckTensor(op, what, tensor, DType::kF32, shape);
}

}  // namespace

void Validate(const LinearSpec& spec) {
  FIREQ_CHECK(!spec.parts.empty(), kInvalidArgument, "linear without parts");
  int64_t k = -1;
  int64_t n = -1;
  for (const LinearPart& part : spec.parts) {
    const bool i4 = part.i4.codes.defined();
    FIREQ_CHECK(i4 != part.weight.defined(), kInvalidArgument, part.name,
                ": needs either float or INT4 weights");
    if (i4) {
      CheckWeightI4(part.i4, part.name);
    } else {
      const DType dtype = part.weight.dtype();
      FIREQ_CHECK(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16,
                  kUnsupported, part.name, ": weights of type ", Name(dtype));
      CheckTensor(part.name.c_str(), "weight", part.weight, dtype, {-1, -1});
    }
    const int64_t part_k = i4 ? part.i4.k : part.weight.dim(1);
    const int64_t part_n = i4 ? part.i4.n : part.weight.dim(0);
    FIREQ_CHECK(k < 0 || k == part_k, kShapeMismatch, part.name, ": K ", part_k, ", not ", k,
                " as in ", spec.parts[0].name);
    FIREQ_CHECK(i4 == spec.parts[0].i4.codes.defined(), kUnsupported, part.name, " and ",
                spec.parts[0].name, ": float and INT4 weights in one fused linear");
    FIREQ_CHECK(!spec.gate_up || n < 0 || n == part_n, kShapeMismatch, part.name, ": N ", part_n,
                ", not ", n, " as in ", spec.parts[0].name);
    CheckOptional(part.name.c_str(), "bias", part.bias, {part_n});
    k = part_k;
    n = part_n;
  }
  FIREQ_CHECK(!spec.gate_up || spec.parts.size() == 2, kInvalidArgument, spec.parts[0].name,
              ": gate|up has ", spec.parts.size(), " parts");
}

void Validate(const EmbedArgs& args) {
  CheckTensor("embed", "ids", args.ids, DType::kI32, {-1});
  const DType dtype = args.table.dtype();
  FIREQ_CHECK(args.table.defined() && (IsBorder(dtype) || dtype == DType::kF16), kUnsupported,
              "embed: table of type ", Name(dtype));
  CheckTensor("embed", "table", args.table, dtype, {-1, -1});
  CheckBorder("embed", "out", args.out, {args.ids.dim(0), args.table.dim(1)});
  if (args.chosen.defined()) CheckTensor("embed", "chosen", args.chosen, DType::kI32, {-1});
  CheckRange("embed", "ids", args.ids, args.table.dim(0),
             args.chosen.defined() ? -args.chosen.dim(0) : 0);
}

void Validate(const RmsNormArgs& args) {
  CheckBorder("rms_norm", "x", args.x, {-1, -1});
  CheckTensor("rms_norm", "weight", args.weight, DType::kF32, {args.x.dim(1)});
  FIREQ_CHECK(args.eps >= 0.0f, kInvalidArgument, "rms_norm: eps ", args.eps);
  CheckActivations("rms_norm", "out", args.out, args.x.dim(0), args.x.dim(1));
}

void Validate(const QuantizeArgs& args) {
  CheckBorder("quantize", "x", args.x, {-1, -1});
  FIREQ_CHECK(args.out.values.defined() && IsCodes(args.out.values.dtype()), kInvalidArgument,
              "quantize: out is neither E4M3 nor I8");
  CheckActivations("quantize", "out", args.out, args.x.dim(0), args.x.dim(1));
}

void Validate(const LinearArgs& args, DType logits) {
  FIREQ_CHECK(args.w != nullptr, kInvalidArgument, "linear: weights are missing");
  FIREQ_CHECK(args.x.values.defined() && args.x.values.rank() == 2, kShapeMismatch,
              "linear: x is missing or not a matrix");
  const int64_t t = args.x.values.dim(0);
  CheckActivations("linear", "x", args.x, t, args.w->k());
  FIREQ_CHECK(args.w->quantized() || args.x.values.dtype() != DType::kE4M3, kUnsupported,
              "linear: E4M3 activations into float weights");
  FIREQ_CHECK(!args.w->quantized() || args.x.values.dtype() != DType::kI8, kUnsupported,
              "linear: INT8 activations into INT4 weights");
  const bool silu = args.epilogue == Epilogue::kSiluMul;
  FIREQ_CHECK(!silu || args.w->n() % 2 == 0, kShapeMismatch, "linear: gate|up of ", args.w->n(),
              " rows");
  const Shape shape = {t, silu ? args.w->n() / 2 : args.w->n()};
  if (args.largest.defined()) {
    FIREQ_CHECK(args.epilogue == Epilogue::kNone, kUnsupported,
                "linear: the largest of outputs that are not the product");
    CheckTensor("linear", "largest", args.largest, DType::kI32, {t});
    if (!args.y.defined()) return;
  }
  if (args.y.defined() && args.y.dtype() == logits && args.epilogue == Epilogue::kNone) {
    CheckTensor("linear", "y", args.y, logits, shape);
  } else {
    CheckBorder("linear", "y", args.y, shape);
  }
  if (args.epilogue == Epilogue::kResidual) {
    CheckTensor("linear", "residual", args.residual, args.y.dtype(), shape);
  }
}

void Validate(const RopeKvWriteArgs& args) {
  constexpr const char* kOp = "rope_kv_write";
  CheckKv(kOp, args.kv, args.num_heads);
  CheckBatch(kOp, args.batch, args.kv);
  const int64_t t = args.batch->num_tokens;
  const int64_t dim = args.kv.layout.head_dim;
  const int64_t kv_heads = args.kv.layout.kv_heads;
  CheckBorder(kOp, "qkv", args.qkv, {t, (args.num_heads + 2 * kv_heads) * dim});
  CheckTensor(kOp, "rope_cos", args.rope_cos, DType::kF32, {-1, dim / 2});
  CheckTensor(kOp, "rope_sin", args.rope_sin, DType::kF32, {args.rope_cos.dim(0), dim / 2});
  CheckTensor(kOp, "positions", args.batch->positions, DType::kI32, {t});
  CheckRange(kOp, "positions", args.batch->positions, args.rope_cos.dim(0));
  CheckOptional(kOp, "q_norm", args.q_norm, {dim});
  CheckOptional(kOp, "k_norm", args.k_norm, {dim});
  CheckOptional(kOp, "crs_q", args.crs_q, {kv_heads, dim});
  CheckOptional(kOp, "crs_k", args.crs_k, {kv_heads, dim});
  CheckOptional(kOp, "key_shift", args.key_shift, {kv_heads, dim});
  FIREQ_CHECK(!args.qk_hadamard || (dim & (dim - 1)) == 0, kUnsupported, kOp,
              ": Hadamard of head_dim ", dim, ", not a power of two");
  CheckQuery(kOp, args.q, t, args.num_heads, dim);
}

void Validate(const AttentionArgs& args) {
  constexpr const char* kOp = "attention";
  CheckKv(kOp, args.kv, args.num_heads);
  CheckBatch(kOp, args.batch, args.kv);
  const int64_t t = args.batch->num_tokens;
  const int64_t dim = args.kv.layout.head_dim;
  CheckQuery(kOp, args.q, t, args.num_heads, dim);
  CheckBorder(kOp, "out", args.out, {t, args.num_heads * dim});
}

void Validate(const SampleArgs& args, DType logits) {
  constexpr const char* kOp = "sample";
  const bool own = args.logits.defined() && args.logits.dtype() == logits;
  CheckTensor(kOp, "logits", args.logits, own ? logits : DType::kF32, {-1, -1});
  const int64_t rows = args.logits.dim(0);
  CheckTensor(kOp, "params", args.params, DType::kU8,
              {rows, static_cast<int64_t>(sizeof(SampleRowParams))});
  FIREQ_CHECK(args.max_logprobs >= 0, kInvalidArgument, kOp, ": up to ", args.max_logprobs,
              " log-probabilities");
  CheckTensor(kOp, "out", args.out, DType::kI32, {rows, kSampleHead + 2 * args.max_logprobs});
  if (args.ids.defined()) CheckTensor(kOp, "ids", args.ids, DType::kI32, {rows});
  if (!args.history.defined()) return;
  CheckTensor(kOp, "history", args.history, DType::kI32, {-1});
  CheckRange(kOp, "history", args.history, args.logits.dim(1));
}

void Validate(const RandomLinearSpec& spec) {
  FIREQ_CHECK(!spec.part_rows.empty() && spec.k > 0, kInvalidArgument, "a random weight of ",
              spec.part_rows.size(), " parts of ", spec.k, " columns");
  for (const int64_t n : spec.part_rows)
    FIREQ_CHECK(n > 0, kInvalidArgument, "a random weight of ", n, " rows");
  FIREQ_CHECK(spec.form == WeightForm::kInt4 || spec.part_rows.size() == 1, kInvalidArgument,
              "a random BF16 weight of ", spec.part_rows.size(), " parts");
}

void ValidateCopy(const Tensor& from, const Tensor& to) {
  FIREQ_CHECK(from.defined() && to.defined(), kInvalidArgument, "copy: a tensor is missing");
  FIREQ_CHECK(from.dtype() == to.dtype() && from.num_elements() == to.num_elements(),
              kShapeMismatch, "copy: ", Name(from.dtype()), " ", ToString(from.shape()), " to ",
              Name(to.dtype()), " ", ToString(to.shape()));
}

void ValidateGatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  CheckTensor("gather_rows", "rows", rows, DType::kI32, {-1});
  FIREQ_CHECK(x.defined(), kInvalidArgument, "gather_rows: x is missing");
  CheckTensor("gather_rows", "x", x, x.dtype(), {-1, -1});
  CheckTensor("gather_rows", "out", out, x.dtype(), {rows.dim(0), x.dim(1)});
  CheckRange("gather_rows", "rows", rows, x.dim(0));
}

}  // namespace fireq
