// What a killed quantisation had finished, so that the next run of the same goes on from there.
//
// OUT.resume beside the checkpoint OUT, while it is made:
//   block-00012/    safetensors of what block 12 puts into the checkpoint
//   streams-00013/  safetensors of the calibration windows' residual streams behind block 12
//   state.json      {"sha256": of state's text, "state": {"identity", "blocks", "report",
//                   "parts": {folder: sha256}}}; written last, so that it is always true
// The caller holds the lock on OUT (QuantisedCheckpointWriter). Not synchronised.
#pragma once

#include <chrono>
#include <filesystem>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fireq/tensor/tensor.h"

namespace fireq::quant {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct SavePolicy {
  double every_seconds = 30.0;  // at least so long between two saves; 0: after every block
  bool restart = false;         // throw away what an earlier run has saved
};

class SavedWork {
 public:
  // Reads what is there. `identity` is a JSON object of all that decides the result. Errors:
  // kInvalidArgument if the directory is not ours or holds work of another identity (naming the
  // first part that differs), kCorrupt if a file is not what was saved; none of them with restart.
  SavedWork(std::filesystem::path directory, nlohmann::json identity, SavePolicy policy);
  // Unless something is saved, leaves nothing behind.
  ~SavedWork();
  SavedWork(const SavedWork&) = delete;
  SavedWork& operator=(const SavedWork&) = delete;

  int64_t blocks() const { return blocks_; }  // finished and saved; 0: nothing to go on from
  const nlohmann::json& report() const { return report_; }
  // Checked against their digests. Errors: kCorrupt, kNotFound, kIo, naming the file.
  NamedTensors LoadBlock(int64_t layer) const;
  NamedTensors LoadStreams() const;

  // To be called with every block, whose tensors do not change any more. It is written while the
  // caller goes on; the next call of any of these waits for it, and throws its errors: kIo (a full
  // disk).
  void AddBlock(int64_t layer, NamedTensors tensors);
  bool IsTimeToSave() const;
  // `blocks` are done, all of them added; `streams` is what the next one starts from.
  void Save(int64_t blocks, nlohmann::json report, const NamedTensors& streams);
  // The checkpoint is finished.
  void Remove();

 private:
  using Clock = std::chrono::steady_clock;

  void Read();
  void Claim();
  void Wait();
  void WriteTensors(const std::string& name, const NamedTensors& tensors);
  NamedTensors LoadTensors(const std::string& name) const;

  std::filesystem::path directory_;
  nlohmann::json identity_;
  SavePolicy policy_;
  int64_t blocks_ = 0;
  nlohmann::json report_;
  std::map<std::string, std::string> digests_;  // by folder
  bool claimed_ = false;                        // the directory is ours to remove
  Clock::time_point last_save_ = Clock::now();
  std::future<void> writing_;  // the last block
};

}  // namespace fireq::quant
