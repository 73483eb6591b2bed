// Who may queue work on a device: one party at a time, behind what the one before has queued.
#pragma once

#include <mutex>

namespace fireq::sm90 {

// For as long as it lives nobody else has one.
using HeldTurn = std::unique_lock<std::recursive_mutex>;

// What a party queues in its turns runs as if all parties had one queue. Of a Party:
//   void Follow(const Party& before);  // what it queues from now on runs behind what `before` has
//   void Finish() noexcept;            // waits until what it has queued has run
template <class Party>
class Turns {
 public:
  // Waits for another thread's turn. No more than a lock if `party` had the last turn, too. Inside
  // a turn its thread may take others of the same party. Throws what Follow throws, and nobody has
  // a turn then.
  [[nodiscard]] HeldTurn Take(Party& party) {
    HeldTurn turn(mutex_);
    if (last_ != nullptr && last_ != &party) party.Follow(*last_);
    last_ = &party;
    return turn;
  }
  // `party` takes no more turns and may go away.
  void Leave(Party& party) noexcept {
    const HeldTurn turn(mutex_);
    if (last_ != &party) return;  // who came after it runs behind it already
    party.Finish();
    last_ = nullptr;
  }

 private:
  std::recursive_mutex mutex_;
  Party* last_ = nullptr;  // who had the last turn
};

}  // namespace fireq::sm90
