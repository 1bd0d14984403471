// Writes what the fuzz targets start from, by the real writers: fuzz-seeds DIRECTORY.
//
// DIRECTORY/<target>/ gets the inputs of a target; DIRECTORY/image/ a memory image.
#include <fstream>
#include <functional>
#include <iterator>

#include "checkpoint/image/block_codec.h"
#include "checkpoint/image/order_file.h"
#include "disk/redo_log.h"
#include "fuzz/device_fixture.h"
#include "test/checkpoint/image_builder.h"

using namespace ckptfs;
namespace fs = std::filesystem;

namespace {

using fuzz::Bytes;

Bytes contentsOf(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/** Inputs of one target. */
class Seeds {
 public:
  Seeds(const fs::path& directory, const std::string& target) : directory_(directory / target) {
    fs::create_directories(directory_);
  }
  void add(std::initializer_list<int> choices, std::span<const std::byte> bytes) {
    std::ofstream file(directory_ / std::to_string(count_++), std::ios::binary);
    for (const int choice : choices) file.put(static_cast<char>(choice));
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }

 private:
  const fs::path directory_;
  int count_ = 0;
};

constexpr Geometry kSmall{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 3};

void writeImages(const fs::path& directory) {
  Seeds maps(directory, "memory_map"), segments(directory, "segment"),
      ioBlocks(directory, "io_block"), codec(directory, "block_codec");
  // The first is the image whose segments maps refer to: an increment, so that it has several.
  const fs::path base = directory / "base", image = directory / "image";
  for (const fs::path& path : {base, image}) fs::create_directories(path);
  Contents memory = someContents(kSmall, 24, 1);
  writeImage(base, memory, {.geometry = kSmall, .codec = format::Codec::zstd});
  for (BlockId block = 0; block < 24; block += 5)
    fillBlock(memory, kSmall, block, Filling::pattern, 500 + block);
  writeImage(image, memory, {.geometry = kSmall, .base = base});
  for (const fs::path& path : {image, base}) {
    const Bytes map = contentsOf(path / MemoryMap::kFileName);
    for (const int mended : {0, 1, 3}) maps.add({mended}, map);
  }
  for (const auto& entry : fs::directory_iterator(image)) {
    if (entry.path().extension() == ".map") continue;
    const Bytes segment = contentsOf(entry.path());
    segments.add({0, 0}, segment);
    segments.add({1, 3}, segment);
    for (uint64_t at = 4096; at + 4096 < segment.size();) {
      const auto bytes = std::span<const std::byte>(segment).subspan(at);
      const auto io = format::take<format::IoBlockHeader>(bytes);
      ioBlocks.add({0, 1}, bytes.first(io.bytes));
      forEachEntry(bytes, [&](const format::IoBlockEntry& entry_, uint32_t offset) {
        codec.add({static_cast<int>(entry_.codec) * 2 + 1, 0},
                  bytes.subspan(offset, entry_.stored));
      });
      at += io.bytes;
    }
  }
  for (const int encoder : {0, 1, 2})
    codec.add({encoder * 2 + 1, 1}, std::span(memory).first(kSmall.blockBytes()));
}

void writeOrders(const fs::path& directory) {
  Seeds seeds(directory, "order_file");
  const fs::path path = directory / "order";
  for (const uint32_t count : {1u, 5u, 60u}) {
    NeedOrder order;
    for (uint32_t i = 0; i < count; ++i) order.push_back((i * 7 + 3) % 61);
    writeOrderFile(path, "0123456789abcdef0123456789abcdef", order);
    for (const int mended : {0, 1}) seeds.add({mended, 61, 0}, contentsOf(path));
  }
}

void writeRedoLogs(const fs::path& directory) {
  Seeds seeds(directory, "redo_log");
  const fs::path path = directory / "log";
  for (const uint32_t blockBytes : {512u, 4096u}) {
    fs::remove(path);
    const auto log = RedoLog::create(path, 1 << 20, {blockBytes, {}, {}});
    const auto add = [&] {
      for (const int choice : {0, 1, 3}) seeds.add({choice}, contentsOf(path));
    };
    add();
    for (uint64_t block = 0; block < 6; ++block) {
      Record record = Record::data(block * 5, 1 + block % 3, blockBytes);
      std::fill(record.data().begin(), record.data().end(), static_cast<std::byte>(block));
      log->write(record);
      if (block == 2) log->writeZeroes(3, 40);
      if (block == 3) log->flush();
    }
    add();
    log->seal();
    add();
  }
}

void writeDeviceStates(const fs::path& directory) {
  Seeds seeds(directory, "device_state");
  fuzz::DeviceFixture fixture;
  const auto add = [&](const Json& state) {
    const std::string text = state.dump();
    seeds.add({}, std::as_bytes(std::span(text)));
  };
  Json state = fixture.state();
  add(state);
  // Devices as drivers leave them: accepted, with queues in RAM.
  std::function<void(Json&)> drive = [&](Json& value) {
    if (value.is_object() && value.contains("queues")) {
      value["status"] = 15;
      value["driverFeatures"] = toHex(uint64_t{1} << 32);
    }
    if (value.is_object() && value.contains("available")) {
      value["size"] = 8;
      value["ready"] = true;
      for (const char* const ring : {"descriptors", "available", "used"})
        value[ring] = toHex(memory_map::kRamBase + 0x1000);
    }
    if (value.is_structured())
      for (Json& inner : value) drive(inner);
  };
  drive(state);
  add(state);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: fuzz-seeds DIRECTORY\n");
    return 2;
  }
  const fs::path directory = arguments[1];
  fs::remove_all(directory);
  writeImages(directory);
  writeOrders(directory);
  writeRedoLogs(directory);
  writeDeviceStates(directory);
  return 0;
}
