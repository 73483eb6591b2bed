// All that decides the bytes of a quantised checkpoint, as JSON that two runs can compare.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/checkpoint/quant_config.h"

namespace fireq::quant {

// {"weights": [{"file", "bytes", "modified"}], "config", "quantization", "calibration": {"context",
// "sha256" of the ids}, "device"}: weight files count as the same by name, size and time of
// modification. Errors: kIo.
nlohmann::json JobIdentity(const ModelSource& source, const ModelConfig& stored,
                           const QuantConfig& quant, std::span<const int32_t> calibration_ids,
                           int64_t calibration_context, std::string_view device);

}  // namespace fireq::quant
