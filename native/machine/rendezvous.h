// Where the save of one VM waits for those of others, so that all are of one moment (requirement
// D1).
//
// The save stops at each step, tells that it is there, and goes on when it is let:
//
//   prepared   redo logs, segments and buffers are made, memory is armed ahead; the guest runs
//   quiet      its disks take no new requests; the guest runs
//   held       the guest stands still; nothing has been taken yet
//   cut        all of the pause's work is done; the guest still stands still
//
// No guest waits for ever: from `quiet` on the save fails after a limit that is given, before it
// after a longer one, and the guest goes on as after any failed save.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

namespace ckptfs {

enum class SaveStep : uint8_t { prepared, quiet, held, cut };

/** As JavaScript names it. */
const char* stepName(SaveStep step) noexcept;
/** Throws Error(usage). */
SaveStep parseStep(const std::string& name);

class Rendezvous {
 public:
  /** `reached` is called on the thread of the save. */
  Rendezvous(std::chrono::milliseconds holdLimit, std::function<void(SaveStep)> reached);

  /** By the save: tells, and waits. Throws Error: cancelled, or busy when the time is over. */
  void reach(SaveStep step);
  /** Lets a save that waits at `step` go on. Throws Error(usage) if it does not. */
  void proceed(SaveStep step);
  /** Nobody waits any more. */
  void cancel();

 private:
  using Clock = std::chrono::steady_clock;

  const std::chrono::milliseconds holdLimit_;
  const std::function<void(SaveStep)> reached_;
  Clock::time_point holdEnd_{};  // used by the save's thread alone
  std::mutex mutex_;             // guards what is below
  std::condition_variable changed_;
  std::optional<SaveStep> waiting_;
  bool cancelled_ = false;
};

}  // namespace ckptfs
