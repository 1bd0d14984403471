#include "binding/files.h"

#include <nlohmann/json.hpp>
#include <variant>

#include "base/copy_file.h"
#include "base/exchange.h"
#include "base/file_ends.h"
#include "base/file_source.h"
#include "base/file_time.h"
#include "base/lock_file.h"
#include "base/prefixed_source.h"
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/source.h"
#include "binding/task.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/upkeep/compact.h"
#include "checkpoint/upkeep/diff.h"
#include "checkpoint/upkeep/verify.h"
#include "disk/chain.h"
#include "disk/disk_runs.h"
#include "disk/overlay.h"
#include "disk/redo_repair.h"
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

/** RAM of a checkpoint, behind the bytes that are given. */
Napi::Value openMemoryImage(Info info) {
  return runAsync(
      info.Env(),
      [directory = textAt(info, 0), front = bytesAt(info, 1)] {
        auto image = std::make_shared<MemoryImage>(directory);
        ByteSource ram{.bytes = image->bytes(),
                       .read = [image](uint64_t offset,
                                       std::span<std::byte> into) { image->read(offset, into); },
                       .run = [image](uint64_t offset) { return image->run(offset); }};
        return front.empty() ? ram : prefixed(front, std::move(ram));
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
        const auto runs = std::make_shared<DiskRuns>(disk);
        return ByteSource{.bytes = disk->bytes(),
                          .read = [disk](uint64_t offset,
                                         std::span<std::byte> into) { disk->read(offset, into); },
                          .run = [runs](uint64_t offset) { return runs->at(offset); }};
      },
      wrapSource);
}

/** A disk of a checkpoint with writes to the redo log at a path, which is made if it is not there.
 */
Napi::Value openOverlay(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0), path = textAt(info, 1)] {
        const auto overlay = std::make_shared<Overlay>(
            openLayers(parseDiskLayers(text), Chain::Access::overlay), path);
        return ByteSource{
            .bytes = overlay->bytes(),
            .read = [overlay](uint64_t offset,
                              std::span<std::byte> into) { overlay->read(offset, into); },
            .write = [overlay](uint64_t offset,
                               std::span<const std::byte> from) { overlay->write(offset, from); },
            .flush = [overlay] { overlay->flush(); },
            .zero = [overlay](uint64_t offset, uint64_t length) { overlay->zero(offset, length); }};
      },
      wrapSource);
}

/** A file that JavaScript has open, and may close afterwards. */
Napi::Value fileSource(Info info) {
  return guarded(info.Env(), [&] {
    return Source::wrap(info.Env(), ckptfs::fileSource(int(numberAt(info, 0)), textAt(info, 1)));
  });
}

/** [text, modification time in ms] of each path, null where there is no file. */
Napi::Value readFileEnds(Info info) {
  return runAsync(
      info.Env(),
      [paths = textsAt(info, 0), head = size_t(numberAt(info, 1)),
       tail = size_t(numberAt(info, 2))] {
        std::vector<std::optional<FileEnds>> all;
        all.reserve(paths.size());
        for (const std::string& path : paths) all.push_back(ckptfs::readFileEnds(path, head, tail));
        return all;
      },
      [](Napi::Env env, const std::vector<std::optional<FileEnds>>& all) -> Napi::Value {
        Napi::Array list = Napi::Array::New(env, all.size());
        for (uint32_t i = 0; i < all.size(); i++) {
          if (!all[i]) {
            list.Set(i, env.Null());
            continue;
          }
          Napi::Array ends = Napi::Array::New(env, 2);
          ends.Set(0u, Napi::String::New(env, all[i]->text));
          ends.Set(1u, Napi::Number::New(env, all[i]->modifiedMs));
          list.Set(i, ends);
        }
        return list;
      });
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
        [path = textAt(info, 0),
         bytes = info[1].IsUndefined() ? std::nullopt : std::optional(numberAt(info, 1))] {
          return toText(ckptfs::verifyRedoLog(path, bytes));
        },
        asString);
  });
}

Napi::Value repairRedo(Info info) {
  return runAsync(
      info.Env(),
      [path = textAt(info, 0), into = textAt(info, 1)] {
        const RedoRepair repair = ckptfs::repairRedoLog(path, into);
        return Json{{"keptBytes", repair.keptBytes}, {"lostBytes", repair.lostBytes}}.dump();
      },
      asString);
}

Napi::Value mapDisk(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0)] {
        const auto disk = openLayers(parseDiskLayers(text), Chain::Access::readonly);
        Json runs = Json::array(), layers = Json::array();
        for (const LayerRun& run : disk->map())
          runs.push_back({run.offset, run.bytes, run.layer, run.zeroes});
        for (const Chain::LayerInfo& layer : disk->layers())
          layers.push_back(
              {{"path", layer.path}, {"bytes", layer.bytes}, {"sealed", layer.sealed}});
        return Json{{"bytes", disk->bytes()}, {"layers", layers}, {"runs", runs}}.dump();
      },
      asString);
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

/** Commits all logs of a disk that no VM runs with; its parent from then on. */
Napi::Value commitDisk(Info info) {
  return guarded(info.Env(), [&] {
    return runTask(
        info.Env(), info[2].As<Napi::Function>(),
        [text = textAt(info, 0), commit = parseCommit(textAt(info, 1))](Progress& progress) {
          const auto disk = openLayers(parseDiskLayers(text), Chain::Access::redo);
          disk->seal();
          disk->commit(commit, progress);
          return parentJson(*disk).dump();
        },
        asString);
  });
}

Napi::Value surveyDisk(Info info) {
  return runAsync(
      info.Env(),
      [text = textAt(info, 0)] {
        return surveyJson(*openLayers(parseDiskLayers(text), Chain::Access::readonly)).dump();
      },
      asString);
}

/** Compacts logs of a disk that no VM runs with; the newest is sealed if it is among them. */
Napi::Value compactDisk(Info info) {
  return guarded(info.Env(), [&] {
    return runTask(
        info.Env(), info[2].As<Napi::Function>(),
        [text = textAt(info, 0), runs = parseLogRuns(textAt(info, 1))](Progress& progress) {
          const auto disk = openLayers(parseDiskLayers(text), Chain::Access::redo);
          if (!runs.empty() && runs.back().first + runs.back().logs == disk->layers().size())
            disk->seal();
          disk->compact(runs, progress);
          return surveyJson(*disk).dump();
        },
        asString);
  });
}

Napi::Value isSealedLog(Info info) {
  return guarded(info.Env(),
                 [&] { return Napi::Boolean::New(info.Env(), hasSeal(textAt(info, 0))); });
}

Napi::Value fileIdentity(Info info) {
  return guarded(info.Env(), [&] {
    const Parent parent(textAt(info, 0), Parent::Access::read);
    return asString(info.Env(), toJson(parent.identity()).dump());
  });
}

Napi::Value copyFile(Info info) {
  return guarded(info.Env(), [&] {
    return runTask(
        info.Env(), info[4].As<Napi::Function>(),
        [source = textAt(info, 0), target = textAt(info, 1), from = numberAt(info, 2),
         bytes = numberAt(info, 3)](Progress& progress) {
          ckptfs::copyFile(source, target, from, bytes, progress);
          return std::string("null");
        },
        asString);
  });
}

/** Nanoseconds as decimal text, since a number of JavaScript does not hold them. */
Napi::Value setModified(Info info) {
  return guarded(info.Env(), [&] {
    ckptfs::setModified(textAt(info, 0), std::stoull(textAt(info, 1)));
    return info.Env().Undefined();
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
  define("openOverlay", openOverlay);
  define("fileSource", fileSource);
  define("verifiedSegments", verifiedSegments);
  define("verifyMemoryImage", verifyMemoryImage);
  define("diffMemoryImages", diffMemoryImages);
  define("planCompaction", planCompaction);
  define("compactCheckpoints", compactCheckpoints);
  define("exchangeDirectories", exchangeDirectories);
  define("verifyRedoLog", verifyRedo);
  define("repairRedoLog", repairRedo);
  define("mapDisk", mapDisk);
  define("createRedoLog", createRedoLog);
  define("commitDisk", commitDisk);
  define("surveyDisk", surveyDisk);
  define("compactDisk", compactDisk);
  define("isSealedLog", isSealedLog);
  define("fileIdentity", fileIdentity);
  define("readFileEnds", readFileEnds);
  define("copyFile", copyFile);
  define("setModified", setModified);
  define("lockFile", lockFile);
}

}  // namespace ckptfs::binding
