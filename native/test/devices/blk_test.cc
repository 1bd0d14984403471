// What each request does, and how bad ones are refused.
#include "devices/virtio/blk.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "test/devices/blk_rig.h"

using namespace ckptfs;
using D = TestDriver;

TEST_CASE("blk: configuration space and features") {
  BlkRig rig;
  CHECK(rig.driver.get(reg::deviceId) == 2);
  CHECK(rig.blk.read(reg::config, 8) == BlkRig::kDiskBytes / 512);
  CHECK(rig.driver.get(reg::config + 8) == 65536);      // size_max
  CHECK(rig.driver.get(reg::config + 12) == 126);       // seg_max
  CHECK(rig.driver.get(reg::config + 20) == 512);       // blk_size
  CHECK(rig.driver.get(reg::config + 36) == 1u << 22);  // max_discard_sectors
  CHECK(rig.driver.get(reg::config + 40) == 16);        // max_discard_seg
  CHECK(rig.driver.get(reg::config + 44) == 1);         // discard_sector_alignment
  CHECK(rig.driver.get(reg::config + 48) == 1u << 22);  // max_write_zeroes_sectors
  CHECK(rig.driver.get(reg::config + 52) == 16);        // max_write_zeroes_seg
  CHECK(rig.blk.read(reg::config + 56, 1) == 1);        // write_zeroes_may_unmap
  CHECK(rig.driver.offered() == (D::kVersion1 | D::kIndirectFeature | 0x6246));
  BlkRig readOnly(true);
  CHECK(readOnly.driver.offered() == (D::kVersion1 | D::kIndirectFeature | 0x0266));
  MemoryDisk odd(1000);
  CHECK_THROWS_AS(VirtioBlk(
                      odd, "odd", rig.ram, [](bool) {}, rig.pool),
                  Error);
}

TEST_CASE("blk: reads, writes, flushes and tells its name") {
  BlkRig rig;
  rig.driver.start();
  std::memset(rig.driver.at(rig.data(0)), 0x5a, 4096);
  CHECK(rig.request(BlkType::out, 8, 4096) == 0);
  CHECK(rig.lastUsed.length == 1);
  const auto contents = rig.disk.contents();
  CHECK(std::count(contents.begin(), contents.end(), std::byte{0x5a}) == 4096);
  CHECK(contents[8 * 512] == std::byte{0x5a});

  std::memset(rig.driver.at(rig.data(0)), 0, 0x2000);
  CHECK(rig.request(BlkType::in, 7, 1024) == 0);
  CHECK(rig.lastUsed.length == 1025);
  CHECK(rig.driver.fetch<uint8_t>(rig.data(0) + 511) == 0);
  CHECK(rig.driver.fetch<uint8_t>(rig.data(0) + 512) == 0x5a);
  CHECK(rig.driver.fetch<uint8_t>(rig.data(0) + 1024) == 0);

  CHECK(rig.disk.flushes == 0);
  CHECK(rig.request(BlkType::flush, 0, 0) == 0);
  CHECK(rig.disk.flushes == 1);

  std::memset(rig.driver.at(rig.data(0)), 0xff, 64);
  CHECK(rig.request(BlkType::getId, 0, 20) == 0);
  CHECK(rig.lastUsed.length == 21);
  CHECK(std::string(reinterpret_cast<char*>(rig.driver.at(rig.data(0))), 4) ==
        std::string("vda\0", 4));
  CHECK(rig.request(BlkType::getId, 0, 2) == 0);
  CHECK(rig.failures == 0);
}

TEST_CASE("blk: a driver that does not flush gets durable writes") {
  BlkRig rig;
  rig.driver.start(128, 1u << 9);
  CHECK(rig.request(BlkType::out, 0, 512) == 0);
  CHECK(rig.disk.flushes == 1);
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
  CHECK(rig.disk.flushes == 1);
}

TEST_CASE("blk: the largest request, in many segments of an indirect table") {
  GuestMemory memory(16 << 20, Geometry{});
  MemoryDisk disk(16 << 20);
  TestLine line;
  WorkerPool pool(2, "test-io");
  VirtioBlk blk(disk, "vda", GuestRam(memory, D::kRamBase), line.input(), pool);
  TestDriver driver(blk, memory);
  driver.start();
  constexpr uint64_t kHeader = D::kRamBase + 0x4000, kTable = D::kRamBase + 0x5000;
  constexpr uint64_t kBase = D::kRamBase + 0x10000;
  constexpr uint32_t kLength = BlkRequest::kSegmentLimitBytes;
  const auto transfer = [&](BlkType type, uint16_t segments) {
    driver.put(kHeader, uint64_t{uint32_t(type)});
    driver.put(kHeader + 8, uint64_t{3});
    driver.put(kHeader + 16, uint8_t{0xee});
    const uint16_t flags = D::kNext | (type == BlkType::in ? D::kWrite : 0);
    driver.describe(0, kHeader, 16, D::kNext, 1, kTable);
    for (uint16_t i = 1; i <= segments; ++i)  // backwards in memory
      driver.describe(i, kBase + (segments - i) * uint64_t{kLength}, kLength, flags, i + 1, kTable);
    driver.describe(segments + 1, kHeader + 16, 1, D::kWrite, 0, kTable);
    driver.describe(0, kTable, (segments + 2) * 16u, D::kIndirect);
    driver.offer(0);
    driver.kick();
    driver.await(line);
    return driver.fetch<uint8_t>(kHeader + 16);
  };
  constexpr uint64_t kTotal = BlkRequest::kDataLimitBytes;
  std::mt19937_64 random(11);
  for (uint64_t at = 0; at < kTotal; at += 8) driver.put(kBase + at, random());
  const std::vector<std::byte> memoryBefore(driver.at(kBase), driver.at(kBase) + kTotal);
  REQUIRE(transfer(BlkType::out, BlkRequest::kSegmentsMax) == 0);
  const auto contents = disk.contents();
  bool same = true;
  for (uint64_t i = 0; i < BlkRequest::kSegmentsMax; ++i)
    same = same && std::equal(contents.begin() + 3 * 512 + i * kLength,
                              contents.begin() + 3 * 512 + (i + 1) * kLength,
                              memoryBefore.end() - (i + 1) * kLength);
  CHECK(same);
  std::memset(driver.at(kBase), 0, kTotal);
  REQUIRE(transfer(BlkType::in, BlkRequest::kSegmentsMax) == 0);
  CHECK(std::equal(memoryBefore.begin(), memoryBefore.end(), driver.at(kBase)));

  // One segment too long: within the queue's rules, beyond the announced sizes.
  driver.put(kHeader, uint64_t{0});
  driver.describe(1, kBase, uint32_t(kTotal) + 512, D::kNext | D::kWrite, 2, kTable);
  driver.describe(2, kHeader + 16, 1, D::kWrite, 0, kTable);
  driver.describe(0, kTable, 3 * 16, D::kIndirect);
  driver.offer(0);
  driver.kick();
  driver.await(line);
  CHECK(driver.fetch<uint8_t>(kHeader + 16) == 1);
}

TEST_CASE("blk: header, data and status may be cut anywhere") {
  BlkRig rig;
  D& d = rig.driver;
  d.start();
  rig.disk.fill(0, 512, 0x11);
  d.put(rig.header(0), uint64_t{0});
  d.put(rig.header(0) + 8, uint64_t{0});
  d.describe(0, rig.header(0), 3, D::kNext, 1);
  d.describe(1, rig.header(0) + 3, 13, D::kNext, 2);
  d.describe(2, rig.data(0), 500, D::kNext | D::kWrite, 3);
  d.describe(3, rig.data(1), 13, D::kNext | D::kWrite, 4);  // 12 of data, and the status
  d.describe(4, rig.data(2), 0, D::kWrite);
  d.put(rig.data(1) + 12, uint8_t{0xee});
  d.offer(0);
  d.kick();
  CHECK(d.await(rig.line).length == 513);
  CHECK(d.fetch<uint8_t>(rig.data(0) + 499) == 0x11);
  CHECK(d.fetch<uint8_t>(rig.data(1) + 11) == 0x11);
  CHECK(d.fetch<uint8_t>(rig.data(1) + 12) == 0);
}

TEST_CASE("blk: discard and write-zeroes") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.fill(0, BlkRig::kDiskBytes, 0x77);
  rig.range(0, 10, 2, 0);
  rig.range(1, 20, 1, 0);
  CHECK(rig.request(BlkType::discard, 0, 32) == 0);
  CHECK(rig.disk.discards == 2);
  rig.range(0, 30, 1, 0);
  rig.range(1, 40, 1, 1);
  rig.range(2, 50, 0, 0);
  CHECK(rig.request(BlkType::zeroes, 0, 48) == 0);
  CHECK(rig.disk.zeroes == 1);
  CHECK(rig.disk.unmaps == 1);
  const auto contents = rig.disk.contents();
  CHECK(std::count(contents.begin(), contents.end(), std::byte{0}) == 5 * 512);
  for (const unsigned sector : {10, 11, 20, 30, 40}) CHECK(contents[sector * 512] == std::byte{0});
}

TEST_CASE("blk: bad requests get a status and change nothing") {
  BlkRig rig;
  rig.driver.start();
  constexpr uint64_t kSectors = BlkRig::kDiskBytes / 512;
  constexpr uint8_t kIoError = 1, kUnsupported = 2;
  rig.disk.fill(0, BlkRig::kDiskBytes, 0x77);
  std::memset(rig.driver.at(rig.data(0)), 0x33, 8192);
  const auto before = rig.disk.contents();

  for (const auto type : {BlkType::in, BlkType::out}) {
    CHECK(rig.request(type, kSectors, 512) == kIoError);
    CHECK(rig.lastUsed.length == 1);
    CHECK(rig.request(type, kSectors - 1, 1024) == kIoError);
    CHECK(rig.request(type, UINT64_MAX, 512) == kIoError);
    CHECK(rig.request(type, UINT64_MAX / 512, 1024) == kIoError);
    CHECK(rig.request(type, 0, 513) == kIoError);
    CHECK(rig.request(type, 0, 100) == kIoError);
    CHECK(rig.request(type, kSectors, 0) == 0);
  }
  for (const uint32_t type : {2u, 3u, 9u, 12u, 14u, 0x80000000u, UINT32_MAX})
    CHECK(rig.request(BlkType(type), 0, 512) == kUnsupported);

  for (const auto type : {BlkType::discard, BlkType::zeroes}) {
    CHECK(rig.request(type, 0, 0) == kIoError);
    CHECK(rig.request(type, 0, 24) == kIoError);
    CHECK(rig.request(type, 0, 17 * 16) == kIoError);
    rig.range(0, 0, 1, 0);
    rig.range(1, kSectors, 1, 0);
    CHECK(rig.request(type, 0, 32) == kIoError);
    rig.range(1, UINT64_MAX, 2, 0);
    CHECK(rig.request(type, 0, 32) == kIoError);
    rig.range(1, 0, UINT32_MAX, 0);
    CHECK(rig.request(type, 0, 32) == kIoError);
    rig.range(1, 0, 1, 2);
    CHECK(rig.request(type, 0, 32) == kUnsupported);
  }
  rig.range(0, 0, 1, 1);
  CHECK(rig.request(BlkType::discard, 0, 16) == kUnsupported);

  CHECK(rig.disk.contents() == before);
  CHECK(rig.failures == 0);
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
}

TEST_CASE("blk: a read-only disk refuses changes") {
  BlkRig rig(true);
  rig.driver.start();
  rig.range(0, 0, 1, 0);
  CHECK(rig.request(BlkType::out, 0, 512) == 1);
  CHECK(rig.request(BlkType::discard, 0, 16) == 1);
  CHECK(rig.request(BlkType::zeroes, 0, 16) == 1);
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
  CHECK(rig.request(BlkType::flush, 0, 0) == 0);
  CHECK(rig.disk.writes == 0);
}

TEST_CASE("blk: disk errors become IO errors and are told") {
  BlkRig rig;
  rig.driver.start();
  rig.disk.failing = true;
  CHECK(rig.request(BlkType::in, 0, 512) == 1);
  CHECK(rig.lastUsed.length == 1);
  CHECK(rig.request(BlkType::out, 0, 512) == 1);
  CHECK(rig.request(BlkType::flush, 0, 0) == 1);
  CHECK(rig.failures == 3);
  rig.disk.failing = false;
  CHECK(rig.request(BlkType::out, 0, 512) == 0);
}

TEST_CASE("blk: requests without room for a header or a status need a reset") {
  BlkRig rig;
  D& d = rig.driver;
  d.start();
  SUBCASE("short header") {
    d.describe(0, rig.header(0), 15, D::kNext, 1);
    d.describe(1, rig.status(0), 1, D::kWrite);
  }
  SUBCASE("no status") {
    d.describe(0, rig.header(0), 16);
  }
  SUBCASE("empty status") {
    d.describe(0, rig.header(0), 16, D::kNext, 1);
    d.describe(1, rig.status(0), 0, D::kWrite);
  }
  SUBCASE("a loop") {
    d.describe(0, rig.header(0), 16, D::kNext, 0);
  }
  SUBCASE("data outside RAM") {
    d.describe(0, rig.header(0), 16, D::kNext, 1);
    d.describe(1, D::kRamBase + BlkRig::kRamBytes - 512, 513, D::kWrite);
  }
  d.offer(0);
  d.kick();
  CHECK(d.needsReset());
  CHECK(d.get(reg::interruptStatus) == 2);
  CHECK(rig.blk.drained());
  d.start();
  CHECK(rig.request(BlkType::in, 0, 512) == 0);
}
