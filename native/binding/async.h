// Promises for work that must not run on the JavaScript thread.
#pragma once

#include <napi.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "binding/errors.h"

namespace ckptfs::binding {

/** Runs `work()` on a libuv pool thread, then settles with `convert(env, result)` on the JavaScript
 *  thread. Whatever `convert` captured lives until then: keep references to JavaScript objects
 * there. */
template <class Work, class Convert>
class AsyncWork final : public Napi::AsyncWorker {
 public:
  using Result = std::invoke_result_t<Work>;

  AsyncWork(Napi::Env env, Work work, Convert convert)
      : Napi::AsyncWorker(env),
        promise_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        convert_(std::move(convert)) {}

  Napi::Promise promise() const { return promise_.Promise(); }

  void Execute() override {
    try {
      result_.emplace(work_());
    } catch (const Error& error) {
      error_ = error;
    } catch (const std::exception& error) {
      error_ = Error(Code::io, error.what());
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (error_)
      promise_.Reject(toJs(Env(), *error_).Value());
    else
      promise_.Resolve(convert_(Env(), *result_));
  }

 private:
  Napi::Promise::Deferred promise_;
  Work work_;
  Convert convert_;
  std::optional<Result> result_;
  std::optional<Error> error_;
};

template <class Work, class Convert>
Napi::Promise runAsync(Napi::Env env, Work work, Convert convert) {
  auto* worker = new AsyncWork<Work, Convert>(env, std::move(work), std::move(convert));
  const Napi::Promise promise = worker->promise();
  worker->Queue();  // deletes itself after OnOK
  return promise;
}

/** For work whose result is a JSON text or any other string. */
inline Napi::Value asString(Napi::Env env, const std::string& text) {
  return Napi::String::New(env, text);
}

/** For work that returns std::monostate. */
struct AsUndefined {
  template <class T>
  Napi::Value operator()(Napi::Env env, const T&) const {
    return env.Undefined();
  }
};

}  // namespace ckptfs::binding
