#include "binding/checksum.h"

#include <array>
#include <cstdio>
#include <memory>

#include "base/xxh3.h"

namespace ckptfs::binding {
namespace {

using Info = const Napi::CallbackInfo&;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

/** An object of two functions: update(bytes), and digest() in 16 hexadecimal digits. */
Napi::Value checksum(Info info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<XXH3_state_t> state(XXH3_createState(), FreeState{});
  XXH3_64bits_reset(state.get());
  Napi::Object object = Napi::Object::New(env);
  object.Set("update", Napi::Function::New(env, [state](Info call) {
               const auto bytes = call[0].As<Napi::Uint8Array>();
               XXH3_64bits_update(state.get(), bytes.Data(), bytes.ByteLength());
             }));
  object.Set("digest", Napi::Function::New(env, [state](Info call) -> Napi::Value {
               std::array<char, 17> text{};
               std::snprintf(text.data(), text.size(), "%016llx",
                             static_cast<unsigned long long>(XXH3_64bits_digest(state.get())));
               return Napi::String::New(call.Env(), text.data());
             }));
  return object;
}

}  // namespace

void defineChecksum(Napi::Env env, Napi::Object exports) {
  exports.Set("checksum", Napi::Function::New(env, checksum, "checksum"));
}

}  // namespace ckptfs::binding
