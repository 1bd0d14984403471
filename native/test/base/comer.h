// Files that come from others of the same size, on a thread of their own, when they are wanted.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/arrival.h"

namespace ckptfs {

/** Those that come are hollow, and arriving once it is made. */
class Comer {
 public:
  struct Coming {
    std::string from, to;
    uint64_t modifiedNs;
  };

  explicit Comer(std::vector<Coming> files) : files_(std::move(files)) {
    thread_ = std::thread([this] { come(); });
    rings_.wait(0);
  }
  ~Comer() {
    ended_ = true;
    ring();
    thread_.join();
  }
  Comer(const Comer&) = delete;
  Comer& operator=(const Comer&) = delete;

  /** Requests for which somebody waits, and those that were made in advance. */
  unsigned urgent() const { return urgent_; }
  unsigned patient() const { return patient_; }
  /** Pieces that have come. */
  unsigned pieces() const { return pieces_; }
  /** From now on nothing comes, and who waits is told so. */
  void fail() {
    failed_ = true;
    ring();
  }

 private:
  struct Open {
    int from, to;
    std::shared_ptr<Arrival> arrival;
  };

  void ring() {
    ++rings_;
    rings_.notify_all();
  }
  void come() {
    std::vector<Open> open;
    for (const auto& [from, to, modifiedNs] : files_) {
      const int source = ::open(from.c_str(), O_RDONLY), target = ::open(to.c_str(), O_RDWR);
      REQUIRE(source >= 0);
      REQUIRE(target >= 0);
      open.push_back({source, target, Arrival::begin(target, modifiedNs, [this] { ring(); })});
    }
    ring();
    for (uint32_t heard = rings_; !ended_; heard = rings_) {
      for (const Open& file : open) bring(file);
      rings_.wait(heard);
    }
    for (const auto& [from, to, arrival] : open) {
      close(from);
      close(to);
    }
  }
  void bring(const Open& file) {
    if (failed_) file.arrival->fail();
    for (const auto& [offset, length, urgent] : file.arrival->takeWanted()) {
      std::vector<std::byte> bytes(length);
      REQUIRE(pread(file.from, bytes.data(), length, off_t(offset)) == ssize_t(length));
      REQUIRE(pwrite(file.to, bytes.data(), length, off_t(offset)) == ssize_t(length));
      ++(urgent ? urgent_ : patient_);
      pieces_ += unsigned((length + Arrival::kPieceBytes - 1) / Arrival::kPieceBytes);
      if (!failed_) file.arrival->arrived(offset, length);
    }
  }

  const std::vector<Coming> files_;
  std::atomic<uint32_t> rings_{0};
  std::atomic<bool> ended_{false}, failed_{false};
  std::atomic<unsigned> urgent_{0}, patient_{0}, pieces_{0};
  std::thread thread_;
};

}  // namespace ckptfs
