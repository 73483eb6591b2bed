// Chooses the backend: the only place above the backends that knows them.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "fireq/api/fireq.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/input_fit.h"
#include "fireq/ops/ranks.h"

namespace fireq {

// options.device: "cpu", "cuda", "cuda:N", or "auto" (a Hopper GPU for quantised checkpoints where
// there is one, else the CPU); a float model runs on a GPU in FP32, to be scored there. Throws
// kInvalidArgument naming the device and the choices, kUnsupported for a GPU that this build or
// machine lacks.
std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options,
                                     const std::filesystem::path& model);

// The same for a model in the served arithmetic that lies nowhere.
std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options);

// Connects backends of one kind, made by MakeRankBackend, each used by a thread of its own.
std::vector<std::shared_ptr<Ranks>> Connect(const RuntimeOptions& options,
                                            std::span<Backend* const> backends);
// The backend of one of several ranks: an even share of the CPU's threads, or GPU number `rank`.
// Throws as MakeBackend, and kInvalidArgument for a device that names a GPU.
std::unique_ptr<Backend> MakeRankBackend(const RuntimeOptions& options, Share share);

// What runs float models: the CPU backend, whatever the device.
std::unique_ptr<Backend> MakeFloatBackend(const RuntimeOptions& options);

// What quantises: runs the float model, beside it the quantised one, and solves for the weights.
struct Quantiser {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Fitter> fitter;  // null: the host's cores
};
// "cpu", "cuda", "cuda:N", or "auto": a Hopper GPU where there is one. Throws as MakeBackend.
Quantiser MakeQuantiser(const RuntimeOptions& options);

}  // namespace fireq
