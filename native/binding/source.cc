#include "binding/source.h"

#include <algorithm>

#include "binding/async.h"
#include "binding/instance.h"

namespace ckptfs::binding {

void Source::define(Napi::Env env, Napi::Object) {
  Napi::Function constructor =
      DefineClass(env, "Source",
                  {InstanceAccessor<&Source::bytes>("bytes"), InstanceMethod<&Source::read>("read"),
                   InstanceMethod<&Source::close>("close")});
  Instance::of(env).source = Napi::Persistent(constructor);
}

Napi::Object Source::wrap(Napi::Env env, ByteSource source) {
  auto external = Napi::External<ByteSource>::New(env, &source);
  return Instance::of(env).source.New({external});
}

Source::Source(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Source>(info) {
  if (info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "a Source is made by the addon only");
  source_ = std::make_shared<const ByteSource>(
      std::move(*info[0].As<Napi::External<ByteSource>>().Data()));
}

Napi::Value Source::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), source_ ? double(source_->bytes) : 0);
}

Napi::Value Source::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!source_) throw Error(Code::usage, "read from a closed source");
    auto into = info[0].As<Napi::Uint8Array>();
    const double position = info[1].As<Napi::Number>().DoubleValue();
    if (!(position >= 0)) throw Error(Code::usage, "a read position must not be negative");
    const auto offset = uint64_t(position);
    const uint64_t left = offset < source_->bytes ? source_->bytes - offset : 0;
    const size_t length = size_t(std::min<uint64_t>(left, into.ByteLength()));
    const std::span<std::byte> span(reinterpret_cast<std::byte*>(into.Data()), length);
    return runAsync(
        env,
        [source = source_, offset, span] {
          if (!span.empty()) source->read(offset, span);
          return span.size();
        },
        [keep = Napi::Persistent(into.As<Napi::Object>())](Napi::Env e, size_t n) -> Napi::Value {
          return Napi::Number::New(e, double(n));
        });
  });
}

void Source::close(const Napi::CallbackInfo&) {
  source_.reset();
}

}  // namespace ckptfs::binding
