#include "binding/arrivals.h"

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/arrival.h"
#include "base/hole.h"
#include "base/json.h"
#include "base/thread_name.h"
#include "binding/arguments.h"
#include "binding/errors.h"

namespace ckptfs::binding {
namespace {

using Info = const Napi::CallbackInfo&;

/**
 * Files that arrive together, by number, and the bell of their readers.
 *
 * A bell may be rung inside a fault, where nothing can be allocated, as a call into JavaScript
 * does: a thread of its own makes that call. Used on the JavaScript thread alone, but for the
 * thread's.
 */
class Arrivals final {
 public:
  Arrivals(Napi::Env env, Napi::Function onWanted)
      : onWanted_(Napi::ThreadSafeFunction::New(env, onWanted, "ckptfs arrivals", 0, 1)) {
    onWanted_.Unref(env);  // alone it keeps no process
    courier_ = std::thread([this] { carry(); });
  }
  ~Arrivals() { close(); }
  Arrivals(const Arrivals&) = delete;
  Arrivals& operator=(const Arrivals&) = delete;

  size_t add(int fd, uint64_t modifiedNs) {
    files_.push_back(Arrival::begin(fd, modifiedNs, [this] { ring(); }));
    return files_.size() - 1;
  }
  Arrival& at(size_t index) { return *files_.at(index); }
  std::string wanted() {
    Json list = Json::array();
    for (size_t i = 0; i < files_.size(); ++i)
      for (const auto& [offset, bytes, urgent] : files_[i]->takeWanted())
        list.push_back({i, offset, bytes, urgent});
    return list.dump();
  }
  void fail() {
    for (const auto& file : files_) file->fail();
  }
  void close() {
    if (!courier_.joinable()) return;
    for (const auto& file : files_) file->end();  // nobody rings after this
    closing_ = true;
    ring();
    courier_.join();
    onWanted_.Release();
  }

 private:
  void ring() noexcept {
    ++rings_;
    rings_.notify_one();
  }
  void carry() {
    nameThread("ckptfs-arrival");
    for (uint32_t heard = 0; !closing_;) {
      rings_.wait(heard);
      heard = rings_;
      if (!closing_) onWanted_.NonBlockingCall();
    }
  }

  Napi::ThreadSafeFunction onWanted_;
  std::vector<std::shared_ptr<Arrival>> files_;
  std::atomic<uint32_t> rings_{0};
  std::atomic<bool> closing_{false};
  std::thread courier_;
};

/** An object of functions, as RawArrivals of src/native/raw.ts. */
Napi::Value arrivals(Info info) {
  const Napi::Env env = info.Env();
  const auto all = std::make_shared<Arrivals>(env, info[0].As<Napi::Function>());
  Napi::Object object = Napi::Object::New(env);
  const auto define = [&](const char* name, auto body) {
    object.Set(name, Napi::Function::New(env, [all, body](Info call) -> Napi::Value {
                 return guarded(call.Env(), [&]() -> Napi::Value { return body(*all, call); });
               }));
  };
  define("add", [](Arrivals& files, Info call) -> Napi::Value {
    const size_t index = files.add(int(numberAt(call, 0)), std::stoull(textAt(call, 1)));
    return Napi::Number::New(call.Env(), double(index));
  });
  define("wanted", [](Arrivals& files, Info call) -> Napi::Value {
    return Napi::String::New(call.Env(), files.wanted());
  });
  define("arrived", [](Arrivals& files, Info call) -> Napi::Value {
    files.at(numberAt(call, 0)).arrived(numberAt(call, 1), numberAt(call, 2));
    return call.Env().Undefined();
  });
  define("fail", [](Arrivals& files, Info call) -> Napi::Value {
    files.fail();
    return call.Env().Undefined();
  });
  define("close", [](Arrivals& files, Info call) -> Napi::Value {
    files.close();
    return call.Env().Undefined();
  });
  return object;
}

Napi::Value punchHole(Info info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), ckptfs::punchHole(int(numberAt(info, 0)),
                                                            numberAt(info, 1), numberAt(info, 2)));
  });
}

}  // namespace

void defineArrivals(Napi::Env env, Napi::Object exports) {
  exports.Set("arrivals", Napi::Function::New(env, arrivals, "arrivals"));
  exports.Set("punchHole", Napi::Function::New(env, punchHole, "punchHole"));
}

}  // namespace ckptfs::binding
