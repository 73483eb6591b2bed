// How fast a model serves: the phases of serving, timed through the engine that serves.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "fireq/engine/engine.h"
#include "fireq/measure/profiled_backend.h"

namespace fireq {

struct MeasureOptions {
  int64_t max_tokens = 16896;  // of a step
  int64_t memory_bytes = 0;    // 0: nine tenths of what is free
  Products products = Products::kServed;
  Reduction reduction = Reduction::kFastest;
  RecordDecode record_decode = RecordDecode::kWhereItGains;
};

// `batch` sequences of random prompts of `input` tokens, `output` more of each.
struct PhaseShape {
  int64_t batch = 0;
  int64_t input = 0;
  int64_t output = 0;
};

// Tokens of a step, at most: `options.max_tokens`, or more where so many sequences need them.
int64_t StepTokens(const MeasureOptions& options, const PhaseShape& shape);

struct PhaseSpeed {
  int64_t tokens = 0;    // that the phase is about: prompt or output tokens
  double seconds = 0.0;  // by the host's clock
  int64_t steps = 0;
  // Of recorded steps, those that were timed by themselves, on the backend's timeline.
  double recorded_seconds = 0.0;
  int64_t recorded_steps = 0;
  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};

// The prompts alone, through the engine, a first token of each included; the median of `repeats`.
PhaseSpeed MeasurePrefill(Backend& backend, const Model& model, const MeasureOptions& options,
                          const PhaseShape& shape, int repeats);

// `output` tokens of each sequence from a context of `input` on, after two steps to warm up.
PhaseSpeed MeasureDecode(Backend& backend, const Model& model, const MeasureOptions& options,
                         const PhaseShape& shape);

struct ServeSpeed {
  PhaseSpeed all;  // output tokens over everything, prefill included
  EngineMetrics metrics;
  std::vector<int64_t> first_token_us;  // sorted
};

// `requests` of this shape, all there from the start, `shape.batch` of them at a time.
ServeSpeed MeasureServe(Backend& backend, const Model& model, const MeasureOptions& options,
                        const PhaseShape& shape, int64_t requests);

// Times of the ops of one prefill of `shape`, and of one decode step behind it.
struct OpProfile {
  std::map<std::string, OpTime> prefill, decode_step;
};
OpProfile ProfileOps(Backend& backend, const Model& model, const MeasureOptions& options,
                     const PhaseShape& shape);

}  // namespace fireq
