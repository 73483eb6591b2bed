// The ranks of a model beside the first: each has a share of it and a thread of its own, and does
// what the first is told to do.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "fireq/api/fireq.h"
#include "fireq/engine/session.h"

namespace fireq {

class RankTeam final : public SessionFollowers {
 public:
  // Loads shares 1 .. of `options.tensor_parallel` beside the caller, who has the first of them on
  // `first`, and connects them. Sessions of theirs are made with `session`. Throws what loading and
  // connecting throws.
  RankTeam(const LoadOptions& options, const std::filesystem::path& path,
           const SessionOptions& session, Backend& first);
  // What they have been told is done or has failed.
  ~RankTeam() override;

  // The first rank's end.
  std::shared_ptr<Ranks> first() const { return ranks_.front(); }

  // body(backend, model) on every rank but the first, behind what they were told before.
  void Tell(const std::function<void(Backend&, const Model&)>& body);

  void Append(std::span<const int32_t> ids) override;
  void Truncate(int64_t length) override;
  void Fail() override { ranks_.front()->Fail(); }

 private:
  class Member;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::shared_ptr<Ranks>> ranks_;
};

}  // namespace fireq
