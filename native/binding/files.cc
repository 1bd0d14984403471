#include "binding/files.h"

#include <nlohmann/json.hpp>
#include <variant>

#include "base/exchange.h"
#include "base/lock_file.h"
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/source.h"
#include "binding/task.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/upkeep/compact.h"
#include "checkpoint/upkeep/diff.h"
#include "checkpoint/upkeep/verify.h"
#include "disk/chain.h"
#include "disk/redo_scan.h"
#include "machine/platform.h"

namespace ckptfs::binding {
namespace {

using Info = const Napi::CallbackInfo&;

Napi::Value wrapSource(Napi::Env env, ByteSource& source) {
  return Source::wrap(env, std::move(source));
}

template <class Damages>
std::string toText(const Damages& damages) {
  Json list = Json::array();
  for (const auto& damage : damages) list.push_back({{"file", damage.file}, {"what", damage.what}});
  return list.dump();
}

Napi::Value openMemoryImage(Info info) {
  return runAsync(
      info.Env(),
      [directory = textAt(info, 0)] {
        auto image = std::make_shared<MemoryImage>(directory);
        return ByteSource{image->bytes(), [image](uint64_t offset, std::span<std::byte> into) {
                            image->read(offset, into);
                          }};
      },
      wrapSource);
}

/** For Machine.restore(): opened ahead, while JavaScript does something else. */
Napi::Value openRestoreImage(Info info) {
  return runAsync(
      info.Env(),
      [directory = textAt(info, 0)]() -> RestoreImage {
        return std::make_shared<MemoryImage>(directory);
      },
      [](Napi::Env env, const RestoreImage& image) -> Napi::Value {
        return Napi::External<RestoreImage>::New(
            env, new RestoreImage(image), [](Napi::Env, RestoreImage* last) { delete last; });
      });
}

Napi::Value openDisk(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0)] {
        const auto disk = openLayers(parseDiskLayers(text), Chain::Access::readonly);
        return ByteSource{disk->bytes(), [disk](uint64_t offset, std::span<std::byte> into) {
                            disk->read(offset, into);
                          }};
      },
      wrapSource);
}

/** What is shared by the verifications of one run. */
Napi::Value verifiedSegments(Info info) {
  auto* const shared = new std::shared_ptr<VerifiedSegments>(std::make_shared<VerifiedSegments>());
  return Napi::External<std::shared_ptr<VerifiedSegments>>::New(
      info.Env(), shared, [](Napi::Env, auto* last) { delete last; });
}

Napi::Value verifyMemoryImage(Info info) {
  const auto verified = *info[1].As<Napi::External<std::shared_ptr<VerifiedSegments>>>().Data();
  return runTask(
      info.Env(), info[2].As<Napi::Function>(),
      [directory = textAt(info, 0), verified](Progress& progress) {
        return toText(ckptfs::verifyMemoryImage(directory, progress, {.verified = verified.get()}));
      },
      asString);
}

Napi::Value diffMemoryImages(Info info) {
  return runTask(
      info.Env(), info[2].As<Napi::Function>(),
      [before = textAt(info, 0), after = textAt(info, 1)](Progress& progress) {
        const MemoryDiff diff = ckptfs::diffMemoryImages(before, after, progress);
        Json ranges = Json::array();
        for (const MemoryDiff::Range& range : diff.ranges)
          ranges.push_back({{"offset", range.offset}, {"bytes", range.bytes}});
        return Json{{"memoryBytes", diff.memoryBytes},
                    {"blockBytes", diff.blockBytes},
                    {"blocks", diff.blocks},
                    {"changedBlocks", diff.changedBlocks},
                    {"changedBytes", diff.changedBytes},
                    {"ranges", std::move(ranges)},
                    {"truncated", diff.truncated}}
            .dump();
      },
      asString);
}

std::string toText(const Compaction& compaction) {
  Json checkpoints = Json::array();
  for (const Compaction::Checkpoint& checkpoint : compaction.checkpoints)
    checkpoints.push_back({{"index", checkpoint.index}, {"segments", checkpoint.segments}});
  return Json{{"segments", compaction.segments},      {"segmentBytes", compaction.segmentBytes},
              {"rewritten", compaction.rewritten},    {"rewrittenBytes", compaction.rewrittenBytes},
              {"written", compaction.written},        {"writtenBytes", compaction.writtenBytes},
              {"checkpoints", std::move(checkpoints)}}
      .dump();
}

Napi::Value planCompaction(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0)] {
        return toText(ckptfs::planCompaction(Json::parse(text).get<std::vector<std::string>>()));
      },
      asString);
}

Napi::Value compactCheckpoints(Info info) {
  return runTask(
      info.Env(), info[1].As<Napi::Function>(),
      [text = textAt(info, 0)](Progress& progress) {
        std::vector<CompactionTarget> targets;
        for (const Json& target : Json::parse(text))
          targets.push_back({target.at("directory"), target.at("staging")});
        return toText(ckptfs::compactCheckpoints(targets, progress));
      },
      asString);
}

Napi::Value exchangeDirectories(Info info) {
  return runAsync(
      info.Env(),
      [one = textAt(info, 0), other = textAt(info, 1)] {
        ckptfs::exchangeDirectories(one, other);
        return std::monostate{};
      },
      AsUndefined{});
}

Napi::Value verifyRedo(Info info) {
  return guarded(info.Env(), [&] {
    return runAsync(
        info.Env(),
        [path = textAt(info, 0), bytes = numberAt(info, 1)] {
          return toText(ckptfs::verifyRedoLog(path, bytes));
        },
        asString);
  });
}

Napi::Value createRedoLog(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0), path = textAt(info, 1)] {
        openLayers(parseDiskLayers(text), Chain::Access::readonly)->prepare(path);
        return std::monostate{};
      },
      AsUndefined{});
}

Napi::Value fileIdentity(Info info) {
  return guarded(info.Env(), [&] {
    const Parent parent(textAt(info, 0), false);
    return asString(info.Env(), toJson(parent.identity()).dump());
  });
}

Napi::Value lockFile(Info info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    std::shared_ptr<LockFile> lock = LockFile::take(textAt(info, 0));
    if (!lock) return info.Env().Undefined();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("unlock", Napi::Function::New(info.Env(), [lock](Info) mutable { lock.reset(); }));
    return object;
  });
}

}  // namespace

void defineFiles(Napi::Env env, Napi::Object exports) {
  const auto define = [&](const char* name, Napi::Value (*function)(Info)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  define("openMemoryImage", openMemoryImage);
  define("openRestoreImage", openRestoreImage);
  define("openDisk", openDisk);
  define("verifiedSegments", verifiedSegments);
  define("verifyMemoryImage", verifyMemoryImage);
  define("diffMemoryImages", diffMemoryImages);
  define("planCompaction", planCompaction);
  define("compactCheckpoints", compactCheckpoints);
  define("exchangeDirectories", exchangeDirectories);
  define("verifyRedoLog", verifyRedo);
  define("createRedoLog", createRedoLog);
  define("fileIdentity", fileIdentity);
  define("lockFile", lockFile);
}

}  // namespace ckptfs::binding
