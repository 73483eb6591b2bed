#include "fireq/quant/saved_work.h"

#include <cstdio>
#include <limits>

#include "fireq/base/error.h"
#include "fireq/io/atomic_file.h"
#include "fireq/io/json.h"
#include "fireq/io/safetensors.h"
#include "fireq/io/safetensors_writer.h"
#include "fireq/io/sha256.h"

namespace fireq::quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kStateName = "state.json";
// Marks the directory as ours from its first moment.
constexpr const char* kMarkName = ".fireq-resume";

std::string NumberedName(const char* what, int64_t number) {
  char name[64];
  std::snprintf(name, sizeof(name), "%s-%05lld", what, static_cast<long long>(number));
  return name;
}

std::string DigestOfPart(const fs::path& part) { return Sha256OfFile(part / "model.safetensors"); }

std::string DigestOf(const std::string& text) {
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return hash.HexDigest();
}

// The first part in which two identities differ, with both values.
std::string Difference(const Json& saved, const Json& mine) {
  for (const auto& [key, value] : mine.items()) {
    const Json theirs = saved.contains(key) ? saved[key] : Json();
    if (theirs == value) continue;
    if (value.is_object() && theirs.is_object()) return key + "." + Difference(theirs, value);
    return StrCat(key, " was ", DescribeJson(theirs), " and is ", DescribeJson(value));
  }
  return "it has parts that this one lacks";
}

}  // namespace

SavedWork::SavedWork(fs::path directory, Json identity, SavePolicy policy)
    : directory_(std::move(directory)), identity_(std::move(identity)), policy_(policy) {
  if (!fs::exists(directory_)) return;
  const bool ours = fs::is_regular_file(directory_ / kMarkName);
  FIREQ_CHECK(ours || (fs::is_directory(directory_) && fs::is_empty(directory_)), kInvalidArgument,
              directory_.string(), ": exists and was not made by FireQ; remove it to go on");
  if (fs::exists(directory_ / kStateName) && !policy_.restart) {
    Read();
  } else {
    fs::remove_all(directory_);
  }
}

SavedWork::~SavedWork() {
  if (writing_.valid()) writing_.wait();
  std::error_code ignored;
  if (claimed_ && blocks_ == 0) fs::remove_all(directory_, ignored);
}

void SavedWork::Read() {
  const fs::path path = directory_ / kStateName;
  const Json file = ReadJsonFile(path);
  const JsonObject outer(file, path.string());
  const Json& state = outer.Object("state").value();
  FIREQ_CHECK(outer.String("sha256") == DigestOf(state.dump()), kCorrupt, path.string(),
              ": is not what was saved (its digest differs); --restart begins anew");
  const JsonObject object(state, outer.PlaceOf("state"));
  const Json& identity = object.Object("identity").value();
  blocks_ = object.Int("blocks", 1, int64_t{1} << 20);
  FIREQ_CHECK(identity == identity_, kInvalidArgument, directory_.string(), ": holds ", blocks_,
              " finished blocks of another quantisation: ", Difference(identity, identity_),
              "; the same command goes on with it, --restart begins anew");
  report_ = object.Object("report").value();
  const JsonObject parts = object.Object("parts");
  for (const auto& [name, digest] : parts.value().items()) digests_[name] = parts.String(name);
  claimed_ = true;
}

void SavedWork::Claim() {
  if (claimed_) return;
  std::error_code error;
  fs::create_directory(directory_, error);
  FIREQ_CHECK(!error, kIo, directory_.string(), ": cannot create: ", error.message());
  claimed_ = true;
  WriteTextFile(directory_ / kMarkName,
                "Work of a quantisation that goes on when it is run again.\n");
}

void SavedWork::WriteTensors(const std::string& name, const NamedTensors& tensors) {
  Claim();
  std::error_code error;
  fs::create_directory(directory_ / name, error);
  FIREQ_CHECK(!error, kIo, (directory_ / name).string(), ": cannot create: ", error.message());
  std::vector<TensorSpec> specs;
  for (const auto& [tensor_name, tensor] : tensors)
    specs.push_back({tensor_name, tensor.dtype(), tensor.shape()});
  SafetensorsWriter writer(directory_ / name, specs, std::numeric_limits<int64_t>::max());
  for (const auto& [tensor_name, tensor] : tensors) writer.Write(tensor_name, tensor);
  writer.Finish();
  digests_[name] = DigestOfPart(directory_ / name);
}

NamedTensors SavedWork::LoadTensors(const std::string& name) const {
  const fs::path path = directory_ / name;
  const auto digest = digests_.find(name);
  FIREQ_CHECK(digest != digests_.end() && DigestOfPart(path) == digest->second, kCorrupt,
              path.string(), ": is not what was saved (its digest differs); --restart begins anew");
  const SafetensorsDirectory tensors(path);
  NamedTensors out;
  for (const std::string& tensor : tensors.Names()) out.emplace_back(tensor, tensors.Get(tensor));
  return out;
}

NamedTensors SavedWork::LoadBlock(int64_t layer) const {
  return LoadTensors(NumberedName("block", layer));
}

NamedTensors SavedWork::LoadStreams() const {
  return LoadTensors(NumberedName("streams", blocks_));
}

void SavedWork::Wait() {
  if (writing_.valid()) writing_.get();
}

void SavedWork::AddBlock(int64_t layer, NamedTensors tensors) {
  Wait();
  writing_ = std::async(std::launch::async, [this, layer, tensors = std::move(tensors)] {
    WriteTensors(NumberedName("block", layer), tensors);
  });
}

bool SavedWork::IsTimeToSave() const {
  return std::chrono::duration<double>(Clock::now() - last_save_).count() >= policy_.every_seconds;
}

void SavedWork::Save(int64_t blocks, Json report, const NamedTensors& streams) {
  Wait();
  const std::string old_streams = NumberedName("streams", blocks_);
  digests_.erase(old_streams);
  if (!streams.empty()) WriteTensors(NumberedName("streams", blocks), streams);
  const Json state = {{"identity", identity_},
                      {"blocks", blocks},
                      {"report", std::move(report)},
                      {"parts", digests_}};
  const Json file = {{"sha256", DigestOf(state.dump())}, {"state", state}};
  WriteTextFile(directory_ / kStateName, file.dump());
  blocks_ = blocks;
  std::error_code ignored;  // a folder too many does no harm
  fs::remove_all(directory_ / old_streams, ignored);
  last_save_ = Clock::now();
}

void SavedWork::Remove() {
  Wait();
  std::error_code ignored;
  // The state first: without it the rest is nothing that a run would go on from.
  fs::remove(directory_ / kStateName, ignored);
  blocks_ = 0;  // the destructor removes the rest
}

}  // namespace fireq::quant
