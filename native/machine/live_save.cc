#include "machine/live_save.h"

#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "devices/memory_map.h"
#include "machine/machine.h"

namespace ckptfs {
namespace {

/** A disk that does not answer for so long fails the checkpoint; the guest goes on waiting for it.
 */
constexpr auto kDrainTimeout = std::chrono::seconds(30);

/** How often a save that waits for a restore looks whether it is complete. */
constexpr auto kRestorePoll = std::chrono::milliseconds(1);

/** How often a save that waits for writes in flight looks whether it was cancelled. */
constexpr auto kSealPoll = std::chrono::milliseconds(50);

using Clock = std::chrono::steady_clock;

uint64_t microseconds(Clock::duration d) {
  return uint64_t(std::chrono::duration_cast<std::chrono::microseconds>(d).count());
}

}  // namespace

LiveSave::~LiveSave() {
  if (reads_) reads_->end();
}

CheckpointResult LiveSave::run(const std::function<void(uint64_t)>& resumed) {
  const auto begun = Clock::now();
  // A block that has not been loaded cannot be saved: the restore goes first.
  awaitRestore();
  try {
    prepare();
    pause();
  } catch (...) {
    for (const Switch& disk : switches_)
      if (disk.fresh) ::unlink(disk.fresh->path().c_str());
    throw;
  }
  resumed(result_.pauseUs);
  finish();
  result_.totalUs = microseconds(Clock::now() - begun);
  return result_;
}

void LiveSave::awaitRestore() const {
  if (!machine_.restorer_) return;
  for (;;) {
    const RestoreProgress progress = machine_.restorer_->progress();
    if (progress.done) return;
    if (!progress.error.empty()) throw Error(Code::damaged, progress.error);
    if (cancelled_) throw Error(Code::cancelled, "the checkpoint was cancelled");
    std::this_thread::sleep_for(kRestorePoll);
  }
}

void LiveSave::prepare() {
  for (const CheckpointRequest::Redo& redo : request_.redo) {
    auto chain = machine_.platform_.disk(redo.disk);
    auto fresh = chain->prepare(redo.path);
    switches_.push_back({std::move(chain), std::move(fresh)});
  }
  reads_ = std::make_shared<PendingReads>(machine_.config_.geometry, memory_map::kRamBase);
  saver_ =
      std::make_unique<Saver>(machine_.memory_, SaveOptions{.directory = request_.directory,
                                                            .codec = request_.codec == "lz4" ? format::Codec::lz4 : format::Codec::raw,
                                                            .vcpus = machine_.config_.cpus,
                                                            .late = reads_.get()});
  running_ = saver_.get();
  if (cancelled_) throw Error(Code::cancelled, "the checkpoint was cancelled");
}

/** Leaves no disk request in flight, or none that the pause cannot bear. */
void LiveSave::quietenDisks() {
  Platform& platform = machine_.platform_;
  platform.hold();
  const auto prepare = [this] {
    return reads_->prepare(
        [this](BlockId block, const std::byte* raw) { saver_->late(block, raw); });
  };
  if (request_.inFlight) platform.keepInFlight(kDrainTimeout, reads_->watcher());
  if (request_.inFlight && prepare()) return;
  platform.waitDrained(kDrainTimeout);
}

void LiveSave::pause() {
  struct ReleaseDevices {
    Platform& platform;
    ~ReleaseDevices() { platform.release(); }
  } devices{machine_.platform_};
  quietenDisks();

  const auto stopping = Clock::now();
  machine_.quiesce();
  struct Unquiesce {
    Machine& machine;
    ~Unquiesce() { machine.unquiesce(); }
  };
  Clock::time_point stopped, armed, copied, switched;
  {
    const Unquiesce guest{machine_};
    if (!machine_.alive()) throw Error(Code::usage, "the guest ended before it could be saved");
    stopped = Clock::now();
    machine_.platform_.stop();
    saver_->arm();
    if (machine_.memory_.softTraced()) machine_.vcpus_->flushTranslations();
    armed = Clock::now();
    {
      std::lock_guard quiet(machine_.inputMutex_);
      frozen_ = {machine_.clock_.now(), machine_.vcpus_->freeze(), machine_.platform_.freeze()};
    }
    if (request_.oracle) {
      const std::byte* ram = machine_.memory_.hostView();
      machine_.oracle_.assign(ram, ram + machine_.memory_.bytes());
    }
    copied = Clock::now();
    for (Switch& disk : switches_) disk.chain->push(std::move(disk.fresh));
    switched = Clock::now();
  }
  const auto resumed = Clock::now();
  result_.pauseUs = microseconds(resumed - stopping);
  result_.phasesUs = {microseconds(stopped - stopping), microseconds(armed - stopped),
                      microseconds(copied - armed), microseconds(switched - copied)};
}

void LiveSave::finish() {
  saver_->start();
  try {
    for (const Switch& disk : switches_) seal(*disk.chain);
    result_.disks = frozenDisks();
    result_.deviceState = frozen_.toJson();
  } catch (...) {
    saver_->cancel();
    reads_->abandon();
    try {
      saver_->wait();
    } catch (const Error&) {  // the first failure is the one to tell
    }
    throw;
  }
  const SaveResult saved = saver_->wait();
  result_.memoryBytes = machine_.memory_.bytes();
  result_.storedBytes = saved.storedBytes;
  result_.blocks = {saved.vcpu, saved.background, saved.zero, 0};
  result_.faults = saved.faults;
  result_.guestTicks = frozen_.ticks;
}

void LiveSave::seal(Chain& chain) const {
  while (!chain.waitFrozen(kSealPoll))
    if (cancelled_) throw Error(Code::cancelled, "the checkpoint was cancelled");
  chain.sealFrozen();
}

std::vector<DiskConfig> LiveSave::frozenDisks() const {
  std::vector<DiskConfig> disks;
  for (const Platform::Attached& attached : machine_.platform_.disks()) {
    DiskConfig disk;
    disk.id = attached.id;
    disk.parent = attached.chain->parentPath();
    disk.parentIdentity = attached.chain->parentIdentity();
    for (const auto& layer : attached.chain->layers())
      if (layer.sealed) disk.redo.push_back({layer.path, layer.bytes});
    disk.access = attached.chain->readOnly() ? "readonly" : "redo";
    disks.push_back(std::move(disk));
  }
  return disks;
}

std::string LiveSave::FrozenMachine::toJson() const {
  Json components = Json::object();
  for (const auto& [name, state] : devices) components[name] = state->toJson();
  const Json json{{"format", kDeviceStateFormat},
                  {"clock", toHex(ticks)},
                  {"vcpus", vcpus->toJson()},
                  {"devices", components}};
  return json.dump(2) + "\n";
}

void LiveSave::cancel() {
  cancelled_ = true;
  if (Saver* saver = running_) {
    saver->cancel();
    reads_->abandon();
  }
}

Json LiveSave::progress() const {
  const Saver* saver = running_;
  if (!saver) return {};
  const auto p = saver->progress();
  return {{"blocksTotal", p.blocksTotal},
          {"blocksSaved", p.blocksSaved},
          {"storedBytes", p.storedBytes}};
}

}  // namespace ckptfs
