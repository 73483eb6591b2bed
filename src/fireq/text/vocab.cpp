#include "fireq/text/vocab.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fireq::text {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

uint64_t HashBytes(std::string_view bytes) {
  constexpr uint64_t kA = 0x9E3779B97F4A7C15u;
  constexpr uint64_t kB = 0xD6E8FEB86659FD93u;
  uint64_t hash = Mix(kA ^ bytes.size(), kB);
  const char* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word = 0;
    std::memcpy(&word, p, 8);
    hash = Mix(hash ^ word, kA);
  }
  uint64_t word = 0;
  std::memcpy(&word, p, left);
  return Mix(hash ^ word, kB);
}

void Vocab::Reserve(size_t num_tokens) {
  spans_.reserve(num_tokens);
  texts_.reserve(num_tokens * 8);
  const size_t wanted = std::bit_ceil(std::max<size_t>(16, 2 * num_tokens));
  if (wanted > slots_.size()) Grow(wanted);
}

void Vocab::Grow(size_t num_slots) {
  std::vector<Slot> old(num_slots);
  old.swap(slots_);
  const size_t mask = num_slots - 1;
  for (const Slot& slot : old) {
    if (slot.id == kNoToken) continue;
    size_t at = HashBytes(TextOf(slot.id)) & mask;
    while (slots_[at].id != kNoToken) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

bool Vocab::Add(std::string_view text, int32_t id) {
  if (Has(id)) return false;
  if (2 * (num_tokens_ + 1) > slots_.size()) Grow(std::max<size_t>(16, 2 * slots_.size()));
  const uint64_t hash = HashBytes(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  for (; slots_[at].id != kNoToken; at = (at + 1) & mask) {
    if (Holds(slots_[at], tag, text)) return false;
  }
  slots_[at] = {tag, id, static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(text.size())};
  if (id >= end_id()) spans_.resize(static_cast<size_t>(id) + 1);
  spans_[static_cast<size_t>(id)] = {texts_.size(), static_cast<int32_t>(text.size())};
  texts_.append(text);
  ++num_tokens_;
  return true;
}

int32_t Vocab::Find(std::string_view text) const {
  if (slots_.empty()) return kNoToken;
  const uint64_t hash = HashBytes(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask; slots_[at].id != kNoToken; at = (at + 1) & mask) {
    if (Holds(slots_[at], tag, text)) return slots_[at].id;
  }
  return kNoToken;
}

std::string_view Vocab::TextOf(int32_t id) const {
  if (!Has(id)) return {};
  const TextSpan& span = spans_[static_cast<size_t>(id)];
  return std::string_view(texts_).substr(span.offset, static_cast<size_t>(span.size));
}

}  // namespace fireq::text
