// Address translation and memory access of one hart: software TLB, Sv39 page table walk, MMIO.
//
// Owned by the hart's thread. The handlers probe the TLB inline; everything else goes through the
// slow functions here, which return false with `fault` set when the guest gets an exception.
//
// A TLB entry maps one 4 KiB page of one context, user or supervisor, told apart by bit 11 of the
// tag. A supervisor access to a user page (SUM) always takes the slow path, which probes the user
// context: so neither a mode switch nor a change of SUM flushes anything. A write entry exists only
// for a page whose PTE has D set, and
// whose memory block lets writes through: arming write traces is a flush.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>

#include "cpu/rv64/hart_state.h"
#include "cpu/rv64/isa.h"
#include "cpu/vcpu.h"
#include "memory/guest_memory.h"

namespace ckptfs::rv64 {

/** Guest RAM as a vCPU sees it. Offsets are bytes from the start of RAM. */
struct Ram {
  std::byte* view;
  uint64_t base;
  uint64_t bytes;
  GuestMemory* memory = nullptr;  // what traces accesses; nullptr: nobody does
  bool holds(uint64_t physical, uint64_t length) const noexcept {
    return physical >= base && length <= bytes && physical - base <= bytes - length;
  }
  /** Before an access to the 4 KiB page of `offset` that no TLB entry stands for, and before such
   * an entry is filled. May wait, or leave the vCPU's run; see GuestMemory::access. */
  void admit(uint64_t offset, bool write) const noexcept {
    if (memory == nullptr) return;
    if (memory->softTraced()) memory->access(offset, write);
    memory->noteAccess(offset);
  }
};

/** A synchronous exception: what goes to scause and stval. */
struct Fault {
  uint64_t cause = 0;
  uint64_t value = 0;
};

class Mmu {
 public:
  static constexpr unsigned kDataEntries = 1024;  // 4 MiB of reach, 16 KiB each for read and write
  static constexpr unsigned kFetchEntries = 512;
  static constexpr uint64_t kUserTag = 0x800;
  static constexpr uint64_t kNoTag = 0x10;  // no address and access size gives these low bits

  struct DataEntry {
    uint64_t tag;
    uint64_t addend;  // host address minus guest-virtual address
  };
  struct FetchEntry {
    uint64_t tag;
    uint64_t page;  // offset of the page in RAM
  };

  Mmu(const Ram& ram, HartState& state, VcpuHost& host) noexcept
      : ram_(ram), state_(state), host_(host) {
    flush();
  }

  /** The TLB entry that may hold `address`, and what its tag must be for an access of `size`. A
   *  misaligned address never matches: it goes the slow way. */
  static constexpr unsigned dataIndex(uint64_t address) noexcept {
    return address / kPageBytes % kDataEntries;
  }
  uint64_t tagFor(uint64_t address, unsigned size) const noexcept {
    return (address & (~kPageMask | (size - 1))) + context;
  }
  const FetchEntry& fetchEntry(uint64_t address) const noexcept {
    return fetch[address / kPageBytes % kFetchEntries];
  }

  /** Slow accesses of 1, 2, 4 or 8 bytes, aligned or not. A store writes nothing when it faults. */
  bool load(uint64_t address, unsigned size, uint64_t& value) noexcept;
  bool store(uint64_t address, unsigned size, uint64_t value) noexcept;
  /** Host address for an atomic access of 4 or 8 bytes; nullptr with `fault` set. */
  std::byte* atomic(uint64_t address, unsigned size, Access access) noexcept;
  /** RAM offset of the page that holds the instruction at `address`; fills the fetch TLB. */
  bool fetchPage(uint64_t address, uint64_t& page) noexcept;

  /** sfence.vma: everything, or all pages that the leaf PTE of `address` may have mapped. */
  void flush() noexcept;
  void flushAddress(uint64_t address) noexcept;
  /** Call after every change of the privilege mode. */
  void setContext() noexcept { context = state_.privilege == Privilege::user ? kUserTag : 0; }

  Fault fault;
  uint64_t context = 0;
  std::array<DataEntry, kDataEntries> read;
  std::array<DataEntry, kDataEntries> write;
  std::array<FetchEntry, kFetchEntries> fetch;

 private:
  struct Page {
    uint64_t physical;  // of the 4 KiB page
    bool user;
  };
  bool translate(uint64_t address, Access access, Page& page) noexcept;
  bool walk(uint64_t address, Access access, Page& page) noexcept;
  bool raise(uint64_t pageCause, uint64_t address) noexcept;
  /** Host address of one byte and what follows in its page; nullptr: device or fault. */
  std::byte* hostAddress(uint64_t address, Access access, uint64_t& physical) noexcept;
  bool split(uint64_t address, unsigned size, Access access, std::byte* (&bytes)[8]) noexcept;

  const Ram ram_;
  HartState& state_;
  VcpuHost& host_;
  bool used_ = true;             // an entry may have been filled since the last flush
  std::bitset<512> gigapages_;   // VPN[2] of every 1 GiB leaf with an entry
  std::bitset<1024> megapages_;  // hash of VPN[2..1] of every 2 MiB leaf with an entry
};

}  // namespace ckptfs::rv64
