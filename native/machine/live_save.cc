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

/** How long the guest is watched before the pause for the blocks that it uses. */
constexpr auto kAccessWindow = std::chrono::milliseconds(20);

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
  openBase();
  // A full save needs every block; an incremental one refers to those that are not loaded yet.
  if (!base_) awaitRestore();
  try {
    prepare();
    pause();
  } catch (...) {
    for (const Switch& disk : switches_)
      if (disk.fresh) ::unlink(disk.fresh->path().c_str());
    throw;
  }
  const auto image = std::make_shared<SavedMemory>(saver_, machine_.memory_.bytes());
  earlier_ = machine_.exchangeSavedMemory(image);
  resumed(result_.pauseUs);
  try {
    save();
    image->complete(request_.directory);
  } catch (const Error& error) {
    image->fail(error);
    if (suspended_) machine_.resume();
    throw;
  }
  machine_.setTracked(request_.id);
  result_.totalUs = microseconds(Clock::now() - begun);
  return result_;
}

void LiveSave::openBase() {
  if (request_.base && machine_.tracked() == request_.base->id)
    base_ = std::make_shared<const MemoryImage>(request_.base->directory);
}

void LiveSave::refuseCancelled() const {
  if (cancelled_) throw Error(Code::cancelled, "the checkpoint was cancelled");
}

/** Waits for the other VMs, if there are any. */
void LiveSave::reach(SaveStep step) const {
  if (rendezvous_) rendezvous_->reach(step);
}

void LiveSave::awaitRestore() const {
  if (!machine_.restorer_) return;
  for (;;) {
    const RestoreProgress progress = machine_.restorer_->progress();
    if (progress.done) return;
    if (!progress.error.empty()) throw Error(Code::damaged, progress.error);
    refuseCancelled();
    std::this_thread::sleep_for(kRestorePoll);
  }
}

void LiveSave::prepare() {
  GuestMemory& memory = machine_.memory_;
  // What vCPUs use from here on is what they are likely to use in the save (requirement B4).
  std::vector<uint8_t> accessed(memory.blockCount());
  memory.harvestAccessed(accessed);
  machine_.vcpus_->flushTranslations();
  const auto watching = Clock::now();
  for (const CheckpointRequest::Redo& redo : request_.redo) {
    auto chain = machine_.platform_.disk(redo.disk);
    auto fresh = chain->prepare(redo.path);
    switches_.push_back({std::move(chain), std::move(fresh)});
  }
  std::this_thread::sleep_until(watching + kAccessWindow);
  std::fill(accessed.begin(), accessed.end(), 0);
  memory.harvestAccessed(accessed);
  reads_ = std::make_shared<PendingReads>(memory.geometry(), memory_map::kRamBase);
  const SaveOptions options{
      .directory = request_.directory,
      .codec = request_.codec,
      .vcpus = machine_.config_.cpus,
      .accessed = std::move(accessed),
      .suspend = request_.suspend,
      .base = base_,
      .limitBytesPerSecond = request_.limitBytesPerSecond,
      .guestIoBusy = [&platform = machine_.platform_] { return platform.busy(); },
      .late = reads_.get()};
  // A reader of SavedMemory may hold the saver for longer than this object lives.
  saver_ = {new Saver(memory, options), [reads = reads_](Saver* saver) { delete saver; }};
  running_ = saver_.get();
  refuseCancelled();
  reach(SaveStep::prepared);
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
  reach(SaveStep::quiet);

  const auto stopping = Clock::now();
  machine_.quiesce();
  struct Unquiesce {
    Machine& machine;
    bool keep = false;
    ~Unquiesce() {
      if (!keep) machine.unquiesce();
    }
  };
  Clock::time_point stopped, begun, armed, copied, switched, done;
  {
    Unquiesce guest{machine_};
    if (!machine_.alive()) throw Error(Code::usage, "the guest ended before it could be saved");
    stopped = Clock::now();
    reach(SaveStep::held);
    begun = Clock::now();
    machine_.platform_.stop();
    saver_->arm();
    if (machine_.memory_.softTraced()) machine_.vcpus_->flushTranslations();
    armed = Clock::now();
    {
      std::lock_guard quiet(machine_.inputMutex_);
      frozen_ = {machine_.clock_.now(), machine_.vcpus_->freeze(), machine_.platform_.freeze()};
    }
    copied = Clock::now();
    for (Switch& disk : switches_) disk.chain->push(std::move(disk.fresh));
    switched = Clock::now();
    if (request_.oracle) machine_.takeOracle();
    done = Clock::now();
    reach(SaveStep::cut);
    if (request_.suspend) guest.keep = suspended_ = machine_.suspend();
  }
  const auto resumed = Clock::now();
  result_.pauseUs = microseconds(resumed - stopping);
  result_.phasesUs = {microseconds(stopped - stopping), microseconds(armed - begun),
                      microseconds(copied - armed), microseconds(switched - copied),
                      microseconds((begun - stopped) + (resumed - done))};
}

void LiveSave::save() {
  saver_->start();
  // Not before: when its checkpoint was removed, the last close of its files frees their blocks.
  earlier_.reset();
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
  result_.blocks = {saved.vcpu, saved.background, saved.zero, saved.parent, saved.duplicate};
  result_.faults = saved.faults;
  result_.guestTicks = frozen_.ticks;
  result_.incremental = base_ != nullptr;
  result_.segments = saved.segments;
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
    disk.committed = attached.chain->committed();
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
  if (rendezvous_) rendezvous_->cancel();
  if (Saver* saver = running_) {
    saver->cancel();
    reads_->abandon();
  }
}

void LiveSave::proceed(SaveStep step) {
  if (!rendezvous_) throw Error(Code::usage, "the checkpoint waits for no other VM");
  rendezvous_->proceed(step);
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
