// The largest outputs over ranks, all of which are streams of one GPU here: their kernels are small
// enough to run side by side.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/pinned_buffer.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq::sm90 {
namespace {

constexpr int kTops = 33;        // candidates of a rank and row
constexpr int32_t kWidth = 500;  // ids of a rank

// What a candidate is worth, as sample_logits/logit_rank.cuh has it: larger for a larger logit,
// then for a lower id; 0 of NaN.
uint64_t RankOf(float logit, int32_t id) {
  if (std::isnan(logit)) return 0;
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  const uint32_t key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{key} << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(id));
}

// Ranks with their boxes and candidates.
class PeerRanks {
 public:
  PeerRanks(int ranks, int rows)
      : layout_(MakePeerBoxLayout(ranks)), rows_(rows), streams_(static_cast<size_t>(ranks)) {
    *static_cast<uint32_t*>(stop_.data()) = 0;
    for (int r = 0; r < ranks; ++r) {
      boxes_.emplace_back(layout_.size_bytes()).FillBytes(kEmptyBoxByte);
      calls_.emplace_back(kPeerSumCtas).FillBytes(0);
      tops_.emplace_back(int64_t{rows} * kTops);
      largest_.emplace_back(rows);
    }
  }

  // While no kernel runs.
  void SetTops(int rank, const std::vector<uint64_t>& tops) {
    tops_[static_cast<size_t>(rank)].CopyFrom(tops.data(), static_cast<int64_t>(tops.size()));
    largest_[static_cast<size_t>(rank)].FillBytes(0x55);
  }
  void Launch(int rank) {
    const auto r = static_cast<size_t>(rank);
    PeerLargestParams params;
    params.end.layout = layout_;
    for (size_t i = 0; i < boxes_.size(); ++i) params.end.boxes[i] = boxes_[i].data();
    params.end.calls = calls_[r].data();
    params.end.stop = static_cast<const uint32_t*>(stop_.data());
    params.end.rank = rank;
    params.tops = tops_[r].data();
    params.num_tops = kTops;
    params.rows = rows_;
    params.first = rank * kWidth;
    params.largest = largest_[r].data();
    LaunchPeerLargest(params, streams_[r].get());
  }
  bool HasEnded(int rank) const {
    const cudaError_t status = cudaStreamQuery(streams_[static_cast<size_t>(rank)].get());
    if (status != cudaErrorNotReady) FIREQ_CUDA(status);
    return status == cudaSuccess;
  }
  // A kernel that does not end would keep the program from ending, too.
  void ExpectEnded(int rank) const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!HasEnded(rank)) {
      if (std::chrono::steady_clock::now() < deadline) continue;
      std::printf("rank %d is left waiting\n", rank);
      std::fflush(stdout);
      std::_Exit(1);
    }
  }
  void Stop() { *static_cast<volatile uint32_t*>(stop_.data()) = 1; }
  std::vector<int32_t> Largest(int rank) const {
    return largest_[static_cast<size_t>(rank)].ToHost();
  }
  void ExpectEmptyBoxes() const {
    for (const DeviceBuffer<uint8_t>& box : boxes_)
      EXPECT_EQ(std::ranges::count(box.ToHost(), kEmptyBoxByte), box.count());
  }

 private:
  PeerBoxLayout layout_;
  int rows_;
  std::vector<Stream> streams_;
  std::vector<DeviceBuffer<uint8_t>> boxes_;
  std::vector<DeviceBuffer<uint32_t>> calls_;
  std::vector<DeviceBuffer<uint64_t>> tops_;
  std::vector<DeviceBuffer<int32_t>> largest_;
  PinnedBuffer stop_{sizeof(uint32_t)};
};

// Few logits, so that ranks tie everywhere; both zeros are one, and infinities are numbers.
constexpr float kLogits[] = {-INFINITY, -1.0f, -0.0f, 0.0f, 1.0f, INFINITY};

// A row's candidates on rank `rank`: in some rows every rank has none, in some the last one alone
// has any, in some all logits are the same, from id 0 of every rank on.
std::vector<uint64_t> RandomTops(int row, int rank, int ranks, std::mt19937& rng) {
  std::vector<uint64_t> tops(kTops);
  const int kind = row % 8;
  if (kind == 0 || (kind == 1 && rank < ranks - 1)) return tops;
  const auto most = static_cast<uint32_t>(1 + row / 8 % std::size(kLogits));
  for (int i = 0; i < kTops; ++i) {
    const float logit = kind == 2 ? kLogits[most - 1] : kLogits[rng() % most];
    const int32_t id = kind == 2 || kind == 3 ? i : static_cast<int32_t>(rng() % kWidth);
    if (kind == 2 || rng() % 3 != 0) tops[static_cast<size_t>(i)] = RankOf(logit, id);
  }
  std::shuffle(tops.begin(), tops.end(), rng);
  return tops;
}

TEST(PeerLargest, IsTheFirstOfTheLargestOfAllRanks) {
  FIREQ_NEEDS_HOPPER();
  std::mt19937 rng(std::random_device{}());
  for (const int ranks : {2, 3, 4, kMaxPeerRanks}) {
    for (const int rows : {1, 64, 300}) {  // 300: a CTA has several
      PeerRanks peers(ranks, rows);
      for (int call = 0; call < 5; ++call) {
        std::vector<int32_t> want(static_cast<size_t>(rows), -1);
        std::vector<uint64_t> best(static_cast<size_t>(rows));
        for (int r = 0; r < ranks; ++r) {
          std::vector<uint64_t> all;
          for (int row = 0; row < rows; ++row) {
            for (const uint64_t top : RandomTops(row + call, r, ranks, rng)) {
              all.push_back(top);
              const uint64_t among_all = top == 0 ? 0 : top - static_cast<uint64_t>(r * kWidth);
              uint64_t& largest = best[static_cast<size_t>(row)];
              if (among_all <= largest) continue;
              largest = among_all;
              want[static_cast<size_t>(row)] = static_cast<int32_t>(
                  0xFFFFFFFFu - static_cast<uint32_t>(among_all & 0xFFFFFFFFu));
            }
          }
          peers.SetTops(r, all);
        }
        for (int r = 0; r < ranks; ++r) peers.Launch((r + call) % ranks);
        for (int r = 0; r < ranks; ++r) peers.ExpectEnded(r);
        for (int r = 0; r < ranks; ++r)
          EXPECT_EQ(peers.Largest(r), want) << "rank " << r << " of " << ranks << ", call " << call;
      }
      peers.ExpectEmptyBoxes();
    }
  }
}

// Whoever waits for the failed rank ends once it is known to have failed, and not before; and so
// does a call behind that.
TEST(PeerLargest, ARankThatFailsDoesNotLeaveTheOthersWaiting) {
  FIREQ_NEEDS_HOPPER();
  for (const int ranks : {2, 4}) {
    PeerRanks peers(ranks, 200);
    const std::vector<uint64_t> tops(200 * kTops, RankOf(1.0f, 7));
    for (int r = 0; r < ranks; ++r) peers.SetTops(r, tops);
    for (int r = 0; r < ranks; ++r) peers.Launch(r);
    for (int r = 0; r < ranks; ++r) peers.ExpectEnded(r);
    for (int r = 1; r < ranks; ++r) peers.Launch(r);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    for (int r = 1; r < ranks; ++r) EXPECT_FALSE(peers.HasEnded(r)) << r << " of " << ranks;
    peers.Stop();
    for (int r = 1; r < ranks; ++r) peers.ExpectEnded(r);
    for (int r = 1; r < ranks; ++r) peers.Launch(r);
    for (int r = 1; r < ranks; ++r) peers.ExpectEnded(r);
  }
}

}  // namespace
}  // namespace fireq::sm90
