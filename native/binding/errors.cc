#include "binding/errors.h"

namespace ckptfs::binding {

Napi::Error toJs(Napi::Env env, const Error& error) {
  Napi::Error js = Napi::Error::New(env, error.what());
  js.Set("code", Napi::String::New(env, codeName(error.code())));
  return js;
}

}  // namespace ckptfs::binding
