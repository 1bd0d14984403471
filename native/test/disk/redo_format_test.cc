// The bytes of a redo log as docs/disk-format.md gives them, held against a file that never
// changes.
#include <xxhash.h>

#include <cstring>

#include "disk/redo_log.h"
#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

constexpr LogId kId = {0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr LogId kParentId = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
                             0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};

std::string goldenPath() {
  return std::filesystem::path(__FILE__).parent_path() / "golden" / "redo-log-v1.bin";
}

/** Block contents of the golden file: bytes of the block's own number and version. */
Bytes block(uint8_t number, uint8_t version) {
  Bytes bytes(512);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = std::byte(number * 16 + version + i % 7);
  return bytes;
}

void write(RedoLog& log, uint64_t first, const std::vector<Bytes>& blocks) {
  Record record = Record::data(first, blocks.size(), 512);
  for (size_t i = 0; i < blocks.size(); i++)
    std::copy(blocks[i].begin(), blocks[i].end(), record.data().begin() + long(i * 512));
  log.write(record);
}

/** Takes fields out of a file, in order; what is skipped must be zero. */
struct Fields {
  const Bytes& bytes;
  size_t at;

  uint32_t u32() { return take<uint32_t>(); }
  uint64_t u64() { return take<uint64_t>(); }
  std::string text(size_t length) {
    at += length;
    return std::string(reinterpret_cast<const char*>(&bytes[at - length]), length);
  }
  Bytes raw(size_t length) {
    at += length;
    return Bytes(bytes.begin() + long(at - length), bytes.begin() + long(at));
  }
  bool zeroTo(size_t end) {
    bool zero = true;
    for (; at < end; at++) zero = zero && bytes[at] == std::byte{0};
    return zero;
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, &bytes[at], sizeof value);
    at += sizeof value;
    return value;
  }
};

uint64_t sum(const Bytes& bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

/** The checksum of the record head [from, to): its own field zero, seeded with the first 8 id
 * bytes. */
uint64_t headSum(const Bytes& file, size_t from, size_t to) {
  Bytes head(file.begin() + long(from), file.begin() + long(to));
  std::fill_n(head.begin() + 56, 8, std::byte{0});
  return XXH3_64bits_withSeed(head.data(), head.size(), 0x0706050403020110);
}

/** Checks the 64 bytes that begin every record, and leaves `f` after them. */
void checkRecord(Fields& f, uint32_t type, uint64_t sequence, uint64_t first, uint64_t count,
                 uint64_t durable) {
  const size_t from = f.at;
  CHECK(f.text(8) == "ckptREC1");
  CHECK(f.u32() == type);
  CHECK(f.u32() == 0);
  CHECK(f.u64() == sequence);
  CHECK(f.u64() == first);
  CHECK(f.u64() == count);
  CHECK(f.u64() == durable);
  CHECK(f.u64() == 0);
  CHECK(f.u64() == headSum(f.bytes, from, from + 512));
}

TEST_CASE("redo format: the golden file, field by field") {
  const Bytes file = contents(goldenPath());
  REQUIRE(file.size() == 5120);
  Fields f{file, 0};
  CHECK(f.text(8) == "CKPTREDO");
  CHECK(f.u32() == 1);     // version
  CHECK(f.u32() == 512);   // header bytes
  CHECK(f.u64() == 4096);  // disk bytes
  CHECK(f.u32() == 512);   // block bytes
  CHECK(f.u32() == 0);
  CHECK(f.take<LogId>() == kId);
  CHECK(f.take<LogId>() == kParentId);
  CHECK(f.zeroTo(504));
  CHECK(f.u64() == sum(Bytes(file.begin(), file.begin() + 504)));

  REQUIRE(f.at == 512);  // blocks 2 and 3
  checkRecord(f, 1, 1, 2, 2, 512);
  CHECK(f.u64() == sum(block(2, 1)));
  CHECK(f.u64() == sum(block(3, 1)));
  CHECK(f.zeroTo(1024));
  CHECK(f.raw(512) == block(2, 1));
  CHECK(f.raw(512) == block(3, 1));

  REQUIRE(f.at == 2048);  // a flush
  checkRecord(f, 3, 2, 0, 0, 2048);
  CHECK(f.zeroTo(2560));

  checkRecord(f, 2, 3, 3, 4, 2048);  // blocks 3 to 6 are zeroed
  CHECK(f.zeroTo(3072));

  checkRecord(f, 1, 4, 5, 1, 2048);  // block 5
  CHECK(f.u64() == sum(block(5, 2)));
  CHECK(f.zeroTo(3584));
  CHECK(f.raw(512) == block(5, 2));

  REQUIRE(f.at == 4096);
  checkRecord(f, 4, 5, 1, 2, 4096);  // the index: one zero extent, two entries
  CHECK(f.u64() == 2);
  CHECK(f.u64() == 1024);
  CHECK(f.u64() == sum(block(2, 1)));
  CHECK(f.u64() == 5);
  CHECK(f.u64() == 3584);
  CHECK(f.u64() == sum(block(5, 2)));
  CHECK(f.u64() == 3);
  CHECK(f.u64() == 4);
  CHECK(f.zeroTo(4608));

  checkRecord(f, 5, 6, 4096, 5120, 4608);  // the seal
  CHECK(f.zeroTo(5120));
}

TEST_CASE("redo format: the golden file opens, verifies, and reads") {
  CHECK(verifyRedoLog(goldenPath(), 5120).empty());
  auto log = RedoLog::open(goldenPath(), RedoLog::Mode::reader);
  CHECK(log->sealed());
  CHECK(log->header().id == kId);
  Bytes bytes(8 * 512);
  const auto expect = [&](uint64_t first, bool here, const Bytes& data) {
    const auto run = log->read(first, std::span(bytes).subspan(first * 512));
    CHECK(run.here == here);
    CHECK(run.count == data.size() / 512);
    if (here) CHECK(std::equal(data.begin(), data.end(), bytes.begin() + long(first * 512)));
  };
  expect(0, false, Bytes(1024));
  expect(2, true, block(2, 1));
  expect(3, true, Bytes(1024));
  expect(5, true, block(5, 2));
  expect(6, true, Bytes(512));
  expect(7, false, Bytes(512));
}

TEST_CASE("redo format: the same requests write the golden file again") {
  Scratch scratch;
  RedoLog::Options options;
  options.blockBytes = 512;
  options.id = kId;
  options.parentId = kParentId;
  auto log = RedoLog::create(scratch.path("redo"), 4096, options);
  write(*log, 2, {block(2, 1), block(3, 1)});
  log->flush();
  log->writeZeroes(3, 4);
  write(*log, 5, {block(5, 2)});
  log->seal();
  log.reset();
  CHECK(contents(scratch.path("redo")) == contents(goldenPath()));
}

}  // namespace
}  // namespace ckptfs
