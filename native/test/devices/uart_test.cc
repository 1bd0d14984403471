#include "devices/uart.h"

#include <doctest/doctest.h>

#include <thread>

#include "base/error.h"

using namespace ckptfs;

namespace {

struct Rig {
  bool level = false;
  std::string sent;
  Uart uart{[this](bool on) { level = on; },
            [this](std::span<const uint8_t> bytes) { sent.append(bytes.begin(), bytes.end()); }};
  uint64_t get(uint64_t offset) { return uart.read(offset, 1); }
  void set(uint64_t offset, uint64_t value) { uart.write(offset, 1, value); }
  size_t type(std::string_view text) {
    return uart.receive({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  std::string readAll() {
    std::string text;
    while (get(5) & 1) text += char(get(0));
    return text;
  }
};

}  // namespace

TEST_CASE("uart: transmits, and the transmitter is always empty") {
  Rig rig;
  CHECK(rig.get(5) == 0x60);
  for (const char c : std::string("hello")) rig.set(0, uint8_t(c));
  CHECK(rig.sent == "hello");
  CHECK(rig.get(5) == 0x60);
  CHECK_FALSE(rig.level);
}

TEST_CASE("uart: divisor, scratch and masked registers") {
  Rig rig;
  rig.set(3, 0x83);
  rig.set(0, 0x34);
  rig.set(1, 0x12);
  CHECK(rig.get(0) == 0x34);
  CHECK(rig.get(1) == 0x12);
  rig.set(3, 0x03);
  CHECK(rig.sent.empty());
  CHECK(rig.get(1) == 0);
  rig.set(1, 0xff);
  CHECK(rig.get(1) == 0x0f);  // no bits of later chips, which drivers probe for
  rig.set(7, 0xa5);
  CHECK(rig.get(7) == 0xa5);
  rig.set(4, 0xff);
  CHECK(rig.get(4) == 0x1f);
  CHECK(rig.get(8) == 0);
  CHECK(rig.get(0xff) == 0);
  rig.set(5, 0xff);
  rig.set(6, 0xff);
  CHECK((rig.get(5) & 0x9e) == 0);
}

TEST_CASE("uart: is recognized as a 16550A") {
  Rig rig;
  rig.set(2, 0x01);
  CHECK(rig.get(2) == 0xc1);
  rig.set(2, 0x00);
  CHECK(rig.get(2) == 0x01);
  rig.set(3, 0x80);
  rig.set(2, 0x21);  // 64-byte FIFO of the 16750
  CHECK((rig.get(2) & 0x20) == 0);
  rig.set(3, 0);
  rig.set(4, 0x1a);                    // loopback with RTS and OUT2
  CHECK((rig.get(6) & 0xf0) == 0x90);  // CTS and carrier
  rig.set(4, 0x15);
  CHECK((rig.get(6) & 0xf0) == 0x60);
  rig.set(4, 0);
  CHECK(rig.get(6) == 0xb0);
}

TEST_CASE("uart: loopback returns data and sends nothing") {
  Rig rig;
  rig.set(4, 0x10);
  rig.set(0, 'x');
  CHECK(rig.sent.empty());
  CHECK(rig.get(5) == 0x61);
  CHECK(rig.get(0) == 'x');
  CHECK(rig.get(5) == 0x60);
}

TEST_CASE("uart: transmitter interrupt is raised by enabling and by sending, acknowledged by IIR") {
  Rig rig;
  rig.set(1, 0x02);
  CHECK(rig.level);
  CHECK(rig.get(2) == 0x02);
  CHECK_FALSE(rig.level);
  CHECK(rig.get(2) == 0x01);
  rig.set(1, 0x02);  // already enabled
  CHECK_FALSE(rig.level);
  rig.set(0, 'a');
  CHECK(rig.level);
  rig.set(1, 0);
  CHECK_FALSE(rig.level);
  CHECK(rig.get(2) == 0x01);
  rig.set(1, 0x02);
  CHECK(rig.level);
}

TEST_CASE("uart: received data, its priority over the transmitter, trigger and timeout") {
  Rig rig;
  rig.type("abc");
  CHECK_FALSE(rig.level);
  CHECK(rig.get(5) == 0x61);
  rig.set(1, 0x03);
  CHECK(rig.level);
  CHECK(rig.get(2) == 0x04);
  CHECK(rig.readAll() == "abc");
  CHECK(rig.level);  // the transmitter is still not acknowledged
  CHECK(rig.get(2) == 0x02);
  CHECK_FALSE(rig.level);
  CHECK(rig.get(0) == 0);

  rig.set(2, 0x81);  // FIFO, trigger at 8
  rig.type("1234567");
  CHECK(rig.get(2) == 0xcc);
  CHECK(rig.level);
  rig.type("8");
  CHECK(rig.get(2) == 0xc4);
  CHECK(rig.readAll() == "12345678");
  CHECK(rig.get(2) == 0xc1);
  CHECK_FALSE(rig.level);
}

TEST_CASE("uart: input is bounded and what was taken arrives in order") {
  Rig rig;
  std::string text;
  for (size_t i = 0; i < Uart::kReceiveLimitBytes + 100; ++i) text += char('a' + i % 26);
  CHECK(rig.type(text) == Uart::kReceiveLimitBytes);
  CHECK(rig.type("z") == 0);
  CHECK(rig.get(0) == 'a');
  CHECK(rig.type("zz") == 1);
  CHECK(rig.readAll() == text.substr(1, Uart::kReceiveLimitBytes - 1) + "z");
}

TEST_CASE("uart: clearing the FIFO drops what is in it, not the backlog") {
  Rig rig;
  rig.set(2, 0x01);
  rig.type("0123456789abcdefREST");
  rig.set(2, 0x03);
  CHECK(rig.readAll() == "REST");
  rig.type("xyz");
  rig.set(2, 0x01);  // no change
  CHECK(rig.readAll() == "xyz");
  rig.type("xyz");
  rig.set(2, 0x00);  // switching the FIFOs off clears them
  CHECK(rig.readAll().empty());
}

TEST_CASE("uart: input from another thread loses nothing") {
  Rig rig;
  constexpr unsigned kBytes = 50'000;
  std::thread typist([&] {
    for (unsigned sent = 0; sent < kBytes;) {
      const auto byte = uint8_t(sent);
      sent += unsigned(rig.uart.receive({&byte, 1}));
      if (sent % 1024 == 0) std::this_thread::yield();
    }
  });
  bool ordered = true;
  for (unsigned got = 0; got < kBytes;) {
    if (!(rig.get(5) & 1)) {
      std::this_thread::yield();
      continue;
    }
    ordered = ordered && rig.get(0) == uint8_t(got);
    ++got;
  }
  typist.join();
  CHECK(ordered);
}

TEST_CASE("uart: state makes a round trip in the middle of operation") {
  Rig before;
  before.set(3, 0x80);
  before.set(0, 0x0d);
  before.set(3, 0x03);
  before.set(2, 0xc1);
  before.set(1, 0x03);
  before.set(4, 0x0b);
  before.set(7, 0x42);
  before.type("pending \xff input");
  before.get(0);
  const std::string text = before.uart.freeze()->toJson().dump();

  Rig after;
  after.uart.thaw(Json::parse(text));
  CHECK(after.level);
  CHECK(after.uart.freeze()->toJson().dump() == text);
  CHECK(after.get(2) == before.get(2));
  CHECK(after.get(7) == 0x42);
  CHECK(after.readAll() == "ending \xff input");
  CHECK(after.get(2) == 0xc2);
}

TEST_CASE("uart: thaw refuses damaged state and changes nothing") {
  Rig rig;
  rig.set(7, 1);
  const Json good = rig.uart.freeze()->toJson();
  const auto refuse = [&](const char* key, const Json& value) {
    CAPTURE(key);
    Json bad = good;
    bad[key] = value;
    CHECK_THROWS_AS(rig.uart.thaw(bad), Error);
    bad.erase(key);
    CHECK_THROWS_AS(rig.uart.thaw(bad), Error);
  };
  refuse("interruptEnable", 0x10);
  refuse("interruptEnable", -1);
  refuse("fifoControl", 0x02);
  refuse("fifoControl", 0x21);
  refuse("lineControl", 256);
  refuse("modemControl", 0x20);
  refuse("scratch", 1.5);
  refuse("divisor", 65536);
  refuse("transmitPending", 1);
  refuse("received", "abc");
  refuse("received", "zz");
  refuse("received", std::string(2 * Uart::kReceiveLimitBytes + 2, '0'));
  refuse("received", Json::array());
  CHECK_THROWS_AS(rig.uart.thaw(Json()), Error);
  CHECK_THROWS_AS(rig.uart.thaw(Json::array()), Error);
  CHECK(rig.uart.freeze()->toJson() == good);
}
