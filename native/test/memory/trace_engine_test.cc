// The conformance suite of trace engines: every engine passes every case, through the interface
// only.
#include "memory/trace_engine.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernel_mappings.h"
#include "memory/fault_thread.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;
constexpr uint64_t kBlocks = 600;

/** A view of memory under an engine, whose faults are recorded and resolved by a lift. */
class Rig final : public FaultSink {
 public:
  explicit Rig(const std::string& name, uint64_t mappingLimit = 0) {
    attachFaultThread();
    view_.geometry = kGeometry;
    view_.bytes = kBlocks * kGeometry.blockBytes();
    view_.base = static_cast<std::byte*>(
        mmap(nullptr, view_.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    engine_ = makeTraceEngine(name, view_, this, mappingLimit);
  }
  ~Rig() {
    engine_.reset();
    munmap(view_.base, view_.bytes);
  }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  bool onFault(uint64_t offset, FaultKind kind) noexcept override {
    lastOffset = offset;
    lastKind = kind;
    faults = faults + 1;
    return engine_->lift({kGeometry.blockOf(offset), 1}) || engine_->lift({0, kBlocks});
  }
  TraceEngine& engine() { return *engine_; }
  const GuestView& view() const { return view_; }
  void write(uint64_t offset, uint8_t value) {
    *reinterpret_cast<volatile uint8_t*>(view_.base + offset) = value;
  }
  uint8_t read(uint64_t offset) {
    return *reinterpret_cast<volatile uint8_t*>(view_.base + offset);
  }

  volatile uint64_t faults = 0;
  volatile uint64_t lastOffset = 0;
  volatile FaultKind lastKind = FaultKind::fetch;

 private:
  GuestView view_;
  std::unique_ptr<TraceEngine> engine_;
};

template <class Case>
void forEachEngine(Case run) {
  for (const std::string& name : traceEngineNames()) {
    CAPTURE(name);
    run(name);
  }
}

}  // namespace

TEST_CASE("trace engine: an unknown name is refused") {
  CHECK_THROWS_AS(Rig("none such"), Error);
}

TEST_CASE("trace engine: nothing traps before arming") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    rig.write(5, 1);
    CHECK(rig.read(5) == 1);
    CHECK(rig.faults == 0);
    CHECK(rig.engine().mappings() == 1);
  });
}

TEST_CASE("trace engine: a write trace traps the first write of a block, not reads") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    rig.write(3 * kGeometry.blockBytes(), 7);
    rig.engine().armWrite();
    CHECK(rig.read(3 * kGeometry.blockBytes()) == 7);
    CHECK(rig.faults == 0);
    const uint64_t offset = 4 * kGeometry.blockBytes() - 1;
    rig.write(offset, 9);
    CHECK(rig.faults == 1);
    CHECK(rig.lastOffset == offset);
    CHECK(rig.lastKind == FaultKind::write);
    rig.write(3 * kGeometry.blockBytes() + 1, 9);  // same block
    CHECK(rig.faults == 1);
    rig.write(4 * kGeometry.blockBytes(), 9);  // its neighbours are still traced
    rig.write(3 * kGeometry.blockBytes() - 1, 9);
    CHECK(rig.faults == 3);
    CHECK(rig.read(offset) == 9);
  });
}

TEST_CASE("trace engine: preparing to arm is not seen, traced or not") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    for (uint64_t at = 0; at < rig.view().bytes; at += 4096) rig.write(at, at / 4096 % 251);
    std::atomic<bool> stop{false};
    std::jthread preparer([&] {
      while (!stop) rig.engine().prepareArm();
    });
    int wrong = 0;
    for (uint64_t at = 0; at < rig.view().bytes; at += 4096)
      wrong += rig.read(at) != at / 4096 % 251;
    CHECK(wrong == 0);
    CHECK(rig.faults == 0);
    stop = true;
    preparer.join();
    rig.engine().armWrite();
    rig.engine().prepareArm();
    rig.write(5, 1);
    CHECK(rig.faults == 1);
    CHECK(rig.read(4096) == 1);
  });
}

TEST_CASE("trace engine: an access trace traps reads and writes") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    rig.write(100, 42);
    rig.engine().armAccess();
    CHECK(rig.read(100) == 42);
    CHECK(rig.faults == 1);
    CHECK(rig.lastKind == FaultKind::read);
    rig.write(kGeometry.blockBytes(), 1);
    CHECK(rig.faults == 2);
    CHECK(rig.lastKind == FaultKind::write);
  });
}

TEST_CASE("trace engine: a lift covers its run exactly, and a view can be armed again") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    for (int round = 0; round < 3; ++round) {
      rig.engine().armWrite();
      CHECK(rig.engine().mappings() == 1);
      REQUIRE(rig.engine().lift({10, 5}));
      REQUIRE(rig.engine().lift({10, 5}));  // again: no change
      const uint64_t before = rig.faults;
      for (BlockId block = 10; block < 15; ++block) rig.write(kGeometry.offsetOf(block), 1);
      CHECK(rig.faults == before);
      rig.write(kGeometry.offsetOf(9), 1);
      rig.write(kGeometry.offsetOf(15), 1);
      CHECK(rig.faults == before + 2);
      REQUIRE(rig.engine().lift({0, kBlocks}));
      CHECK(rig.engine().mappings() == 1);
    }
  });
}

TEST_CASE("trace engine: mappings are counted as the kernel has them, within the limit") {
  forEachEngine([](const std::string& name) {
    for (const uint64_t limit : {uint64_t{3}, uint64_t{20}, uint64_t{100}, uint64_t{0}}) {
      CAPTURE(limit);
      Rig rig(name, limit);
      rig.engine().armAccess();
      std::mt19937_64 random(limit);
      for (int i = 0; i < 400; ++i) {
        const BlockId first = random() % kBlocks;
        const uint64_t count = std::min<uint64_t>(1 + random() % 3, kBlocks - first);
        rig.engine().lift({first, count});
        const uint64_t mappings = rig.engine().mappings();
        if (limit != 0) REQUIRE(mappings <= limit);
        if (i % 40 == 0) REQUIRE(mappings == kernelMappings(rig.view().base, rig.view().bytes));
      }
      REQUIRE(rig.engine().lift({0, kBlocks}));
      CHECK(rig.engine().mappings() == 1);
      CHECK(kernelMappings(rig.view().base, rig.view().bytes) == 1);
    }
  });
}

TEST_CASE("trace engine: the kernel's own limit refuses a lift, and a wider one still works") {
  forEachEngine([](const std::string& name) {
    // Every other block of a view that is never touched, far beyond vm.max_map_count.
    Geometry pages;
    pages.pagesPerBlock = 1;
    GuestView view{nullptr, uint64_t{4096} * 400'000, pages};
    view.base = static_cast<std::byte*>(mmap(nullptr, view.bytes, PROT_READ | PROT_WRITE,
                                             MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    REQUIRE(view.base != MAP_FAILED);
    class Sink final : public FaultSink {
      bool onFault(uint64_t, FaultKind) noexcept override { return false; }
    } sink;
    auto engine = makeTraceEngine(name, view, &sink, UINT64_MAX);
    engine->armWrite();
    // Nothing may allocate while the process has no mapping left.
    BlockId block = 0;
    while (block < view.blocks() && engine->lift({block, 1})) block += 2;
    const bool againRefused = !engine->lift({block + 2, 1});
    const bool neighbourLifted = engine->lift({1, 1});  // joins two mappings
    const bool allLifted = engine->lift({0, view.blocks()});
    CHECK(againRefused == (block < view.blocks()));
    CHECK(neighbourLifted);
    CHECK(allLifted);
    CHECK(engine->mappings() == 1);
    CHECK(kernelMappings(view.base, view.bytes) == 1);
    engine.reset();
    munmap(view.base, view.bytes);
  });
}
