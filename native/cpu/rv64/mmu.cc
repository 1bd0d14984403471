#include "cpu/rv64/mmu.h"

namespace ckptfs::rv64 {
namespace {

// Sv39 page table entry (volume II, 12.4).
namespace pte {
constexpr uint64_t kValid = 1, kRead = 2, kWrite = 4, kExecute = 8, kUser = 16, kAccessed = 64,
                   kDirty = 128;
constexpr uint64_t kReserved = uint64_t{0x3ff} << 54;  // no Svnapot, no Svpbmt
constexpr unsigned kPpnShift = 10;
}  // namespace pte

constexpr unsigned kLevels = 3;

constexpr uint64_t kPageCause[] = {cause::kFetchPage, cause::kLoadPage, cause::kStorePage};
constexpr uint64_t kAccessCause[] = {cause::kFetchAccess, cause::kLoadAccess, cause::kStoreAccess};
constexpr uint64_t kMisalignedCause[] = {0, cause::kLoadMisaligned, cause::kStoreMisaligned};

/** Which bit of the 2 MiB filter stands for an address. */
size_t megapageBit(uint64_t address) {
  return (address >> 21 ^ address >> 31) & 1023;
}

// The guest orders its accesses by fences, which ThreadSanitizer does not know: so it is not told
// of them.
__attribute__((no_sanitize("thread"))) uint64_t loadHost(const std::byte* at, unsigned size) {
  switch (size) {
    case 1:
      return __atomic_load_n(reinterpret_cast<const uint8_t*>(at), __ATOMIC_RELAXED);
    case 2:
      return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), __ATOMIC_RELAXED);
    case 4:
      return __atomic_load_n(reinterpret_cast<const uint32_t*>(at), __ATOMIC_RELAXED);
    default:
      return __atomic_load_n(reinterpret_cast<const uint64_t*>(at), __ATOMIC_RELAXED);
  }
}

__attribute__((no_sanitize("thread"))) void storeHost(std::byte* at, unsigned size,
                                                      uint64_t value) {
  switch (size) {
    case 1:
      __atomic_store_n(reinterpret_cast<uint8_t*>(at), uint8_t(value), __ATOMIC_RELAXED);
      break;
    case 2:
      __atomic_store_n(reinterpret_cast<uint16_t*>(at), uint16_t(value), __ATOMIC_RELAXED);
      break;
    case 4:
      __atomic_store_n(reinterpret_cast<uint32_t*>(at), uint32_t(value), __ATOMIC_RELAXED);
      break;
    default:
      __atomic_store_n(reinterpret_cast<uint64_t*>(at), value, __ATOMIC_RELAXED);
  }
}

}  // namespace

void Mmu::flush() noexcept {
  if (!used_) return;
  for (auto& entry : read) entry.tag = kNoTag;
  for (auto& entry : write) entry.tag = kNoTag;
  for (auto& entry : fetch) entry.tag = kNoTag;
  gigapages_.reset();
  megapages_.reset();
  used_ = false;
}

void Mmu::flushAddress(uint64_t address) noexcept {
  if (gigapages_[address >> 30 & 511] || megapages_[megapageBit(address)]) return flush();
  const uint64_t tag = address & ~kPageMask;
  for (auto* entries : {&read, &write}) {
    DataEntry& entry = (*entries)[dataIndex(address)];
    if ((entry.tag & ~kUserTag) == tag) entry.tag = kNoTag;
  }
  FetchEntry& entry = fetch[address / kPageBytes % kFetchEntries];
  if ((entry.tag & ~kUserTag) == tag) entry.tag = kNoTag;
}

bool Mmu::raise(uint64_t what, uint64_t address) noexcept {
  fault = {what, address};
  return false;
}

bool Mmu::translate(uint64_t address, Access access, Page& page) noexcept {
  if (state_.satp >> satp::kModeShift != satp::kBare) return walk(address, access, page);
  page = {address & ~kPageMask, state_.privilege == Privilege::user};
  return true;
}

// Volume II, 12.3.2, with hardware update of A and D.
bool Mmu::walk(uint64_t address, Access access, Page& page) noexcept {
  const uint64_t pageFault = kPageCause[size_t(access)];
  if (uint64_t(int64_t(address << 25) >> 25) != address) return raise(pageFault, address);
  uint64_t table = (state_.satp & satp::kPpnMask) * kPageBytes;
  for (unsigned level = kLevels; level-- > 0;) {
    const unsigned shift = 12 + 9 * level;
    const uint64_t entryAt = table + (address >> shift & 511) * 8;
    if (!ram_.holds(entryAt, 8)) return raise(kAccessCause[size_t(access)], address);
    ram_.admit(entryAt - ram_.base, false);
    auto* entry = reinterpret_cast<uint64_t*>(ram_.view + (entryAt - ram_.base));
    uint64_t bits = __atomic_load_n(entry, __ATOMIC_RELAXED);
    for (;;) {
      const bool malformed = (bits & pte::kValid) == 0 || (bits & pte::kReserved) != 0 ||
                             (bits & (pte::kRead | pte::kWrite)) == pte::kWrite;
      if (malformed) return raise(pageFault, address);
      const uint64_t target = bits >> pte::kPpnShift << 12;  // kReserved is clear
      if ((bits & (pte::kRead | pte::kExecute)) == 0) {
        if ((bits & (pte::kUser | pte::kAccessed | pte::kDirty)) != 0)
          return raise(pageFault, address);
        table = target;
        break;  // next level
      }
      const bool user = (bits & pte::kUser) != 0;
      bool allowed;
      if (state_.privilege == Privilege::user) {
        allowed = user;
      } else {
        allowed = !user || (access != Access::fetch && (state_.sstatus & status::kSum) != 0);
      }
      const bool readable = (bits & pte::kRead) != 0 ||
                            ((state_.sstatus & status::kMxr) != 0 && (bits & pte::kExecute) != 0);
      switch (access) {
        case Access::fetch:
          allowed &= (bits & pte::kExecute) != 0;
          break;
        case Access::load:
          allowed &= readable;
          break;
        case Access::store:
          allowed &= (bits & pte::kWrite) != 0;
          break;
      }
      const uint64_t leafMask = (uint64_t{1} << shift) - 1;
      if (!allowed || (target & leafMask) != 0) return raise(pageFault, address);

      const uint64_t wanted =
          bits | pte::kAccessed | (access == Access::store ? pte::kDirty : uint64_t{0});
      if (wanted != bits) {
        ram_.admit(entryAt - ram_.base, true);
        if (!__atomic_compare_exchange_n(entry, &bits, wanted, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST))
          continue;  // the entry changed meanwhile: look at it again
      }
      if (level == 1) megapages_.set(megapageBit(address));
      if (level == 2) gigapages_.set(address >> 30 & 511);
      page = {target | (address & leafMask & ~kPageMask), user};
      return true;
    }
  }
  return raise(pageFault, address);
}

std::byte* Mmu::hostAddress(uint64_t address, Access access, uint64_t& physical) noexcept {
  const unsigned index = dataIndex(address);
  DataEntry& entry = access == Access::store ? write[index] : read[index];
  const uint64_t pageTag = address & ~kPageMask;
  const bool sum =
      state_.privilege == Privilege::supervisor && (state_.sstatus & status::kSum) != 0;
  if (entry.tag == pageTag + context || (sum && entry.tag == pageTag + kUserTag))
    return reinterpret_cast<std::byte*>(address + entry.addend);

  Page page;
  fault.cause = 0;
  if (!translate(address, access, page)) return nullptr;
  physical = page.physical | (address & kPageMask);
  if (!ram_.holds(page.physical, kPageBytes)) return nullptr;
  ram_.admit(physical - ram_.base, access == Access::store);
  std::byte* host = ram_.view + (physical - ram_.base);
  entry = {pageTag + (page.user ? kUserTag : 0), uint64_t(host) - address};
  used_ = true;
  return host;
}

/** Host addresses of every byte of an access that is misaligned and may cross into another page. */
bool Mmu::split(uint64_t address, unsigned size, Access access, std::byte* (&bytes)[8]) noexcept {
  for (unsigned i = 0; i < size; ++i) {
    const uint64_t at = address + i;
    if (i > 0 && (at & kPageMask) != 0) {
      bytes[i] = bytes[i - 1] + 1;
      continue;
    }
    uint64_t physical;
    bytes[i] = hostAddress(at, access, physical);
    if (bytes[i] == nullptr)  // a device takes no misaligned access
      return fault.cause != 0 ? false : raise(kAccessCause[size_t(access)], at);
  }
  return true;
}

bool Mmu::load(uint64_t address, unsigned size, uint64_t& value) noexcept {
  if ((address & (size - 1)) != 0) {
    std::byte* bytes[8];
    if (!split(address, size, Access::load, bytes)) return false;
    value = 0;
    for (unsigned i = 0; i < size; ++i) value |= loadHost(bytes[i], 1) << 8 * i;
    return true;
  }
  uint64_t physical;
  if (const std::byte* host = hostAddress(address, Access::load, physical)) {
    value = loadHost(host, size);
    return true;
  }
  if (fault.cause != 0) return false;
  value = 0;
  if (host_.mmioRead(physical, size, value)) return true;
  return raise(cause::kLoadAccess, address);
}

bool Mmu::store(uint64_t address, unsigned size, uint64_t value) noexcept {
  if ((address & (size - 1)) != 0) {
    std::byte* bytes[8];
    if (!split(address, size, Access::store, bytes)) return false;
    for (unsigned i = 0; i < size; ++i) storeHost(bytes[i], 1, value >> 8 * i);
    return true;
  }
  uint64_t physical;
  if (std::byte* host = hostAddress(address, Access::store, physical)) {
    storeHost(host, size, value);
    return true;
  }
  if (fault.cause != 0) return false;
  if (size < 8) value &= (uint64_t{1} << 8 * size) - 1;
  if (host_.mmioWrite(physical, size, value)) return true;
  return raise(cause::kStoreAccess, address);
}

std::byte* Mmu::atomic(uint64_t address, unsigned size, Access access) noexcept {
  if ((address & (size - 1)) != 0) {
    raise(kMisalignedCause[size_t(access)], address);
    return nullptr;
  }
  uint64_t physical;
  std::byte* host = hostAddress(address, access, physical);
  if (host == nullptr && fault.cause == 0) raise(kAccessCause[size_t(access)], address);
  return host;
}

bool Mmu::fetchPage(uint64_t address, uint64_t& page) noexcept {
  FetchEntry& entry = fetch[address / kPageBytes % kFetchEntries];
  const uint64_t tag = (address & ~kPageMask) + context;
  if (entry.tag != tag) {
    Page found;
    if (!translate(address, Access::fetch, found)) return false;
    if (!ram_.holds(found.physical, kPageBytes)) return raise(cause::kFetchAccess, address);
    ram_.admit(found.physical - ram_.base, false);
    entry = {tag, found.physical - ram_.base};
    used_ = true;
  }
  page = entry.page;
  return true;
}

}  // namespace ckptfs::rv64
