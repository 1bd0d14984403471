#include "binding/files.h"

#include <nlohmann/json.hpp>
#include <variant>

#include "base/lock_file.h"
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/source.h"
#include "checkpoint/memory_image.h"
#include "checkpoint/verify.h"
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

Napi::Value verifyMemoryImage(Info info) {
  return runAsync(
      info.Env(),
      [directory = textAt(info, 0)] { return toText(ckptfs::verifyMemoryImage(directory)); },
      asString);
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
  define("openDisk", openDisk);
  define("verifyMemoryImage", verifyMemoryImage);
  define("verifyRedoLog", verifyRedo);
  define("createRedoLog", createRedoLog);
  define("fileIdentity", fileIdentity);
  define("lockFile", lockFile);
}

}  // namespace ckptfs::binding
