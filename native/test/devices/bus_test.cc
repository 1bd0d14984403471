#include "devices/bus.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace ckptfs;

namespace {

struct Probe final : MmioDevice {
  uint64_t read(uint64_t offset, unsigned size) noexcept override { return offset * 16 + size; }
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override {
    last = offset * 16 + size + value;
  }
  std::unique_ptr<Frozen> freeze() const override { return nullptr; }
  void thaw(const Json&) override {}
  uint64_t last = 0;
};

}  // namespace

TEST_CASE("bus: accesses reach the device whose window holds all of their bytes") {
  Bus bus;
  Probe low, high;
  bus.attach(0x2000, 0x100, &high);
  bus.attach(0x1000, 0x1000, &low);
  uint64_t value = 99;
  CHECK(bus.read(0x1008, 4, value));
  CHECK(value == 8 * 16 + 4);
  CHECK(bus.read(0x1ff8, 8, value));
  CHECK(bus.read(0x20ff, 1, value));
  CHECK(value == 0xff * 16 + 1);
  CHECK(bus.write(0x2000, 2, 1000));
  CHECK(high.last == 1002);
  CHECK(low.last == 0);

  value = 99;
  CHECK_FALSE(bus.read(0xfff, 1, value));
  CHECK_FALSE(bus.read(0x2100, 1, value));
  CHECK_FALSE(bus.read(0x1ffc, 8, value));  // crosses from one window into the next
  CHECK_FALSE(bus.read(0x20fe, 4, value));
  CHECK_FALSE(bus.write(0, 1, 1));
  CHECK_FALSE(bus.write(UINT64_MAX, 8, 1));
  CHECK(value == 99);
}

TEST_CASE("bus: windows that overlap, are empty or wrap are refused") {
  Bus bus;
  Probe device;
  bus.attach(0x1000, 0x1000, &device);
  CHECK_THROWS_AS(bus.attach(0x1fff, 1, &device), Error);
  CHECK_THROWS_AS(bus.attach(0x800, 0x801, &device), Error);
  CHECK_THROWS_AS(bus.attach(0x1000, 0x1000, &device), Error);
  CHECK_THROWS_AS(bus.attach(0, UINT64_MAX, &device), Error);
  CHECK_THROWS_AS(bus.attach(0x3000, 0, &device), Error);
  CHECK_THROWS_AS(bus.attach(UINT64_MAX, 2, &device), Error);
  bus.attach(0x800, 0x800, &device);
  bus.attach(0x2000, 1, &device);
  bus.attach(UINT64_MAX - 7, 8, &device);
  uint64_t value;
  CHECK(bus.read(UINT64_MAX - 7, 8, value));
}
