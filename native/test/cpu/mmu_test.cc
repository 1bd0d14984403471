// Sv39 against an oracle written from the manual's steps, for every combination of PTE bits and
// modes.
#include "cpu/rv64/mmu.h"

#include <doctest/doctest.h>

#include <cstring>
#include <optional>
#include <vector>

#include "test/cpu/no_host.h"

namespace ckptfs::rv64::test {
namespace {

constexpr uint64_t kBase = 0x80000000;
constexpr uint64_t kRamBytes = 8 << 20;
constexpr uint64_t kRoot = kBase, kMiddle = kBase + 0x1000, kLeaves = kBase + 0x2000;
constexpr uint64_t kVirtual = 0x40000000;       // VPN = 1, 0, 0
constexpr uint64_t kTarget = kBase + 0x200000;  // what the leaves map
constexpr uint64_t V = 1, R = 2, W = 4, X = 8, U = 16, G = 32, A = 64, D = 128;

struct OneDevice : NoHost {
  bool mmioRead(uint64_t address, unsigned, uint64_t& value) noexcept override {
    value = 0x5a;
    return address == 0x10000000;
  }
  bool mmioWrite(uint64_t address, unsigned, uint64_t) noexcept override {
    return address == 0x10000000;
  }
};

struct Fixture {
  Fixture()
      : ram(kRamBytes / 8),
        mmu({reinterpret_cast<std::byte*>(ram.data()), kBase, kRamBytes}, state, host) {
    set(kRoot + 8, kMiddle >> 2 | V);
    set(kMiddle, kLeaves >> 2 | V);
    state.satp = satp::kSv39 << satp::kModeShift | kRoot >> 12;
  }
  uint64_t& word(uint64_t physical) { return ram[(physical - kBase) / 8]; }
  void set(uint64_t physical, uint64_t value) { word(physical) = value; }
  void mode(Privilege privilege, uint64_t status) {
    state.privilege = privilege;
    state.sstatus = status;
    mmu.setContext();
  }
  /** The cause of the fault, or nothing. */
  std::optional<uint64_t> access(Access kind, uint64_t address) {
    uint64_t value = 0;
    bool done = false;
    switch (kind) {
      case Access::fetch:
        done = mmu.fetchPage(address, value);
        break;
      case Access::load:
        done = mmu.load(address, 8, value);
        break;
      case Access::store:
        done = mmu.store(address, 8, value);
        break;
    }
    if (done) return std::nullopt;
    CHECK(mmu.fault.value == address);
    return mmu.fault.cause;
  }

  std::vector<uint64_t> ram;
  HartState state;
  OneDevice host;
  Mmu mmu;
};

/** Manual, volume II, 12.3.2, for a leaf that maps RAM. */
bool allowed(uint64_t pte, Access access, Privilege privilege, uint64_t status) {
  if (!(pte & V) || (!(pte & R) && (pte & W))) return false;
  if (!(pte & (R | X))) return false;  // a pointer below the last level
  if (privilege == Privilege::user && !(pte & U)) return false;
  if (privilege == Privilege::supervisor && (pte & U))
    if (access == Access::fetch || !(status & status::kSum)) return false;
  if (access == Access::fetch) return pte & X;
  if (access == Access::store) return pte & W;
  return (pte & R) || ((status & status::kMxr) && (pte & X));
}

}  // namespace

TEST_CASE("every combination of PTE bits, access, mode, SUM and MXR") {
  constexpr uint64_t kPageFaults[] = {cause::kFetchPage, cause::kLoadPage, cause::kStorePage};
  Fixture f;
  int granted = 0;
  for (uint64_t bits = 0; bits < 256; ++bits)
    for (int how = 0; how < 24; ++how) {
      const Access access = Access(how % 3);
      const Privilege privilege = Privilege(how / 3 % 2);
      const uint64_t status = (how / 6 % 2 ? status::kSum : 0) | (how / 12 ? status::kMxr : 0);
      const uint64_t pte = kTarget >> 2 | bits;
      f.set(kLeaves, pte);
      f.mode(privilege, status);
      f.mmu.flush();
      const auto fault = f.access(access, kVirtual + 8);
      const bool expected = allowed(pte, access, privilege, status);
      CAPTURE(bits);
      CAPTURE(how);
      REQUIRE(fault.has_value() == !expected);
      const uint64_t updated = pte | A | (access == Access::store ? D : 0);
      REQUIRE(f.word(kLeaves) == (expected ? updated : pte));
      if (!expected) REQUIRE(*fault == kPageFaults[size_t(access)]);
      granted += expected;
    }
  CHECK(granted > 500);
}

TEST_CASE("what one mode put into the TLB is no use to another") {
  Fixture f;
  f.set(kLeaves, kTarget >> 2 | V | R | W | X | U);
  f.set(kLeaves + 8, kTarget >> 2 | V | R | W | X);
  const auto check = [&](Privilege privilege, uint64_t status, Access access, bool user,
                         bool kernel) {
    f.mode(privilege, status);
    CHECK(!f.access(access, kVirtual) == user);
    CHECK(!f.access(access, kVirtual + 0x1000) == kernel);
  };
  for (int round = 0; round < 2; ++round)
    for (const Access access : {Access::fetch, Access::load, Access::store}) {
      check(Privilege::user, 0, access, true, false);
      check(Privilege::supervisor, 0, access, false, true);
      check(Privilege::supervisor, status::kSum, access, access != Access::fetch, true);
      check(Privilege::user, status::kSum, access, true, false);
    }
}

TEST_CASE("malformed entries and addresses fault") {
  Fixture f;
  f.mode(Privilege::supervisor, 0);
  const auto loadOf = [&](uint64_t address) {
    f.mmu.flush();
    return f.access(Access::load, address);
  };
  f.set(kLeaves, kTarget >> 2 | V | R);
  CHECK(loadOf(kVirtual) == std::nullopt);
  for (unsigned bit = 54; bit < 64; ++bit) {
    f.set(kLeaves, kTarget >> 2 | V | R | uint64_t{1} << bit);
    CHECK(loadOf(kVirtual) == cause::kLoadPage);
  }
  for (const uint64_t bit : {A, D, U}) {  // reserved in a pointer
    f.set(kMiddle, kLeaves >> 2 | V | bit);
    CHECK(loadOf(kVirtual) == cause::kLoadPage);
  }
  f.set(kMiddle, kLeaves >> 2 | V | G);
  f.set(kLeaves, kTarget >> 2 | V | R);
  CHECK(loadOf(kVirtual) == std::nullopt);
  for (unsigned bit = 39; bit < 64; ++bit)  // bits 63:39 must equal bit 38
    CHECK(loadOf(kVirtual | uint64_t{1} << bit) == cause::kLoadPage);
  f.set(kMiddle, (kBase + kRamBytes) >> 2 | V);  // a table outside RAM
  CHECK(loadOf(kVirtual) == cause::kLoadAccess);
  CHECK(f.access(Access::store, kVirtual) == cause::kStoreAccess);
  CHECK(f.access(Access::fetch, kVirtual) == cause::kFetchAccess);
  f.set(kMiddle, kLeaves >> 2 | V);
  f.set(kLeaves, (kBase + kRamBytes) >> 2 | V | R | W | X);  // a page where nothing is
  CHECK(loadOf(kVirtual) == cause::kLoadAccess);
  CHECK(f.access(Access::store, kVirtual) == cause::kStoreAccess);
  CHECK(f.access(Access::fetch, kVirtual) == cause::kFetchAccess);
  f.set(kLeaves, uint64_t{0x10000000} >> 2 | V | R | W);  // a device
  uint64_t value = 0;
  f.mmu.flush();
  CHECK(f.mmu.load(kVirtual, 4, value));
  CHECK(value == 0x5a);
  CHECK(f.access(Access::load, kVirtual + 4) == cause::kLoadAccess);  // misaligned there
}

TEST_CASE("superpages, and their sfence.vma by any of their addresses") {
  Fixture f;
  f.mode(Privilege::supervisor, 0);
  uint64_t value = 0;
  f.set(kTarget + 0x5008, 55);
  f.set(kTarget + 0x205008, 66);
  f.set(kMiddle, kTarget >> 2 | V | R | W);
  CHECK(f.mmu.load(kVirtual + 0x5008, 8, value));
  CHECK(value == 55);
  f.set(kMiddle, (kTarget + 0x200000) >> 2 | V | R | W);
  CHECK(f.mmu.load(kVirtual + 0x5008, 8, value));
  CHECK(value == 55);  // still cached: no sfence.vma yet
  f.mmu.flushAddress(kVirtual + 0x1ff000);
  CHECK(f.mmu.load(kVirtual + 0x5008, 8, value));
  CHECK(value == 66);
  f.set(kMiddle, (kTarget + 0x1000) >> 2 | V | R);  // not aligned to its size
  f.mmu.flush();
  CHECK(f.access(Access::load, kVirtual) == cause::kLoadPage);
  f.set(kRoot + 8, kBase >> 2 | V | R);
  f.mmu.flush();
  CHECK(f.mmu.load(kVirtual + (kTarget - kBase) + 0x5008, 8, value));
  CHECK(value == 55);
  f.set(kRoot + 8, (kBase + 0x200000) >> 2 | V | R);
  f.mmu.flushAddress(kVirtual + 0x3fffffff);
  CHECK(f.access(Access::load, kVirtual) == cause::kLoadPage);
}

TEST_CASE("sfence.vma of one page flushes that page for every kind of access") {
  Fixture f;
  f.mode(Privilege::supervisor, 0);
  for (uint64_t page = 0; page < 2; ++page)
    f.set(kLeaves + 8 * page, (kTarget + page * 0x1000) >> 2 | V | R | W | X);
  const Access kinds[] = {Access::fetch, Access::load, Access::store};
  for (const Access kind : kinds)
    for (uint64_t page = 0; page < 2; ++page) CHECK(!f.access(kind, kVirtual + page * 0x1000));
  f.set(kLeaves, 0);
  f.set(kLeaves + 8, 0);
  f.mmu.flushAddress(kVirtual + 0x123);
  for (const Access kind : kinds) {
    CHECK(f.access(kind, kVirtual));
    CHECK(!f.access(kind, kVirtual + 0x1000));
  }
}

TEST_CASE("misaligned accesses cross pages, and a store writes all or nothing") {
  Fixture f;
  f.mode(Privilege::supervisor, 0);
  f.set(kLeaves, (kTarget + 0x1000) >> 2 | V | R | W);  // neighbours in reverse order
  f.set(kLeaves + 8, kTarget >> 2 | V | R | W);
  uint64_t value = 0;
  CHECK(f.mmu.store(kVirtual + 0xffd, 8, 0x1122334455667788));
  CHECK(f.word(kTarget + 0x1ff8) == 0x6677880000000000);
  CHECK(f.word(kTarget) == 0x0000001122334455);
  CHECK(f.mmu.load(kVirtual + 0xffd, 8, value));
  CHECK(value == 0x1122334455667788);
  CHECK(f.mmu.load(kVirtual + 0xfff, 2, value));
  CHECK(value == 0x5566);
  CHECK(f.mmu.load(kVirtual + 0xffd, 4, value));
  CHECK(value == 0x55667788);

  f.set(kLeaves + 8, kTarget >> 2 | V | R);
  f.mmu.flush();
  uint64_t before = f.word(kTarget + 0x1ff8);
  CHECK(!f.mmu.store(kVirtual + 0xffd, 8, 0));
  CHECK(f.mmu.fault.cause == cause::kStorePage);
  CHECK(f.mmu.fault.value == kVirtual + 0x1000);
  CHECK(f.word(kTarget + 0x1ff8) == before);
}

TEST_CASE("no translation without satp, and the ends of RAM") {
  Fixture f;
  f.state.satp = 0;
  f.mode(Privilege::user, 0);
  CHECK(!f.access(Access::store, kBase + kRamBytes - 8));
  CHECK(f.access(Access::load, kBase + kRamBytes) == cause::kLoadAccess);
  CHECK(f.access(Access::load, kBase - 8) == cause::kLoadAccess);
  CHECK(f.access(Access::load, UINT64_MAX - 7) == cause::kLoadAccess);
  uint64_t value;
  CHECK(!f.mmu.load(kBase + kRamBytes - 4, 8, value));
  CHECK(f.mmu.fault.cause == cause::kLoadAccess);
  CHECK(f.mmu.fault.value == kBase + kRamBytes);
}

}  // namespace ckptfs::rv64::test
