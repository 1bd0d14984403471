// A whole machine that runs a program of test/machine/guests, and what the tests ask of it.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoint/image/memory_image.h"
#include "devices/memory_map.h"
#include "machine/machine.h"
#include "test/checkpoint/temp_directory.h"

#if defined(__SANITIZE_THREAD__)  // the runtime's
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif

namespace ckptfs {

/** While it lives ThreadSanitizer lets the thread read what others write. */
class RacyReads {
#if defined(__SANITIZE_THREAD__)
 public:
  RacyReads() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  }
  ~RacyReads() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  RacyReads(const RacyReads&) = delete;
  RacyReads& operator=(const RacyReads&) = delete;
#endif
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;  // ten to a hundred times slower: fewer rounds
#else
inline constexpr bool kSanitized = false;
#endif

/** A raw disk of that size in the directory, mostly zeros. */
inline DiskConfig makeDisk(const TempDirectory& directory, uint64_t bytes) {
  DiskConfig disk;
  disk.id = "vda";
  disk.access = "direct";
  disk.parent = directory.path() + "/disk.raw";
  std::ofstream(disk.parent) << "parent";
  std::filesystem::resize_file(disk.parent, bytes);
  return disk;
}

/** Waits for something that must come; false only after a time that no slow host needs. */
inline bool eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::ostream& operator<<(std::ostream& out, const std::optional<Code>& code) {
  return out << (code ? codeName(*code) : "no failure");
}

/** The code of the Error that `call` throws; none: it did not throw. */
inline std::optional<Code> failure(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return {};
}

class Rig {
 public:
  static constexpr uint64_t kRamBytes = 8 << 20;

  explicit Rig(unsigned harts = 1, std::vector<DiskConfig> disks = {},
               const std::string& trace = traceEngineNames().front()) {
    MachineConfig config;
    config.memoryBytes = kRamBytes;
    config.cpus = harts;
    config.disks = std::move(disks);
    config.trace = trace;
    Machine::Events events;
    events.console = [this](std::span<const uint8_t> bytes) { consoleBytes += bytes.size(); };
    events.exit = [this](const GuestExit& exit) {
      const std::lock_guard lock(mutex_);
      exits_.push_back(exit);
    };
    events.error = [this](const std::string& error) {
      const std::lock_guard lock(mutex_);
      errors_.push_back(error);
    };
    machine = std::make_shared<Machine>(config, std::move(events));
  }
  ~Rig() { machine.reset(); }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  void boot(const std::string& guest = "scribble") {
    const auto image = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() /
                       "guests" / (guest + ".bin");
    machine->loadFile(image, 0, std::filesystem::file_size(image), memory_map::kRamBase);
    machine->boot(memory_map::kRamBase, kRamBytes);
    machine->start();
  }
  void type(const std::string& text) {
    machine->consoleInput({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  std::vector<GuestExit> exits() const {
    const std::lock_guard lock(mutex_);
    return exits_;
  }
  std::vector<std::string> errors() const {
    const std::lock_guard lock(mutex_);
    return errors_;
  }
  std::string state() const { return machine->status().at("state"); }
  uint64_t instructions() const { return machine->status().at("instructions"); }
  uint64_t ticks() const {
    return std::stoull(machine->status().at("guestTicks").get<std::string>());
  }
  /** Also while the guest and devices write: words of before and after. */
  std::vector<std::byte> ram() const {
    std::vector<std::byte> copy(kRamBytes);
    [[maybe_unused]] const RacyReads racy;
    Machine::memorySource(machine).read(0, copy);
    return copy;
  }
  /** The guest runs on for some rounds, and has found nothing wrong so far. */
  bool goesOn() const {
    const uint64_t since = instructions();
    return eventually([&] { return instructions() > since + 100'000 || !exits().empty(); }) &&
           exits().empty();
  }
  /** The guest has written a good part of RAM. */
  bool scribbled() const {
    return eventually([&] { return instructions() > (kSanitized ? 400'000 : 4'000'000); });
  }

  /** A full checkpoint with an oracle; the directory's path is its id. */
  static CheckpointRequest request(const std::string& directory, const std::string& codec = "lz4",
                                   std::vector<CheckpointRequest::Redo> redo = {}) {
    CheckpointRequest request;
    request.id = request.directory = directory;
    request.codec = parseCodec(codec);
    request.redo = std::move(redo);
    request.oracle = true;
    return request;
  }
  CheckpointResult save(const std::string& directory, const std::string& codec = "lz4",
                        std::vector<CheckpointRequest::Redo> redo = {}) {
    return save(request(directory, codec, std::move(redo)));
  }
  CheckpointResult save(const CheckpointRequest& request) {
    return machine->save(request, [](uint64_t) {});
  }
  /** A checkpoint that refers to `base`, whose segments it links as the store does. */
  CheckpointResult saveIncrement(const std::string& directory, const std::string& base) {
    for (const auto& file : std::filesystem::directory_iterator(base))
      if (file.path().extension() == ".hot" || file.path().extension() == ".cold")
        std::filesystem::create_hard_link(
            file, std::filesystem::path(directory) / file.path().filename());
    CheckpointRequest incremental = request(directory);
    incremental.base = {base, base};
    return save(incremental);
  }
  void restore(const std::string& directory, const CheckpointResult& result, bool lazy) {
    machine->restore(
        {.id = directory, .deviceState = result.deviceState, .lazy = lazy, .orderFile = {}},
        std::make_shared<MemoryImage>(directory));
  }

  std::shared_ptr<Machine> machine;
  std::atomic<uint64_t> consoleBytes{0};

 private:
  mutable std::mutex mutex_;
  std::vector<GuestExit> exits_;
  std::vector<std::string> errors_;
};

inline std::vector<std::byte> contents(const std::string& directory) {
  const MemoryImage image(directory);
  std::vector<std::byte> bytes(image.bytes());
  uint64_t done = 0;
  while (done < bytes.size()) done += image.read(done, std::span(bytes).subspan(done));
  return bytes;
}

}  // namespace ckptfs
