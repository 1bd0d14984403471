// The values that cross the native boundary, as structs and as JSON (src/native.ts has the same
// shapes).
//
// TypeScript has validated them for people; here a wrong shape is a programming error
// (Code::usage).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/geometry.h"
#include "base/json.h"
#include "checkpoint/image/format.h"
#include "disk/chain.h"
#include "disk/fault_disk.h"
#include "memory/trace_engine.h"

namespace ckptfs {

/** Version of the JSON text in device-state.json (docs/store.md); older ones are read too. */
inline constexpr unsigned kDeviceStateFormat = 3;

/** A raw parent under redo logs, oldest first. */
struct DiskLayers {
  std::string parent;
  std::optional<ParentIdentity> parentIdentity;
  LogId committed = {};  // the last log that was committed into the parent; zeros: none
  std::vector<Chain::LayerSpec> redo;
};

struct DiskConfig : DiskLayers {
  std::string id;
  std::string access;  // readonly | direct | redo
  /** What the guest's requests to the disk go through, if anything; for tests. */
  std::shared_ptr<Faults> faults;
};

struct MachineConfig {
  uint64_t memoryBytes = 0;
  unsigned cpus = 1;
  Geometry geometry;
  std::string trace = traceEngineNames().front();
  std::vector<DiskConfig> disks;
};

struct CheckpointRequest {
  struct Redo {
    std::string disk;
    std::string path;
  };
  /** An earlier checkpoint, referred to for what has not been written since (requirement F4). */
  struct Base {
    std::string id;
    std::string directory;  // whose memory.map is read
  };
  std::string id;         // what memory is tracked against once the save is good
  std::string directory;  // receives memory.map and segments; has links of the base's segments
  format::Codec codec = format::Codec::lz4;
  std::vector<Redo> redo;
  std::optional<Base> base;  // used only if memory is tracked against it, else the save is full
  bool suspend = false;      // the guest stays paused (requirement B9)
  bool inFlight = false;     // disk requests go on across the pause, else they are drained (A14)
  uint64_t limitBytesPerSecond = 0;  // of what background threads save; 0: no limit (B6)
  /** With other VMs (D1): how long these may hold up the guest. */
  std::optional<uint64_t> holdLimitMs;
  bool oracle = false;
};

struct CheckpointResult {
  struct Phases {
    uint64_t quiesce = 0, arm = 0, state = 0, switch_ = 0;
    uint64_t wait = 0;  // for other VMs
  };
  struct Blocks {
    uint64_t vcpu = 0, background = 0, zero = 0, parent = 0, duplicate = 0;
  };
  uint64_t pauseUs = 0;
  Phases phasesUs;
  uint64_t totalUs = 0;
  uint64_t memoryBytes = 0;
  uint64_t storedBytes = 0;
  Blocks blocks;
  uint64_t faults = 0;
  std::vector<DiskConfig> disks;  // the layers that hold each disk as it was in the pause
  std::string deviceState;
  uint64_t guestTicks = 0;
  bool incremental = false;
  std::vector<std::string> segments;  // file names that memory.map refers to
};

struct RestoreRequest {
  std::string id;  // of the checkpoint: what memory is tracked against from then on
  std::string deviceState;
  bool lazy = true;
  std::string orderFile;             // the learnt order (F3); empty: none
  uint64_t limitBytesPerSecond = 0;  // of what background threads load; 0: no limit (C8)
};

/** By its name for people: none, lz4 or zstd. Throws Error(usage). */
format::Codec parseCodec(const std::string& name);
DiskLayers parseDiskLayers(const std::string& json);
Commit parseCommit(const std::string& json);
std::vector<LogRun> parseLogRuns(const std::string& json);
MachineConfig parseMachineConfig(const std::string& json);
CheckpointRequest parseCheckpointRequest(const std::string& json);
RestoreRequest parseRestoreRequest(const std::string& json);
/** The parent of a disk as it is now: {parent, parentIdentity, committed?}. */
Json parentJson(const Chain& chain);
/** Of each log what LogSurvey says, oldest first. */
Json surveyJson(const Chain& chain);
Json toJson(const ParentIdentity& identity);
Json toJson(const CheckpointResult& result);

}  // namespace ckptfs
