// The conformance suite of trace engines that trap: each passes every case, through the interface
// only.
#include "memory/trace_engine.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/error.h"
#include "guest_access.h"
#include "kernel_mappings.h"
#include "memory/fault_thread.h"
#include "memory/guest_mapping.h"
#include "memory/memory_file.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;
constexpr uint64_t kBlocks = 600;

/** A view of memory under an engine, whose faults are recorded and permitted. */
class Rig final : public FaultSink {
 public:
  explicit Rig(const std::string& name, uint64_t mappingLimit = 0)
      : file_(kBlocks * kGeometry.blockBytes()),
        guest_(file_.fd(), kBlocks * kGeometry.blockBytes()),
        host_(file_.fd(), kBlocks * kGeometry.blockBytes()) {
    attachFaultThread();
    view_ = {guest_.base(), kBlocks * kGeometry.blockBytes(), kGeometry, file_.fd()};
    engine_ = makeTraceEngine(name, view_, this, mappingLimit);
  }

  bool onFault(uint64_t offset, FaultKind kind) noexcept override {
    lastOffset = offset;
    lastKind = kind;
    faults = faults + 1;
    const Rights rights = kind == FaultKind::read ? Rights::read : Rights::all;
    return engine_->permit({kGeometry.blockOf(offset), 1}, rights) ||
           engine_->permit({0, kBlocks}, rights);
  }
  TraceEngine& engine() { return *engine_; }
  const GuestView& view() const { return view_; }
  void write(uint64_t offset, uint8_t value) {
    *reinterpret_cast<volatile uint8_t*>(view_.base + offset) = value;
  }
  uint8_t read(uint64_t offset) {
    return *reinterpret_cast<volatile uint8_t*>(view_.base + offset);
  }
  /** As a loader does, through the host view. */
  void fill(BlockId block, uint8_t value) {
    std::memset(host_.base() + kGeometry.offsetOf(block), value, kGeometry.blockBytes());
  }

  volatile uint64_t faults = 0;
  volatile uint64_t lastOffset = 0;
  volatile FaultKind lastKind = FaultKind::fetch;

 private:
  MemoryFile file_;
  GuestMapping guest_;
  GuestMapping host_;
  GuestView view_;
  std::unique_ptr<TraceEngine> engine_;
};

/** For every engine that traps. */
template <class Case>
void forEachEngine(Case run) {
  for (const std::string& name : usableEngines()) {
    if (name == kSoftEngine) continue;
    CAPTURE(name);
    run(name);
  }
}

uint64_t offsetOf(BlockId block) {
  return kGeometry.offsetOf(block);
}

}  // namespace

TEST_CASE("trace engine: an unknown name is refused, the default is there") {
  CHECK_THROWS_AS(Rig("none such"), Error);
  CHECK(traceEngineNames().front() == kSoftEngine);
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

TEST_CASE("trace engine: protection against writes traps the first write of a block, not reads") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    rig.write(offsetOf(3), 7);
    REQUIRE(rig.engine().protect({0, kBlocks}, Rights::read));
    CHECK(rig.read(offsetOf(3)) == 7);
    CHECK(rig.read(offsetOf(100)) == 0);  // never touched before
    CHECK(rig.faults == 0);
    const uint64_t offset = offsetOf(4) - 1;
    rig.write(offset, 9);
    CHECK(rig.faults == 1);
    CHECK(rig.lastOffset / 4096 == offset / 4096);
    CHECK(rig.lastKind == FaultKind::write);
    rig.write(offsetOf(3) + 1, 9);  // same block
    CHECK(rig.faults == 1);
    rig.write(offsetOf(4), 9);  // its neighbours are still traced, touched before or not
    rig.write(offsetOf(3) - 1, 9);
    rig.write(offsetOf(100), 9);
    rig.write(offsetOf(101), 9);
    CHECK(rig.faults == 5);
    CHECK(rig.read(offset) == 9);
    CHECK(rig.read(offsetOf(101)) == 9);
  });
}

TEST_CASE("trace engine: without rights reads and writes trap, and see what was loaded meanwhile") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    REQUIRE(rig.engine().protect({0, kBlocks}, Rights::none));
    rig.fill(0, 42);
    rig.fill(1, 43);
    CHECK(rig.read(100) == 42);
    CHECK(rig.faults == 1);
    CHECK(rig.lastKind == FaultKind::read);
    CHECK(rig.read(5000) == 42);
    CHECK(rig.faults == 1);
    rig.write(offsetOf(1), 1);
    CHECK(rig.faults == 2);
    CHECK(rig.lastKind == FaultKind::write);
    CHECK(rig.read(offsetOf(1) + 1) == 43);
    CHECK(rig.read(offsetOf(2)) == 0);  // nothing was loaded there
    CHECK(rig.faults == 3);
    rig.write(200, 5);  // readable so far
    CHECK(rig.faults == 4);
    CHECK(rig.read(100) == 42);
    rig.write(offsetOf(2), 5);
    CHECK(rig.faults == 5);
    CHECK(rig.read(offsetOf(2)) == 5);
  });
}

TEST_CASE("trace engine: what is permitted ahead does not trap, unless it is empty") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    REQUIRE(rig.engine().protect({0, kBlocks}, Rights::none));
    for (BlockId block = 10; block < 20; ++block) rig.fill(block, uint8_t(block));
    rig.engine().permitAhead({10, 5}, Rights::read);
    rig.engine().permitAhead({15, 5}, Rights::all);
    rig.engine().permitAhead({30, 5}, Rights::all);  // holes: may trap, must work
    for (BlockId block = 10; block < 20; ++block) CHECK(rig.read(offsetOf(block)) == block);
    CHECK(rig.faults == 0);
    rig.write(offsetOf(17), 1);
    CHECK(rig.faults == 0);
    rig.write(offsetOf(12), 1);
    CHECK(rig.faults == 1);
    const uint64_t before = rig.faults;
    for (BlockId block = 30; block < 35; ++block) rig.write(offsetOf(block) + 9, 3);
    CHECK(rig.faults <= before + 5);
    CHECK(rig.read(offsetOf(31) + 9) == 3);
    CHECK(rig.read(offsetOf(31) + 8) == 0);
  });
}

TEST_CASE("trace engine: a permit covers its run exactly, and a view can be protected again") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    for (int round = 0; round < 3; ++round) {
      REQUIRE(rig.engine().protect({0, kBlocks}, Rights::read));
      CHECK(rig.engine().mappings() == 1);
      REQUIRE(rig.engine().permit({10, 5}, Rights::all));
      REQUIRE(rig.engine().permit({10, 5}, Rights::all));  // again: no change
      REQUIRE(rig.engine().permit({8, 7}, Rights::read));  // fewer rights: no change
      const uint64_t before = rig.faults;
      for (BlockId block = 10; block < 15; ++block) rig.write(offsetOf(block), 1);
      CHECK(rig.faults == before);
      rig.write(offsetOf(9), 1);
      rig.write(offsetOf(15), 1);
      CHECK(rig.faults == before + 2);
      REQUIRE(rig.engine().protect({11, 1}, Rights::read));  // one block again
      rig.write(offsetOf(10), 1);
      rig.write(offsetOf(12), 1);
      CHECK(rig.faults == before + 2);
      rig.write(offsetOf(11), 1);
      CHECK(rig.faults == before + 3);
      REQUIRE(rig.engine().permit({0, kBlocks}, Rights::all));
      CHECK(rig.engine().mappings() == 1);
    }
  });
}

TEST_CASE("trace engine: protecting against writes keeps what has no rights at all") {
  forEachEngine([](const std::string& name) {
    Rig rig(name);
    REQUIRE(rig.engine().protect({0, kBlocks}, Rights::none));
    for (BlockId block = 0; block < 30; ++block) rig.fill(block, 7);
    REQUIRE(rig.engine().permit({2, 3}, Rights::all));
    REQUIRE(rig.engine().permit({5, 3}, Rights::read));
    REQUIRE(rig.engine().permit({8, 1}, Rights::all));
    REQUIRE(rig.engine().permit({20, 2}, Rights::all));
    REQUIRE(rig.engine().protect({0, kBlocks}, Rights::read));
    for (const BlockId block : {2, 4, 5, 7, 8, 20, 21}) CHECK(rig.read(offsetOf(block)) == 7);
    CHECK(rig.faults == 0);
    for (const BlockId block : {1, 9, 19, 22}) rig.read(offsetOf(block));
    CHECK(rig.faults == 4);
    for (const BlockId block : {2, 4, 5, 7, 8, 20, 21, 1, 9}) rig.write(offsetOf(block), 1);
    CHECK(rig.faults == 13);
  });
}

TEST_CASE("trace engine: random runs of rights against a model, mappings as the kernel has them") {
  forEachEngine([](const std::string& name) {
    for (const uint64_t limit : {uint64_t{3}, uint64_t{20}, uint64_t{100}, uint64_t{0}}) {
      CAPTURE(limit);
      Rig rig(name, limit);
      std::vector<Rights> model(kBlocks, Rights::none);
      REQUIRE(rig.engine().protect({0, kBlocks}, Rights::none));
      for (BlockId block = 0; block < kBlocks; ++block) rig.fill(block, 1);
      std::mt19937_64 random(limit);
      for (int i = 0; i < 600; ++i) {
        const BlockId first = random() % kBlocks;
        const BlockRange run{first, std::min<uint64_t>(1 + random() % 5, kBlocks - first)};
        const bool protects = random() % 4 == 0;
        const Rights rights = protects || random() % 2 == 0 ? Rights::read : Rights::all;
        const bool done =
            protects ? rig.engine().protect(run, rights) : rig.engine().permit(run, rights);
        for (BlockId block = run.first; done && block < run.end(); ++block)
          model[block] = protects ? std::min(model[block], rights) : std::max(model[block], rights);
        const uint64_t mappings = rig.engine().mappings();
        if (limit == 0) REQUIRE(done);
        if (limit != 0) REQUIRE(mappings <= limit);
        if (i % 60 == 0) REQUIRE(mappings == kernelMappings(rig.view().base, rig.view().bytes));
      }
      if (limit == 0) {
        for (BlockId block = 0; block < kBlocks; ++block) {
          const uint64_t before = rig.faults;
          rig.read(offsetOf(block));
          REQUIRE((rig.faults != before) == (model[block] == Rights::none));
          const uint64_t read = rig.faults;
          rig.write(offsetOf(block), 1);
          REQUIRE((rig.faults != read) == (model[block] != Rights::all));
        }
      }
      REQUIRE(rig.engine().permit({0, kBlocks}, Rights::all));
      CHECK(rig.engine().mappings() == 1);
      CHECK(kernelMappings(rig.view().base, rig.view().bytes) == 1);
    }
  });
}

TEST_CASE("trace engine: the kernel's own limit refuses a permit, and a wider one still works") {
  forEachEngine([](const std::string& name) {
    // Every other block of a view that is never touched, far beyond vm.max_map_count.
    Geometry pages;
    pages.pagesPerBlock = 1;
    constexpr uint64_t kBytes = uint64_t{4096} * 400'000;
    const MemoryFile file(kBytes);
    const GuestMapping mapping(file.fd(), kBytes);
    const GuestView view{mapping.base(), kBytes, pages, file.fd()};
    class Sink final : public FaultSink {
      bool onFault(uint64_t, FaultKind) noexcept override { return false; }
    } sink;
    auto engine = makeTraceEngine(name, view, &sink, UINT64_MAX);
    REQUIRE(engine->protect({0, view.blocks()}, Rights::read));
    // Nothing may allocate while the process has no mapping left.
    BlockId block = 0;
    while (block < view.blocks() && engine->permit({block, 1}, Rights::all)) block += 2;
    const bool limited = block < view.blocks();
    const bool againRefused = limited && !engine->permit({block + 2, 1}, Rights::all);
    const bool neighbourPermitted = engine->permit({1, 1}, Rights::all);  // joins two mappings
    const bool allPermitted = engine->permit({0, view.blocks()}, Rights::all);
    CHECK(againRefused == limited);
    CHECK(neighbourPermitted);
    CHECK(allPermitted);
    CHECK(engine->mappings() == 1);
    CHECK(kernelMappings(view.base, view.bytes) == 1);
  });
}
