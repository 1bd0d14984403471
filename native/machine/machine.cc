#include "machine/machine.h"

#include <nlohmann/json.hpp>

#include "base/thread_name.h"
#include "cpu/rv64/cpus.h"
#include "devices/memory_map.h"
#include "devices/state_fields.h"
#include "disk/file.h"
#include "machine/live_save.h"

namespace ckptfs {

using memory_map::kRamBase;

namespace {

uint64_t nowNs() noexcept {
  return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
}

const char* stateName(Machine::State state) {
  switch (state) {
    case Machine::State::created:
      return "created";
    case Machine::State::running:
      return "running";
    case Machine::State::paused:
      return "paused";
    case Machine::State::failed:
      return "failed";
    case Machine::State::ended:
      return "ended";
  }
  return "failed";
}

}  // namespace

Machine::Machine(const MachineConfig& config, Events events)
    : config_(config),
      events_(std::move(events)),
      memory_(config.memoryBytes, config.geometry, config.trace),
      vcpus_(makeRv64(memory_, kRamBase, config.cpus, *this)),
      platform_(
          config, memory_, kRamBase,
          [this](unsigned vcpu, bool level) { vcpus_->setExternalInterrupt(vcpu, level); },
          events_.console),
      gate_(config.cpus),
      timers_(clock_, config.cpus, [this](unsigned vcpu) { vcpus_->timerExpired(vcpu); }) {
  memory_.track(true);
  memory_.onFailure([this] { onMemoryFailure(); });
}

Machine::~Machine() {
  close();
}

std::span<std::byte> Machine::ram(uint64_t address, uint64_t length) {
  if (address < kRamBase || address - kRamBase > memory_.bytes() ||
      length > memory_.bytes() - (address - kRamBase))
    throw Error(Code::usage, "the guest's RAM does not reach that far");
  return {memory_.hostView() + (address - kRamBase), length};
}

void Machine::load(uint64_t address, std::span<const std::byte> bytes) {
  std::copy(bytes.begin(), bytes.end(), ram(address, bytes.size()).begin());
}

void Machine::loadFile(const std::string& path, uint64_t fileOffset, uint64_t length,
                       uint64_t address) {
  File("boot image", path, File::Access::read).read(fileOffset, ram(address, length));
}

void Machine::boot(uint64_t entry, uint64_t deviceTree) {
  vcpus_->reset(entry, deviceTree);
}

void Machine::restore(const RestoreRequest& request, std::shared_ptr<const MemoryImage> image) {
  restoreBegunNs_ = nowNs();
  Json state;
  try {
    state = Json::parse(request.deviceState);
    const uint64_t format = field::number(state, "format", UINT64_MAX);
    if (format == 0 || format > kDeviceStateFormat)
      throw Error(Code::unsupported, "device state: unknown format; use a newer ckptfs");
    clock_.set(fromHex(state.at("clock")));
    vcpus_->thaw(state.at("vcpus"));
    platform_.thaw(state.at("devices"), unsigned(format));
    platform_.renew();
  } catch (const nlohmann::json::exception& error) {
    throw Error(Code::damaged, std::string("device state: ") + error.what());
  }
  instructionsAtRestore_ = instructions();
  image_ = std::move(image);
  restorer_ = std::make_unique<Restorer>(
      memory_, *image_,
      RestoreOptions{.id = request.id,
                     .orderFile = request.orderFile,
                     .limitBytesPerSecond = request.limitBytesPerSecond,
                     .guestIoBusy = [this] { return platform_.busy(); }});
  if (request.lazy)
    restorer_->arm();
  else
    restorer_->loadAll();
  setTracked(request.id);
}

void Machine::start() {
  const std::lock_guard noSave(saveMutex_);  // which holds the devices
  if (state_ != State::created) throw Error(Code::usage, "the machine has been started already");
  state_ = State::running;
  clock_.run();
  timers_.wake();
  vcpus_->rearmTimers();
  for (unsigned i = 0; i < vcpus_->count(); ++i) threads_.emplace_back([this, i] { runVcpu(i); });
  if (restorer_) {
    watcher_ = std::thread([this] { watchRestore(); });
    restorer_->start();
  }
  // Last: it looks at guest memory, and so may have to wait for it.
  platform_.release();
}

void Machine::runVcpu(unsigned index) {
  nameThread(("ckptfs-vcpu" + std::to_string(index)).c_str());
  GuestMemory::attachThread();
  Vcpu& vcpu = vcpus_->vcpu(index);
  while (gate_.pass() && GuestMemory::runGuarded([&] { vcpu.run(); })) {
  }
  gate_.leave();
}

uint64_t Machine::instructions() const noexcept {
  uint64_t sum = 0;
  for (unsigned i = 0; i < vcpus_->count(); ++i) sum += vcpus_->vcpu(i).instructions();
  return sum;
}

/** Tells of the first instruction and of failures, and ends a failure once all of memory is there.
 *  It polls for what a vCPU has better things to do than to report. */
void Machine::watchRestore() {
  constexpr auto kFirstInstructionPoll = std::chrono::microseconds(50);
  constexpr auto kFailedPoll = std::chrono::milliseconds(10);
  nameThread("ckptfs-restore");
  for (uint32_t told = 0; !closing_;) {
    const uint32_t failures = failures_;
    if (failures != told && !closing_) events_.error(memoryError());
    told = failures;
    const bool begun = firstInstructionNs_ != 0 || instructions() != instructionsAtRestore_;
    if (begun && firstInstructionNs_ == 0) firstInstructionNs_ = nowNs();
    if (state_ == State::failed) {
      // A read that failed late, after the source was mended and another pass was begun.
      if (restorer_->progress().done) recover();
      std::this_thread::sleep_for(kFailedPoll);
    } else if (begun) {
      failures_.wait(told);
    } else {
      std::this_thread::sleep_for(kFirstInstructionPoll);
    }
  }
}

void Machine::requestExits() noexcept {
  for (unsigned i = 0; i < vcpus_->count(); ++i) vcpus_->vcpu(i).requestExit();
}

void Machine::quiesce() {
  std::lock_guard lock(holdMutex_);
  gate_.hold();
  requestExits();
  if (!gate_.waitParked()) {
    gate_.release();
    throw Error(Code::io, "a vCPU waits for memory that cannot be read; see the VM's error");
  }
  clock_.freeze();
}

void Machine::unquiesce() {
  std::lock_guard lock(holdMutex_);
  if (gate_.holds() == 1) {
    clock_.run();
    timers_.wake();
  }
  gate_.release();
}

void Machine::pause() {
  if (state_ != State::running) throw Error(Code::usage, "the guest is not running");
  quiesce();
  State expected = State::running;
  if (state_.compare_exchange_strong(expected, State::paused)) return;
  unquiesce();
  throw Error(Code::usage, "the guest has ended or failed meanwhile");
}

bool Machine::suspend() noexcept {
  State expected = State::running;
  return state_.compare_exchange_strong(expected, State::paused);
}

void Machine::resume() {
  State expected = State::paused;
  if (!state_.compare_exchange_strong(expected, State::running))
    throw Error(Code::usage, "the guest is not paused");
  unquiesce();
}

CheckpointResult Machine::save(const CheckpointRequest& request,
                               const std::function<void(uint64_t)>& resumed,
                               std::shared_ptr<Rendezvous> rendezvous) {
  if (!alive()) throw Error(Code::usage, "the guest does not run, so there is nothing to save");
  const std::unique_lock one(saveMutex_, std::try_to_lock);
  if (closing_) throw Error(Code::cancelled, "the VM is being closed");
  if (!one) throw Error(Code::busy, "another checkpoint of this VM is being saved");
  LiveSave save(*this, request, std::move(rendezvous));
  {
    std::lock_guard lock(liveMutex_);
    live_ = &save;
  }
  struct Forget {
    Machine& machine;
    ~Forget() {
      std::lock_guard lock(machine.liveMutex_);
      machine.live_ = nullptr;
    }
  } forget{*this};
  if (closing_) save.cancel();  // close() may have come before there was a save to cancel
  return save.run(resumed);
}

void Machine::cancelSave() {
  std::lock_guard lock(liveMutex_);
  if (live_) live_->cancel();
}

void Machine::proceedSave(SaveStep step) {
  std::lock_guard lock(liveMutex_);
  if (!live_) throw Error(Code::usage, "no checkpoint is being saved");
  live_->proceed(step);
}

void Machine::takeOracle() {
  const std::span ram(memory_.hostView(), memory_.bytes());
  if (!memory_.prepareRead(0, ram.size())) throw Error(Code::damaged, memoryError());
  oracle_.assign(ram.begin(), ram.end());
}

std::string Machine::tracked() const {
  const std::lock_guard lock(liveMutex_);
  return tracked_;
}

void Machine::setTracked(const std::string& id) {
  const std::lock_guard lock(liveMutex_);
  tracked_ = id;
}

std::shared_ptr<const SavedMemory> Machine::exchangeSavedMemory(
    std::shared_ptr<const SavedMemory> saved) {
  const std::lock_guard lock(liveMutex_);
  return std::exchange(saved_, std::move(saved));
}

std::string Machine::memoryError() const {
  const std::string error = restorer_ ? restorer_->progress().error : "";
  return error.empty() ? "guest memory cannot be read" : error;
}

bool Machine::holdFailed() noexcept {
  const std::lock_guard lock(failureMutex_);
  State expected = State::running;
  if (!state_.compare_exchange_strong(expected, State::failed)) return false;
  // The failing thread stays inside its fault, so nobody may wait for it to park.
  gate_.hold();
  gate_.stuck(true);
  requestExits();
  return true;
}

void Machine::onMemoryFailure() {
  // Runs inside a fault, where nothing may be allocated: the watcher tells of it.
  if (!holdFailed()) return;
  ++failures_;
  failures_.notify_all();
}

void Machine::recover() {
  {
    const std::lock_guard lock(failureMutex_);
    State expected = State::failed;
    if (!state_.compare_exchange_strong(expected, State::running)) return;
    gate_.stuck(false);
  }
  unquiesce();
  platform_.retry();
}

void Machine::freezeDisk(const std::string& id, const std::string& path) {
  const std::unique_lock noSave(saveMutex_, std::try_to_lock);
  if (!noSave) throw Error(Code::busy, "a checkpoint is being saved; wait for it, then try again");
  const auto chain = platform_.disk(id);
  chain->push(chain->prepare(path));
  chain->sealFrozen();
}

Json Machine::commitDisk(const std::string& id, const Commit& commit, Progress& progress) {
  const auto chain = platform_.disk(id);
  chain->commit(commit, progress);
  return parentJson(*chain);
}

Json Machine::surveyDisk(const std::string& id) const {
  return surveyJson(*platform_.disk(id));
}

Json Machine::compactDisk(const std::string& id, const std::vector<LogRun>& runs,
                          Progress& progress) {
  const auto chain = platform_.disk(id);
  chain->compact(runs, progress);
  return surveyJson(*chain);
}

void Machine::retryRestore() {
  {
    const std::lock_guard lock(failureMutex_);
    State expected = State::failed;
    // Failing again from here on is a new failure, with a hold of its own.
    if (!state_.compare_exchange_strong(expected, State::running))
      throw Error(Code::usage, "the guest has not failed, so there is nothing to retry");
    gate_.stuck(false);
  }
  try {
    restorer_->retry();
  } catch (const Error&) {  // nothing could be tried: the guest is where it was
    holdFailed();
    unquiesce();
    throw;
  }
  // Only now: a pause may hold the lock of this while it waits for the vCPU that tries again.
  unquiesce();
  platform_.retry();
}

void Machine::close() {
  if (closing_.exchange(true)) return;
  cancelSave();
  const std::lock_guard noSave(saveMutex_);
  gate_.close();
  requestExits();
  memory_.abandon();
  for (std::thread& thread : threads_) thread.join();
  ++failures_;  // wakes the watcher
  failures_.notify_all();
  if (watcher_.joinable()) watcher_.join();
  if (restorer_) restorer_->stop();  // but it goes on to serve readers of memory
  platform_.hold();
  platform_.flush();
  state_ = State::ended;
}

void Machine::consoleInput(std::span<const uint8_t> bytes) {
  std::lock_guard lock(inputMutex_);
  platform_.uart().receive(bytes);
}

Json Machine::status() const {
  const auto counters = memory_.counters();
  Json json{{"state", stateName(state_)},
            {"instructions", instructions()},
            {"faults", counters.faults},
            {"mappings", counters.mappings},
            {"guestTicks", std::to_string(clock_.now())},
            {"dirtyBytes", memory_.dirtyBlocks() * memory_.geometry().blockBytes()}};
  if (const std::string id = tracked(); !id.empty()) json["trackedId"] = id;
  if (state_ == State::failed) json["error"] = memoryError();
  return json;
}

Json Machine::saveProgress() const {
  std::lock_guard lock(liveMutex_);
  return live_ ? live_->progress() : Json();
}

Json Machine::restoreProgress() const {
  if (!restorer_) return {};
  const auto p = restorer_->progress();
  const auto since = [&](uint64_t ns) { return ns ? (ns - restoreBegunNs_) / 1000 : 0; };
  return {
      {"done", p.done},
      {"error", p.failed ? p.error : ""},
      {"blocks",
       {{"total", p.total}, {"demand", p.demand}, {"prefetched", p.prefetched}, {"zero", p.zero}}},
      {"faults", memory_.counters().faults},
      {"firstInstructionUs", since(firstInstructionNs_)},
      {"completeUs", since(p.completeNs)}};
}

ByteSource Machine::memorySource(std::shared_ptr<Machine> self) {
  const uint64_t bytes = self->memory_.bytes();
  return {bytes, [self = std::move(self)](uint64_t offset, std::span<std::byte> into) {
            if (!self->memory_.prepareRead(offset, into.size()))
              throw Error(Code::damaged, self->memoryError());
            const std::byte* from = self->memory_.hostView() + offset;
            std::copy(from, from + into.size(), into.begin());
          }};
}

ByteSource Machine::diskSource(std::shared_ptr<Machine> self, const std::string& id) {
  auto disk = self->platform_.disk(id);
  return {disk->bytes(),
          [disk](uint64_t offset, std::span<std::byte> into) { disk->read(offset, into); }};
}

ByteSource Machine::savedSource(std::shared_ptr<Machine> self) {
  std::shared_ptr<const SavedMemory> saved;
  {
    const std::lock_guard lock(self->liveMutex_);
    saved = self->saved_;
  }
  if (!saved) throw Error(Code::notFound, "no checkpoint of this VM is being saved");
  return {saved->bytes(),
          [self = std::move(self), saved](uint64_t offset, std::span<std::byte> into) {
            saved->read(offset, into);
          }};
}

bool Machine::mmioRead(uint64_t address, unsigned size, uint64_t& value) noexcept {
  return platform_.bus().read(address, size, value);
}

bool Machine::mmioWrite(uint64_t address, unsigned size, uint64_t value) noexcept {
  return platform_.bus().write(address, size, value);
}

uint64_t Machine::now() noexcept {
  return clock_.now();
}

void Machine::setTimer(unsigned vcpu, uint64_t ticks) noexcept {
  timers_.set(vcpu, ticks);
}

void Machine::debugWrite(const uint8_t* bytes, uint64_t length) noexcept {
  events_.console({bytes, length});
}

void Machine::guestExit(const GuestExit& exit) noexcept {
  State expected = State::running;
  if (!state_.compare_exchange_strong(expected, State::ended)) return;
  gate_.hold();
  requestExits();
  events_.exit(exit);
}

}  // namespace ckptfs
