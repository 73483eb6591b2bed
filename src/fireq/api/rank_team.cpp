#include "fireq/api/rank_team.h"

#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "fireq/api/lm_head.h"
#include "fireq/api/wiring.h"
#include "fireq/base/queue.h"

namespace fireq {

// One rank: a thread that has everything of it, and a line of what it is told.
class RankTeam::Member {
 public:
  using Job = std::function<void(Member&)>;

  Member() : line_(kLine), thread_([this] { Run(); }) {}
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  ~Member() { line_.Close(); }

  // Behind what it has been told before. No rank gets far ahead of another: their sums meet.
  void Tell(Job job) {
    FIREQ_CHECK(line_.TryPush(std::move(job)), kInternal, "a rank that does not follow");
  }
  // The same; the future throws what the job throws.
  std::future<void> Do(Job job) {
    const auto done = std::make_shared<std::promise<void>>();
    Tell([done, job = std::move(job)](Member& member) {
      try {
        job(member);
        done->set_value();
      } catch (...) {
        done->set_exception(std::current_exception());
      }
    });
    return done->get_future();
  }

  Session& GetSession() {
    if (!session) session.emplace(*backend, model, session_options);
    return *session;
  }

  std::unique_ptr<Backend> backend;
  Model model;
  SessionOptions session_options;
  std::optional<Session> session;

 private:
  static constexpr size_t kLine = 1024;

  void Run() {
    while (line_.WaitForItem()) {
      std::optional<Job> job = line_.TryPop();
      if (!job) continue;
      try {
        (*job)(*this);
      } catch (...) {
        if (model.ranks != nullptr) model.ranks->Fail();  // the first finds out at its next sum
      }
    }
    session.reset();
    model = {};
    backend.reset();
  }

  BoundedQueue<Job> line_;
  std::jthread thread_;
};

RankTeam::RankTeam(const LoadOptions& options, const std::filesystem::path& path,
                   const SessionOptions& session, Backend& first) {
  std::vector<std::future<void>> loaded;
  for (int rank = 1; rank < options.tensor_parallel; ++rank) {
    Member& member = *members_.emplace_back(std::make_unique<Member>());
    loaded.push_back(member.Do([&, rank](Member& m) {
      const Share share{rank, options.tensor_parallel};
      m.backend = MakeRankBackend(options.runtime, share);
      m.model = LoadModel(*m.backend, path,
                          MakeHead(options.lm_head, path, options.runtime.num_threads), share);
      m.session_options = session;
    }));
  }
  for (std::future<void>& each : loaded) each.wait();  // the jobs refer to the arguments
  for (std::future<void>& each : loaded) each.get();
  std::vector<Backend*> backends = {&first};
  for (const std::unique_ptr<Member>& member : members_) backends.push_back(member->backend.get());
  ranks_ = Connect(options.runtime, backends);
  for (size_t i = 0; i < members_.size(); ++i) members_[i]->model.ranks = ranks_[i + 1];
}

RankTeam::~RankTeam() = default;

void RankTeam::Tell(const std::function<void(Backend&, const Model&)>& body) {
  for (const std::unique_ptr<Member>& member : members_)
    member->Tell([body](Member& m) { body(*m.backend, m.model); });
}

void RankTeam::Append(std::span<const int32_t> ids) {
  for (const std::unique_ptr<Member>& member : members_)
    member->Tell([own = std::vector<int32_t>(ids.begin(), ids.end())](Member& m) {
      m.GetSession().Append(own);
    });
}

void RankTeam::Truncate(int64_t length) {
  for (const std::unique_ptr<Member>& member : members_)
    member->Tell([length](Member& m) { m.GetSession().Truncate(length); });
}

}  // namespace fireq
