#include "cpu/rv64/hart_state.h"

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace ckptfs::rv64 {
namespace {

constexpr const char* kIsa = "rv64imafdc";

[[noreturn]] void damaged(const std::string& what) {
  throw Error(Code::damaged, "vCPU state: " + what);
}

const Json& member(const Json& json, const char* key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  if (!json.is_object() || found == json.end()) damaged(std::string("no \"") + key + "\"");
  return *found;
}

/** A register whose bits outside `mask` must be zero. */
uint64_t masked(const Json& json, const char* key, uint64_t mask) {
  const uint64_t value = fromHex(member(json, key));
  if ((value & ~mask) != 0) damaged(std::string(key) + " has bits that no hart can have");
  return value;
}

template <size_t kFileSize>
void readRegisters(const Json& json, const char* key, std::array<uint64_t, kFileSize>& registers) {
  const Json& list = member(json, key);
  if (!list.is_array() || list.size() != 32) damaged(std::string(key) + " is not 32 registers");
  for (size_t i = 0; i < 32; ++i) registers[i] = fromHex(list[i]);
}

HartState hartFromJson(const Json& json) {
  HartState state;
  readRegisters(json, "x", state.x);
  readRegisters(json, "f", state.f);
  if (state.x[0] != 0) damaged("x0 is not zero");
  state.pc = masked(json, "pc", ~uint64_t{1});
  state.privilege = Privilege(masked(json, "privilege", 1));
  state.hsm = Hsm(masked(json, "hsm", 1));
  state.sstatus = masked(json, "sstatus", status::kStored);
  state.sie = masked(json, "sie", irq::kAll);
  state.stvec = masked(json, "stvec", ~uint64_t{2});
  state.sscratch = masked(json, "sscratch", ~uint64_t{0});
  state.sepc = masked(json, "sepc", ~uint64_t{1});
  state.scause = masked(json, "scause", ~uint64_t{0});
  state.stval = masked(json, "stval", ~uint64_t{0});
  state.satp = masked(json, "satp", satp::kSv39 << satp::kModeShift | satp::kPpnMask);
  state.scounteren = uint32_t(masked(json, "scounteren", HartState::kAllCounters));
  state.frm = uint32_t(masked(json, "frm", 7));
  state.fflags = uint32_t(masked(json, "fflags", 31));
  state.pending = masked(json, "pending", irq::kAll);
  state.timerDeadline = masked(json, "timerDeadline", ~uint64_t{0});
  state.retired = masked(json, "retired", ~uint64_t{0});
  return state;
}

}  // namespace

void to_json(Json& json, const HartState& state) {
  Json x = Json::array();
  Json f = Json::array();
  for (size_t i = 0; i < 32; ++i) {
    x.push_back(toHex(state.x[i]));
    f.push_back(toHex(state.f[i]));
  }
  json = Json{{"pc", toHex(state.pc)},
              {"privilege", toHex(uint64_t(state.privilege))},
              {"hsm", toHex(uint64_t(state.hsm))},
              {"sstatus", toHex(state.sstatus)},
              {"sie", toHex(state.sie)},
              {"stvec", toHex(state.stvec)},
              {"sscratch", toHex(state.sscratch)},
              {"sepc", toHex(state.sepc)},
              {"scause", toHex(state.scause)},
              {"stval", toHex(state.stval)},
              {"satp", toHex(state.satp)},
              {"scounteren", toHex(state.scounteren)},
              {"frm", toHex(state.frm)},
              {"fflags", toHex(state.fflags)},
              {"pending", toHex(state.pending)},
              {"timerDeadline", toHex(state.timerDeadline)},
              {"retired", toHex(state.retired)},
              {"x", std::move(x)},
              {"f", std::move(f)}};
}

void to_json(Json& json, const HartStates& states) {
  Json harts = Json::array();
  for (const HartState& state : states.harts) harts.push_back(state);
  json = Json{{"isa", kIsa}, {"harts", std::move(harts)}};
}

HartStates hartStatesFromJson(const Json& json, unsigned count) {
  const Json& isa = member(json, "isa");
  if (!isa.is_string() || isa.get_ref<const std::string&>() != kIsa)
    damaged("another instruction set");
  const Json& harts = member(json, "harts");
  if (!harts.is_array() || harts.size() != count)
    damaged("not the " + std::to_string(count) + " harts of this machine");
  HartStates states;
  for (const Json& hart : harts) states.harts.push_back(hartFromJson(hart));
  return states;
}

}  // namespace ckptfs::rv64
