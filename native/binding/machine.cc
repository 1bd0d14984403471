#include "binding/machine.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <variant>

#include "binding/arguments.h"
#include "binding/async.h"
#include "binding/events.h"
#include "binding/files.h"
#include "binding/instance.h"
#include "binding/source.h"
#include "binding/task.h"
#include "machine/machine.h"
#include "machine/rendezvous.h"

namespace ckptfs::binding {
namespace {

const char* exitName(GuestExit::Kind kind) {
  switch (kind) {
    case GuestExit::Kind::shutdown:
      return "shutdown";
    case GuestExit::Kind::reboot:
      return "reboot";
    case GuestExit::Kind::failure:
      return "failure";
  }
  return "failure";
}

Machine::Events forwarding(Events* events) {
  return {
      .console = [events](std::span<const uint8_t> bytes) { events->console(bytes); },
      .exit =
          [events](const GuestExit& exit) {
            const Json value{{"kind", exitName(exit.kind)}, {"reason", exit.reason}};
            events->post("exit", value.dump());
          },
      .error = [events](const std::string& message) { events->post("error", message); },
  };
}

class MachineObject final : public Napi::ObjectWrap<MachineObject> {
 public:
  static Napi::Function constructor(Napi::Env env) {
    using M = MachineObject;
    return DefineClass(env, "Machine",
                       {InstanceMethod<&M::loadFile>("loadFile"),
                        InstanceMethod<&M::load>("load"),
                        InstanceMethod<&M::boot>("boot"),
                        InstanceMethod<&M::restore>("restore"),
                        InstanceMethod<&M::start>("start"),
                        InstanceMethod<&M::pause>("pause"),
                        InstanceMethod<&M::resume>("resume"),
                        InstanceMethod<&M::save>("save"),
                        InstanceMethod<&M::proceedSave>("proceedSave"),
                        InstanceMethod<&M::cancelSave>("cancelSave"),
                        InstanceMethod<&M::freezeDisk>("freezeDisk"),
                        InstanceMethod<&M::commitDisk>("commitDisk"),
                        InstanceMethod<&M::surveyDisk>("surveyDisk"),
                        InstanceMethod<&M::compactDisk>("compactDisk"),
                        InstanceMethod<&M::retryRestore>("retryRestore"),
                        InstanceMethod<&M::saveProgress>("saveProgress"),
                        InstanceMethod<&M::restoreProgress>("restoreProgress"),
                        InstanceMethod<&M::consoleInput>("consoleInput"),
                        InstanceMethod<&M::status>("status"),
                        InstanceMethod<&M::memory>("memory"),
                        InstanceMethod<&M::disk>("disk"),
                        InstanceMethod<&M::savingMemory>("savingMemory"),
                        InstanceMethod<&M::oracle>("oracle"),
                        InstanceMethod<&M::close>("close")});
  }

  explicit MachineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MachineObject>(info) {
    guarded(info.Env(), [&] {
      const MachineConfig config = parseMachineConfig(textAt(info, 0));
      events_ = Events::create(info.Env(), info[1].As<Napi::Function>());
      try {
        machine_ = std::make_shared<Machine>(config, forwarding(events_));
      } catch (...) {
        events_->close();
        throw;
      }
    });
    Instance::of(info.Env()).machines.insert(machine_);
  }

 private:
  Machine& machine() const {
    if (!machine_) throw Error(Code::usage, "the machine has been closed");
    return *machine_;
  }

  /** Runs `work(machine)` off the JavaScript thread; the machine lives until it is done. */
  template <class Work>
  Napi::Value async(const Napi::CallbackInfo& info, Work work) {
    machine();
    return runAsync(
        info.Env(),
        [machine = machine_, work = std::move(work)] {
          work(*machine);
          return std::monostate{};
        },
        AsUndefined{});
  }

  void loadFile(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      machine().loadFile(textAt(info, 0), numberAt(info, 1), numberAt(info, 2), numberAt(info, 3));
    });
  }

  void load(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto data = info[1].As<Napi::Uint8Array>();
      machine().load(numberAt(info, 0),
                     {reinterpret_cast<const std::byte*>(data.Data()), data.ByteLength()});
    });
  }

  void boot(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { machine().boot(numberAt(info, 0), numberAt(info, 1)); });
  }

  Napi::Value restore(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return async(info, [request = parseRestoreRequest(textAt(info, 0)),
                          image = *info[1].As<Napi::External<RestoreImage>>().Data()](Machine& m) {
        m.restore(request, image);
      });
    });
  }

  /** Not here: devices look at guest memory, which may be what JavaScript is still to bring. */
  Napi::Value start(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return async(info, [](Machine& m) { m.start(); }); });
  }

  Napi::Value pause(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return async(info, [](Machine& m) { m.pause(); }); });
  }

  void resume(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { machine().resume(); });
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      const auto request = parseCheckpointRequest(textAt(info, 0));
      auto events = Napi::ThreadSafeFunction::New(info.Env(), info[1].As<Napi::Function>(),
                                                  "ckptfs save", 0, 1);
      return runAsync(
          info.Env(),
          [machine = machine_, request, events]() mutable {
            struct Release {
              Napi::ThreadSafeFunction& function;
              ~Release() { function.Release(); }
            } release{events};
            const auto tell = [&](const Json& event) {
              events.NonBlockingCall([text = event.dump()](Napi::Env env, Napi::Function callback) {
                callback.Call({Napi::String::New(env, text)});
              });
            };
            std::shared_ptr<Rendezvous> rendezvous;
            if (request.holdLimitMs)
              rendezvous = std::make_shared<Rendezvous>(
                  std::chrono::milliseconds(*request.holdLimitMs), [tell](SaveStep step) {
                    tell({{"step", stepName(step)}});
                  });
            const auto resumed = [&](uint64_t pauseUs) { tell({{"pauseUs", pauseUs}}); };
            return toJson(machine->save(request, resumed, std::move(rendezvous))).dump();
          },
          asString);
    });
  }

  void proceedSave(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { machine().proceedSave(parseStep(textAt(info, 0))); });
  }

  void cancelSave(const Napi::CallbackInfo&) {
    if (machine_) machine_->cancelSave();
  }

  Napi::Value freezeDisk(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return async(info, [id = textAt(info, 0), path = textAt(info, 1)](Machine& m) {
        m.freezeDisk(id, path);
      });
    });
  }

  Napi::Value commitDisk(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return runTask(
          info.Env(), info[2].As<Napi::Function>(),
          [machine = machine_, id = textAt(info, 0), commit = parseCommit(textAt(info, 1))](
              Progress& progress) { return machine->commitDisk(id, commit, progress).dump(); },
          asString);
    });
  }

  Napi::Value surveyDisk(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return runAsync(
          info.Env(),
          [machine = machine_, id = textAt(info, 0)] { return machine->surveyDisk(id).dump(); },
          asString);
    });
  }

  Napi::Value compactDisk(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return runTask(
          info.Env(), info[2].As<Napi::Function>(),
          [machine = machine_, id = textAt(info, 0), runs = parseLogRuns(textAt(info, 1))](
              Progress& progress) { return machine->compactDisk(id, runs, progress).dump(); },
          asString);
    });
  }

  /** Not here, for the same reason. */
  Napi::Value retryRestore(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return async(info, [](Machine& m) { m.retryRestore(); }); });
  }

  /** A report as text; a closed machine has none. */
  Napi::Value report(const Napi::CallbackInfo& info, Json (Machine::*what)() const) {
    return guarded(info.Env(), [&] {
      return Napi::String::New(info.Env(), machine_ ? (*machine_.*what)().dump() : "null");
    });
  }

  Napi::Value saveProgress(const Napi::CallbackInfo& info) {
    return report(info, &Machine::saveProgress);
  }
  Napi::Value restoreProgress(const Napi::CallbackInfo& info) {
    return report(info, &Machine::restoreProgress);
  }
  Napi::Value status(const Napi::CallbackInfo& info) { return report(info, &Machine::status); }

  void consoleInput(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto data = info[0].As<Napi::Uint8Array>();
      if (machine_) machine_->consoleInput({data.Data(), data.ByteLength()});
    });
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return Source::wrap(info.Env(), Machine::memorySource(machine_));
    });
  }

  Napi::Value disk(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return Source::wrap(info.Env(), Machine::diskSource(machine_, textAt(info, 0)));
    });
  }

  Napi::Value savingMemory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      machine();
      return Source::wrap(info.Env(), Machine::savedSource(machine_));
    });
  }

  Napi::Value oracle(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const auto& copy = machine().oracle();
      return Napi::Buffer<uint8_t>::Copy(info.Env(), reinterpret_cast<const uint8_t*>(copy.data()),
                                         copy.size());
    });
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (!machine_) {
      const auto done = Napi::Promise::Deferred::New(info.Env());
      done.Resolve(info.Env().Undefined());
      return done.Promise();
    }
    Instance::of(info.Env()).machines.erase(machine_);
    return runAsync(
        info.Env(),
        [machine = std::exchange(machine_, nullptr)] {
          machine->close();
          return std::monostate{};
        },
        [events = std::exchange(events_, nullptr)](Napi::Env env, std::monostate) -> Napi::Value {
          events->close();
          return env.Undefined();
        });
  }

  std::shared_ptr<Machine> machine_;  // empty once closed
  Events* events_ = nullptr;          // outlives the machine's threads
};

}  // namespace

void defineMachine(Napi::Env env, Napi::Object exports) {
  exports.Set("Machine", MachineObject::constructor(env));
}

}  // namespace ckptfs::binding
