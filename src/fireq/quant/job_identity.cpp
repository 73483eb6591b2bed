#include "fireq/quant/job_identity.h"

#include <filesystem>

#include "fireq/base/error.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/io/sha256.h"

namespace fireq::quant {
namespace {

nlohmann::json FileIdentity(const std::filesystem::path& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  FIREQ_CHECK(!error, kIo, path.string(), ": ", error.message());
  const auto modified = std::filesystem::last_write_time(path, error).time_since_epoch().count();
  FIREQ_CHECK(!error, kIo, path.string(), ": ", error.message());
  return {{"file", path.filename().string()}, {"bytes", bytes}, {"modified", modified}};
}

}  // namespace

nlohmann::json JobIdentity(const ModelSource& source, const ModelConfig& stored,
                           const QuantConfig& quant, std::span<const int32_t> calibration_ids,
                           int64_t calibration_context, std::string_view device) {
  nlohmann::json weights = nlohmann::json::array();
  for (const std::filesystem::path& file : source.WeightFiles())
    weights.push_back(FileIdentity(file));
  Sha256 hash;
  hash.Update(
      {reinterpret_cast<const uint8_t*>(calibration_ids.data()), calibration_ids.size_bytes()});
  return {{"weights", std::move(weights)},
          {"config", ToHuggingFaceJson(stored)},
          {"quantization", ToJson(quant)},
          {"calibration", {{"context", calibration_context}, {"sha256", hash.HexDigest()}}},
          {"device", device}};
}

}  // namespace fireq::quant
