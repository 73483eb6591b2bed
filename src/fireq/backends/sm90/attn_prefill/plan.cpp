#include "fireq/backends/sm90/attn_prefill/plan.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>
#include <utility>

#include "fireq/backends/sm90/attn_prefill/tile.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"
#include "fireq/formats/kv_page.h"

namespace fireq::sm90 {

int64_t PrefillKeyPages(const AttnPrefillItem& item, int64_t group) {
  const int64_t keys = item.prefix + (item.first_row + kPrefillRows - 1) / group + 1;
  return std::max<int64_t>(0, CeilDiv<int64_t>(keys, kTokensPerPage));
}

namespace {

int64_t TileBytes(int64_t head_dim) {
  return head_dim == 128 ? sizeof(PrefillTile<128>) : sizeof(PrefillTile<64>);
}

// Of so many tiles and KV heads.
int64_t ProgressBytes(int64_t tiles) { return (kPrefillReady + tiles) * int64_t{sizeof(uint32_t)}; }

// Tiles of a plan with them, at most. A sequence of q tokens and t tiles has (q group - 1) / rows +
// 1 items at most, each of which visits t tiles at most. So that visits are v times the tiles, the
// sum of t q group is at least (v - 1) rows + 1 times that of t; and it is at most the largest t
// times all tokens.
int64_t MaxTiles(const PrefillLimits& limits, const PrefillUnpackPolicy& policy) {
  const int64_t of_sequence = CeilDiv<int64_t>(limits.max_context, kPrefillKeys);
  const double rows = std::max(1.0, (policy.min_visits - 1.0) * kPrefillRows + 1.0);
  const auto visited = static_cast<double>(limits.num_heads / limits.kv_heads * limits.max_tokens);
  const auto tiles = static_cast<int64_t>(static_cast<double>(of_sequence) * visited / rows);
  return std::min({tiles, of_sequence * limits.max_sequences,
                   policy.workspace_limit / (limits.kv_heads * TileBytes(limits.head_dim))});
}

// Gives the plan a workspace where that is worth it: `items` are there, in the order of the
// sequences.
void AddWorkspace(std::span<const int32_t> context_len, int64_t group, int64_t kv_heads,
                  const PrefillUnpackPolicy& policy, AttnPrefillPlan& plan) {
  int64_t visits = 0;
  int64_t tiles = 0;
  for (AttnPrefillItem& item : plan.items) {
    const int32_t context = context_len[item.sequence];
    if (item.first_row <= 0) {
      item.first_tile = static_cast<int32_t>(tiles);
      tiles += CeilDiv<int64_t>(context, kPrefillKeys);
    } else {
      item.first_tile = (&item - 1)->first_tile;
    }
    visits += CeilDiv<int64_t>(PrefillKeyPages(item, group), kPrefillPages);
  }
  const int64_t bytes = tiles * kv_heads * TileBytes(plan.head_dim);
  if (bytes > policy.workspace_limit ||
      static_cast<double>(visits) < policy.min_visits * static_cast<double>(tiles))
    return;
  plan.progress_bytes = ProgressBytes(tiles * kv_heads);
  plan.workspace_bytes = bytes;
}

// A piece of work: an item and KV head, and how long it takes.
struct Piece {
  int32_t number;
  int32_t cost;
};

// Deals pieces to CTAs, the longest first, each to whoever has least so far, until each has one and
// `limit` of their cost is dealt.
class Dealer {
 public:
  Dealer(int ctas, int64_t limit) : of_cta_(static_cast<size_t>(ctas)), limit_(limit) {
    for (int cta = 0; cta < ctas; ++cta) free_.emplace(0, cta);
  }

  void Deal(std::vector<Piece>& pieces) {
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.cost > b.cost; });
    for (const Piece& piece : pieces) {
      if (limit_ <= 0 && free_.top().first > 0) {
        undealt_.push_back(piece.number);
        continue;
      }
      limit_ -= piece.cost;
      const auto [load, cta] = free_.top();
      free_.pop();
      of_cta_[static_cast<size_t>(cta)].push_back(piece.number);
      free_.emplace(load + piece.cost, cta);
    }
    pieces.clear();
  }

  // As AttnPrefillPlan::pieces.
  std::vector<int32_t> Pieces() const {
    std::vector<int32_t> pieces;
    auto begin = static_cast<int32_t>(of_cta_.size()) + 1;
    for (const auto& numbers : of_cta_) {
      pieces.push_back(begin);
      begin += static_cast<int32_t>(numbers.size());
    }
    pieces.push_back(begin);
    for (const auto& numbers : of_cta_) pieces.insert(pieces.end(), numbers.begin(), numbers.end());
    pieces.insert(pieces.end(), undealt_.begin(), undealt_.end());
    return pieces;
  }
  int32_t Undealt() const { return static_cast<int32_t>(undealt_.size()); }

 private:
  using Load = std::pair<int64_t, int>;
  std::vector<std::vector<int32_t>> of_cta_;
  std::vector<int32_t> undealt_;
  int64_t limit_;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> free_;
};

// Sequences and heads are dealt in batches of so many bytes of keys, which the L2 holds, and tiles
// are unpacked so many bytes before they are wanted, not much earlier, so that it still has them.
constexpr int64_t kBatchBytes = int64_t{12} << 20;
constexpr int64_t kLeadBytes = int64_t{18} << 20;

// Puts the tiles of a batch, from number `first` of the plan's on, in the order in which pieces
// want them: the first of all sequences and heads before the second of any.
void OrderTiles(size_t first, AttnPrefillPlan& plan) {
  // Of the batch all tiles, whichever head's come first.
  const int64_t lead =
      static_cast<int64_t>(plan.tiles.size() - first) + kLeadBytes / TileBytes(plan.head_dim);
  plan.lead = std::max(plan.lead, static_cast<int32_t>(lead));
  std::stable_sort(plan.tiles.begin() + static_cast<std::ptrdiff_t>(first), plan.tiles.end(),
                   [](const AttnPrefillTile& a, const AttnPrefillTile& b) {
                     return a.first_token < b.first_token;
                   });
}

// Sequences and heads in batches whose keys the L2 holds: the CTAs of a moment then read the same
// tiles, and those come out of device memory once.
void DealPieces(std::span<const int32_t> context_len, int64_t group, int64_t kv_heads,
                AttnPrefillPlan& plan) {
  constexpr int32_t kTileCost = 4;
  constexpr double kDealt = 0.93;  // of all work; measured: NOTES.md, "Pieces that nobody is dealt"
  // Besides its tiles; measured: NOTES.md, "Ready tiles".
  const bool unpacked_once = plan.workspace_bytes > 0;
  const int32_t piece_cost = unpacked_once ? 5 : 8;
  const auto cost = [&](const AttnPrefillItem& item) {
    const int64_t tiles = CeilDiv<int64_t>(PrefillKeyPages(item, group), kPrefillPages);
    return kTileCost * static_cast<int32_t>(tiles) + piece_cost;
  };
  int64_t total = 0;
  for (const AttnPrefillItem& item : plan.items) total += kv_heads * cost(item);
  // Unpackers that hand pieces on, as they do where Q is no box, do not take any.
  const bool all = unpacked_once && kPrefillRows % group != 0;
  Dealer dealer(plan.ctas, all ? total : static_cast<int64_t>(kDealt * static_cast<double>(total)));
  std::vector<Piece> batch;
  size_t batch_tiles = 0;  // the number of its first
  int64_t bytes = 0;
  for (size_t begin = 0, end = 0; begin < plan.items.size(); begin = end) {
    const int32_t sequence = plan.items[begin].sequence;
    while (end < plan.items.size() && plan.items[end].sequence == sequence) ++end;
    const int64_t context = context_len[static_cast<size_t>(sequence)];
    const int64_t context_tiles = CeilDiv<int64_t>(context, kPrefillKeys);
    for (int64_t head = 0; head < kv_heads; ++head) {
      for (size_t i = begin; i < end; ++i) {
        batch.push_back(
            {static_cast<int32_t>(static_cast<int64_t>(i) * kv_heads + head), cost(plan.items[i])});
      }
      for (int64_t tile = 0; tile < context_tiles && unpacked_once; ++tile) {
        const int64_t number = (plan.items[begin].first_tile + tile) * kv_heads + head;
        plan.tiles.push_back({sequence, static_cast<int32_t>(tile) * kPrefillKeys,
                              static_cast<int32_t>(context), static_cast<int32_t>(number)});
      }
      bytes += context_tiles * TileBytes(plan.head_dim);
      if (bytes < kBatchBytes) continue;
      dealer.Deal(batch);
      OrderTiles(batch_tiles, plan);
      batch_tiles = plan.tiles.size();
      bytes = 0;
    }
  }
  dealer.Deal(batch);
  OrderTiles(batch_tiles, plan);
  plan.pieces = dealer.Pieces();
  plan.undealt = dealer.Undealt();
}

}  // namespace

PrefillMemory MaxPrefillMemory(const PrefillLimits& limits, const PrefillUnpackPolicy& policy) {
  // Every sequence may have an item that it does not fill.
  const int64_t group = limits.num_heads / limits.kv_heads;
  const int64_t items = limits.max_tokens * group / kPrefillRows + limits.max_sequences;
  const int64_t tiles = MaxTiles(limits, policy);
  const auto bytes = [](int64_t count, size_t size) { return count * static_cast<int64_t>(size); };
  return {tiles * limits.kv_heads * TileBytes(limits.head_dim),
          ProgressBytes(tiles * limits.kv_heads),
          bytes(items, sizeof(AttnPrefillItem)) +
              bytes(tiles * limits.kv_heads, sizeof(AttnPrefillTile)) +
              bytes(items * limits.kv_heads + limits.num_sms + 1, sizeof(int32_t))};
}

AttnPrefillPlan MakeAttnPrefillPlan(std::span<const int32_t> query_len,
                                    std::span<const int32_t> context_len, int64_t num_heads,
                                    int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                                    const PrefillUnpackPolicy& policy) {
  FIREQ_CHECK(head_dim == 64 || head_dim == 128, kUnsupported, "prefill attention: head_dim ",
              head_dim, " is neither 64 nor 128");
  FIREQ_CHECK(kv_heads > 0 && num_heads % kv_heads == 0, kShapeMismatch,
              "prefill attention: ", num_heads, " heads over ", kv_heads, " KV heads");
  FIREQ_CHECK(query_len.size() == context_len.size() && num_sms > 0, kShapeMismatch,
              "prefill attention: ", query_len.size(), " query and ", context_len.size(),
              " context lengths, SMs ", num_sms);
  AttnPrefillPlan plan;
  plan.head_dim = static_cast<int>(head_dim);
  plan.progress_bytes = ProgressBytes(0);
  const int64_t group = num_heads / kv_heads;
  int32_t first_token = 0;
  for (size_t s = 0; s < query_len.size(); ++s) {
    const int64_t rows = query_len[s] * group;
    const int64_t before = CeilDiv<int64_t>(rows, kPrefillRows) * kPrefillRows - rows;
    for (int64_t row = -before; row < rows; row += kPrefillRows) {
      plan.items.push_back({static_cast<int32_t>(s), static_cast<int32_t>(row), first_token,
                            query_len[s], context_len[s] - query_len[s]});
    }
    first_token += query_len[s];
  }
  AddWorkspace(context_len, group, kv_heads, policy, plan);
  plan.ctas = static_cast<int>(
      std::min<int64_t>(num_sms, static_cast<int64_t>(plan.items.size()) * kv_heads));
  DealPieces(context_len, group, kv_heads, plan);
  return plan;
}

}  // namespace fireq::sm90
