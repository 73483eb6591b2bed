// When each kernel and copy of a program ran, from inside: the CUDA driver loads this library into
// any program that is started with CUDA_INJECTION64_PATH naming it, and it writes what CUPTI saw to
// FIREQ_TIMELINE as CSV when the program ends. bench/timeline/idle.py reads that. With several GPUs
// FIREQ_TIMELINE_DEVICE says whose.
#include <cupti.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Span {
  uint64_t start_ns, end_ns;
  uint32_t graph;  // 0: not of a graph
  std::string name;
};

struct Timeline {
  std::mutex mutex;
  std::vector<Span> spans;
};

Timeline& Recorded() {
  static auto* timeline = new Timeline;  // CUPTI may call while the program's statics go
  return *timeline;
}

bool IsWanted(uint32_t device) {
  static const char* const wanted = std::getenv("FIREQ_TIMELINE_DEVICE");
  return wanted == nullptr || device == static_cast<uint32_t>(std::atoi(wanted));
}

void Keep(const CUpti_Activity& record) {
  if (record.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel10&>(record);
    if (IsWanted(kernel.deviceId))
      Recorded().spans.push_back({kernel.start, kernel.end, kernel.graphId, kernel.name});
  } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpy5&>(record);
    if (IsWanted(copy.deviceId))
      Recorded().spans.push_back({copy.start, copy.end, copy.graphId, "copy"});
  }
}

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  constexpr size_t kBytes = size_t{8} << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBytes));
  *size = kBytes;
  *max_records = 0;
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_size) {
  const std::lock_guard lock(Recorded().mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid_size, &record) == CUPTI_SUCCESS) Keep(*record);
  std::free(buffer);
}

void WriteCsv() {
  cuptiActivityFlushAll(1);
  const char* path = std::getenv("FIREQ_TIMELINE");
  std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "w");
  if (file == nullptr) return;
  std::fputs("start_ns,end_ns,graph,name\n", file);
  const std::lock_guard lock(Recorded().mutex);
  for (const Span& span : Recorded().spans)
    std::fprintf(file, "%llu,%llu,%u,%s\n", static_cast<unsigned long long>(span.start_ns),
                 static_cast<unsigned long long>(span.end_ns), span.graph, span.name.c_str());
  std::fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  std::atexit(WriteCsv);
  return 1;
}
