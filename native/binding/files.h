// Functions on checkpoint directories, disks and lock files (the rest of Addon in src/native.ts).
#pragma once

#include <napi.h>

#include <memory>

namespace ckptfs {
class MemoryImage;
}

namespace ckptfs::binding {

/** What openRestoreImage() gives JavaScript in an External, and Machine.restore() takes from it. */
using RestoreImage = std::shared_ptr<const MemoryImage>;

void defineFiles(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
