// Chooses the backend: the only place above the backends that knows them.
#pragma once

#include <filesystem>
#include <memory>

#include "fireq/api/fireq.h"
#include "fireq/ops/backend.h"

namespace fireq {

// options.device: "cpu", "cuda", "cuda:N", or "auto" (a Hopper GPU for quantised checkpoints where
// there is one, else the CPU). Throws kInvalidArgument naming the device and the choices,
// kUnsupported for a GPU that this build or machine lacks.
std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options,
                                     const std::filesystem::path& model);

// The same for a model in the served arithmetic that lies nowhere.
std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options);

// What quantises: the CPU backend, whatever the device.
std::unique_ptr<Backend> MakeFloatBackend(const RuntimeOptions& options);

}  // namespace fireq
