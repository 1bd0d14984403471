// The one place where native failures become JavaScript errors.
#pragma once

#include <napi.h>

#include "base/error.h"

namespace ckptfs::binding {

/** A JavaScript Error with the message and `code` of `error`; src/native.ts makes it a CkptError.
 */
Napi::Error toJs(Napi::Env env, const Error& error);

/** Runs `body` on the JavaScript thread and rethrows native failures as JavaScript exceptions. */
template <class Body>
auto guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw toJs(env, error);
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw toJs(env, Error(Code::io, error.what()));
  }
}

}  // namespace ckptfs::binding
