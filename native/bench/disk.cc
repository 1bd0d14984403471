// What the benchmark of disks measures of ours: requests to a chain of redo logs, and its opening.
//
//   disk-bench write COUNT BYTES STEP THREADS PARENT LOG      into a new log, then a flush
//   disk-bench read COUNT BYTES STEP THREADS PARENT LOG...
//   disk-bench open PARENT LOG...                           and one block read
//   disk-bench commit PARENT LOG                            until it is durable
//   disk-bench fill PARENT LOG...                           makes logs that share all blocks
//   disk-bench seal PARENT LOG...                           makes sealed logs for open
//
// Prints one line of JSON. Request i is for BYTES at i × STEP modulo the disk's size, which is what
// `qemu-img bench` does, so that both see the same offsets in the same order. THREADS take the
// numbers in turn. Like the peer they write from one buffer; they read into one each, since bytes
// that change under a read do not match their checksums. The flush is not in `seconds`: it ends the
// run, as closing the image does for the peer, and whoever times the process has it.
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/page_buffer.h"
#include "disk/chain.h"

using namespace ckptfs;

namespace {

using Arguments = std::vector<std::string>;
using Paths = std::vector<std::string>;
using Buffers = std::vector<PageBuffer>;  // each page of which is there

constexpr uint32_t kBlockBytes = 4096;
constexpr std::byte kFilling{0x5a};
/** Coprime to any power of two, and a golden section of 2^18: neighbours in time lie far apart. */
constexpr uint64_t kWander = 162013;

struct Requests {
  uint64_t count, bytes, step, threads;
};

double secondsOf(const std::function<void()>& work) {
  const auto began = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

std::unique_ptr<Chain> openChain(const std::string& parent, const Paths& logs,
                                 Chain::Access access) {
  std::vector<Chain::LayerSpec> specs;
  for (const std::string& log : logs) specs.push_back({log, std::nullopt});
  return Chain::open(parent, std::nullopt, specs, access);
}

Buffers makeBuffers(uint64_t count, uint64_t bytes) {
  Buffers buffers;
  for (uint64_t i = 0; i < count; ++i)
    std::memset(buffers.emplace_back(bytes).data(), int(kFilling), bytes);
  return buffers;
}

using Request = std::function<void(uint64_t offset, std::span<std::byte> buffer)>;

/** Seconds of all requests; the first that fails ends them and is thrown. */
double secondsOf(const Requests& requests, const Chain& chain, Buffers& buffers,
                 const Request& request) {
  std::atomic<uint64_t> next = 0;
  std::exception_ptr failure;
  std::mutex failureMutex;
  const auto work = [&](std::span<std::byte> buffer) {
    try {
      for (uint64_t i; (i = next++) < requests.count;)
        request(i * requests.step % chain.bytes(), buffer);
    } catch (...) {
      const std::lock_guard lock(failureMutex);
      failure = std::current_exception();
      next = requests.count;
    }
  };
  const double seconds = secondsOf([&] {
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < requests.threads; i++)
      threads.emplace_back(work, buffers[i % buffers.size()].span());
    for (std::thread& thread : threads) thread.join();
  });
  if (failure) std::rethrow_exception(failure);
  return seconds;
}

double write(const Requests& requests, const std::string& parent, const Paths& logs) {
  const auto chain = openChain(parent, {}, Chain::Access::redo);
  chain->push(chain->prepare(logs.front()));
  Buffers buffers = makeBuffers(1, requests.bytes);
  const double seconds =
      secondsOf(requests, *chain, buffers,
                [&](uint64_t offset, std::span<std::byte> from) { chain->write(offset, from); });
  chain->flush();
  return seconds;
}

double read(const Requests& requests, const std::string& parent, const Paths& logs) {
  const auto chain = openChain(parent, logs, Chain::Access::readonly);
  Buffers buffers = makeBuffers(requests.threads, requests.bytes);
  return secondsOf(requests, *chain, buffers,
                   [&](uint64_t offset, std::span<std::byte> into) { chain->read(offset, into); });
}

/**
 * Writes every block of the disk once, one a record, in kParts parts of blocks at random, ascending
 * within each: each part to a log of its own, or all to one. So the same writes come in the same
 * order, and what differs is in how many logs they are.
 */
void fill(const std::string& parent, const Paths& logs) {
  constexpr size_t kParts = 32;
  const auto chain = openChain(parent, {}, Chain::Access::redo);
  std::vector<std::vector<uint64_t>> parts(kParts);
  std::mt19937_64 random(kParts);
  for (uint64_t block = 0; block < chain->bytes() / kBlockBytes; block++)
    parts[random() % kParts].push_back(block);
  const std::vector<std::byte> data(kBlockBytes, kFilling);
  for (size_t i = 0; i < kParts; i++) {
    if (i % (kParts / logs.size()) == 0) {
      chain->push(chain->prepare(logs[i / (kParts / logs.size())]));
      chain->sealFrozen();
    }
    for (const uint64_t block : parts[i]) chain->write(block * kBlockBytes, data);
  }
  chain->flush();
}

/**
 * Makes logs in which every block of the disk has been written once, at random, one a record; each
 * follows the one before. Index and seal are those of such a log, but where the records before them
 * belong is a hole: opening reads none of them (docs/disk-format.md).
 */
void seal(const std::string& parent, const Paths& logs) {
  const uint64_t diskBytes = openChain(parent, {}, Chain::Access::readonly)->bytes();
  LogId below = {};
  for (uint8_t number = 1; const std::string& path : logs) {
    const RedoHeader header = RedoHeader::make(diskBytes, kBlockBytes, {number++}, below);
    below = header.id;
    const uint64_t blocks = header.blocks(), recordBytes = kRedoAlignBytes + kBlockBytes;
    RedoIndex entries;
    for (uint64_t block = 0; block < blocks; block++) {
      const uint64_t record = sizeof header + block * kWander % blocks * recordBytes;
      const uint64_t checksum = block;  // of data that nobody reads
      entries.put(block, record + kRedoAlignBytes, kBlockBytes, {&checksum, 1});
    }
    File file("redo log", path, File::Access::create);
    file.write(0, std::as_bytes(std::span(&header, 1)));
    const uint64_t indexOffset = sizeof header + blocks * recordBytes;
    Record index = Record::index(SealedIndex(entries));
    index.finish(blocks + 1, indexOffset, header.seed());
    file.write(indexOffset, index.bytes());
    const uint64_t sealOffset = indexOffset + index.bytes().size();
    Record end = Record::seal(indexOffset, sealOffset + kRedoAlignBytes);
    end.finish(blocks + 2, sealOffset, header.seed());
    file.write(sealOffset, end.bytes());
    file.sync();
  }
}

double open(const std::string& parent, const Paths& logs) {
  std::unique_ptr<Chain> chain;
  const PageBuffer block(kBlockBytes);
  return secondsOf([&] {
    chain = openChain(parent, logs, Chain::Access::redo);
    // What "seal" makes has no data that matches its checksums.
    try {
      chain->read(0, block.span());
    } catch (const Error& error) {
      if (error.code() != Code::damaged) throw;
    }
  });
}

double commit(const std::string& parent, const Paths& logs) {
  const auto chain = openChain(parent, logs, Chain::Access::redo);
  return secondsOf([&] {
    chain->seal();
    Progress progress;
    chain->commit({.logs = logs.size()}, progress);
  });
}

double run(Arguments arguments) {
  const auto usage = [] {
    return Error(Code::usage, "the head of native/bench/disk.cc tells how it is used");
  };
  const auto take = [&] {
    if (arguments.empty()) throw usage();
    const std::string first = arguments.front();
    arguments.erase(arguments.begin());
    return first;
  };
  const auto takeNumber = [&] { return std::strtoull(take().c_str(), nullptr, 10); };
  const std::string what = take();
  Requests requests = {};
  if (what == "write" || what == "read")
    requests = {takeNumber(), takeNumber(), takeNumber(), takeNumber()};
  const std::string parent = take();
  const Paths& logs = arguments;
  if (logs.empty()) throw usage();
  if (what == "write") return write(requests, parent, logs);
  if (what == "read") return read(requests, parent, logs);
  if (what == "open") return open(parent, logs);
  if (what == "commit") return commit(parent, logs);
  if (what == "fill") return secondsOf([&] { fill(parent, logs); });
  if (what == "seal") return secondsOf([&] { seal(parent, logs); });
  throw usage();
}

}  // namespace

int main(int count, char** arguments) {
  try {
    std::printf("{\"seconds\":%.6f}\n", run({arguments + 1, arguments + count}));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "disk-bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
