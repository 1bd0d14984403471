#include "binding/source.h"

#include <algorithm>
#include <memory>
#include <variant>

#include "base/page_buffer.h"
#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/instance.h"

namespace ckptfs::binding {
namespace {

constexpr uint32_t kPageBufferMaxBytes = 64 << 20;

Napi::Value pageBuffer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const uint32_t bytes =
        info.Length() == 1 && info[0].IsNumber() ? info[0].As<Napi::Number>().Uint32Value() : 0;
    if (bytes == 0 || bytes > kPageBufferMaxBytes)
      throw Error(Code::usage, "a buffer has 1 byte to 64 MiB");
    auto memory = std::make_unique<PageBuffer>(bytes);
    auto buffer = Napi::Buffer<std::byte>::New(
        env, memory->data(), bytes, [](Napi::Env, std::byte*, PageBuffer* ended) { delete ended; },
        memory.get());
    memory.release();
    return buffer;
  });
}

}  // namespace

void Source::define(Napi::Env env, Napi::Object exports) {
  Napi::Function constructor = DefineClass(
      env, "Source",
      {InstanceAccessor<&Source::bytes>("bytes"), InstanceAccessor<&Source::writtenMs>("writtenMs"),
       InstanceMethod<&Source::dataBytes>("dataBytes"), InstanceMethod<&Source::read>("read"),
       InstanceMethod<&Source::write>("write"), InstanceMethod<&Source::flush>("flush"),
       InstanceMethod<&Source::become>("become"), InstanceMethod<&Source::close>("close")});
  Instance::of(env).source = Napi::Persistent(constructor);
  exports.Set("pageBuffer", Napi::Function::New(env, pageBuffer, "pageBuffer"));
}

Napi::Object Source::wrap(Napi::Env env, ByteSource source) {
  auto external = Napi::External<ByteSource>::New(env, &source);
  return Instance::of(env).source.New({external});
}

std::shared_ptr<SharedSource> Source::sharedOf(Napi::Env env, Napi::Value value) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(Instance::of(env).source.Value()))
    throw Error(Code::usage, "not a source of the addon");
  std::shared_ptr<SharedSource> source = Unwrap(value.As<Napi::Object>())->source_;
  if (!source) throw Error(Code::usage, "a closed source");
  return source;
}

Source::Source(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Source>(info) {
  if (info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "a Source is made by the addon only");
  source_ =
      std::make_shared<SharedSource>(std::move(*info[0].As<Napi::External<ByteSource>>().Data()));
}

Napi::Value Source::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), source_ ? double(source_->now()->size()) : 0);
}

Napi::Value Source::writtenMs(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), source_ ? double(source_->writtenMs()) : 0);
}

Napi::Value Source::dataBytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!source_) throw Error(Code::usage, "a closed source");
    return runAsync(
        info.Env(),
        [source = source_->now()] {
          const uint64_t size = source->size();
          uint64_t data = 0;
          for (uint64_t at = 0; at < size;) {
            const ByteRun run = source->run ? source->run(at) : ByteRun{size - at, false};
            const uint64_t bytes = std::clamp<uint64_t>(run.bytes, 1, size - at);
            if (!run.hole) data += bytes;
            at += bytes;
          }
          return data;
        },
        [](Napi::Env env, uint64_t data) { return Napi::Number::New(env, double(data)); });
  });
}

Napi::Value Source::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!source_) throw Error(Code::usage, "read from a closed source");
    auto into = info[0].As<Napi::Uint8Array>();
    const double position = info[1].As<Napi::Number>().DoubleValue();
    if (!(position >= 0)) throw Error(Code::usage, "a read position must not be negative");
    const auto offset = uint64_t(position);
    const auto source = source_->now();
    const uint64_t size = source->size();
    const uint64_t left = offset < size ? size - offset : 0;
    const size_t length = size_t(std::min<uint64_t>(left, into.ByteLength()));
    const std::span<std::byte> span(reinterpret_cast<std::byte*>(into.Data()), length);
    return runAsync(
        env,
        [source, offset, span] {
          if (!span.empty()) source->read(offset, span);
          return span.size();
        },
        [keep = Napi::Persistent(into.As<Napi::Object>())](Napi::Env e, size_t n) -> Napi::Value {
          return Napi::Number::New(e, double(n));
        });
  });
}

Napi::Value Source::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!source_ || !source_->now()->write)
      throw Error(Code::usage, "a source that takes no writes");
    auto from = info[0].As<Napi::Uint8Array>();
    const std::span<const std::byte> span(reinterpret_cast<const std::byte*>(from.Data()),
                                          from.ByteLength());
    return runAsync(
        env,
        [source = source_, offset = numberAt(info, 1), span] {
          source->write(offset, span);
          return std::monostate{};
        },
        [keep = Napi::Persistent(from.As<Napi::Object>())](Napi::Env e, std::monostate) {
          return e.Undefined();
        });
  });
}

Napi::Value Source::flush(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!source_ || !source_->now()->flush)
      throw Error(Code::usage, "a source that takes no writes");
    return runAsync(
        info.Env(),
        [source = source_->now()] {
          source->flush();
          return std::monostate{};
        },
        AsUndefined{});
  });
}

void Source::become(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    if (source_) source_->become(*sharedOf(info.Env(), info[0]));
  });
}

void Source::close(const Napi::CallbackInfo&) {
  source_.reset();
}

}  // namespace ckptfs::binding
