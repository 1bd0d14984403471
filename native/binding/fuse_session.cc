#include "binding/fuse_session.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/fuse_owner.h"
#include "binding/source.h"
#include "fuse/session.h"

namespace ckptfs::binding {

namespace {

fuse::Setup parseSetup(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  return {.options = json.at("options"),
          .requestLimit = std::chrono::milliseconds(json.at("requestLimitMs").get<int64_t>()),
          .errnos = json.at("errnos")};
}

/** Small contents that JavaScript gives whole. */
ByteSource bufferSource(const Napi::Uint8Array& array) {
  const auto* const begin = reinterpret_cast<const std::byte*>(array.Data());
  const auto bytes =
      std::make_shared<const std::vector<std::byte>>(begin, begin + array.ByteLength());
  return {bytes->size(), [bytes](uint64_t offset, std::span<std::byte> into) {
            std::copy_n(bytes->begin() + ptrdiff_t(offset), into.size(), into.begin());
          }};
}

class FuseSessionObject final : public Napi::ObjectWrap<FuseSessionObject> {
 public:
  static Napi::Function constructor(Napi::Env env) {
    using S = FuseSessionObject;
    return DefineClass(env, "FuseSession",
                       {InstanceMethod<&S::mount>("mount"), InstanceMethod<&S::answer>("answer"),
                        InstanceMethod<&S::changed>("changed"), InstanceMethod<&S::wake>("wake"),
                        InstanceMethod<&S::end>("end")});
  }

  explicit FuseSessionObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<FuseSessionObject>(info) {
    guarded(info.Env(), [&] {
      auto owner = std::make_unique<FuseOwner>(info.Env(), info[1].As<Napi::Function>());
      owner_ = owner.get();
      session_ = std::make_shared<fuse::Session>(parseSetup(textAt(info, 0)), std::move(owner));
    });
    Instance::of(info.Env()).fuseSessions.insert(session_);
  }

 private:
  Napi::Value mount(const Napi::CallbackInfo& info) {
    return runAsync(
        info.Env(),
        [session = session_, directory = textAt(info, 0)] {
          session->mount(directory);
          return std::monostate{};
        },
        AsUndefined{});
  }

  /** (id, errno, text or bytes, source or small contents) */
  Napi::Value answer(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&] {
      fuse::Answer answer{.err = int(numberAt(info, 1))};
      if (info[2].IsString()) answer.text = textAt(info, 2);
      if (info[2].IsTypedArray()) {
        const auto data = info[2].As<Napi::Uint8Array>();
        answer.data = {reinterpret_cast<const std::byte*>(data.Data()), data.ByteLength()};
      }
      if (info[3].IsTypedArray())
        answer.source =
            std::make_shared<SharedSource>(bufferSource(info[3].As<Napi::Uint8Array>()));
      else if (info[3].IsObject())
        answer.source = Source::sharedOf(env, info[3]);
      return Napi::Boolean::New(env, session_->answer(numberAt(info, 0), answer));
    });
  }

  void changed(const Napi::CallbackInfo& info) {
    session_->changed(textAt(info, 0), textAt(info, 1));
  }

  void wake(const Napi::CallbackInfo& info) { session_->wake(numberAt(info, 0)); }

  Napi::Value end(const Napi::CallbackInfo& info) {
    Instance::of(info.Env()).fuseSessions.erase(session_);
    return runAsync(
        info.Env(),
        [session = session_] {
          session->end();
          return std::monostate{};
        },
        [owner = owner_, session = session_](Napi::Env env, std::monostate) -> Napi::Value {
          owner->close();
          return env.Undefined();
        });
  }

  std::shared_ptr<fuse::Session> session_;
  FuseOwner* owner_ = nullptr;  // the session's
};

}  // namespace

void defineFuseSession(Napi::Env env, Napi::Object exports) {
  exports.Set("FuseSession", FuseSessionObject::constructor(env));
}

void endFuseSessions(Instance& instance) {
  for (const auto& session : instance.fuseSessions) session->end();
  instance.fuseSessions.clear();
}

}  // namespace ckptfs::binding
