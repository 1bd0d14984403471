// The order file, byte by byte, and that nothing but an intact one of this checkpoint is used.
#include "checkpoint/image/order_file.h"

#include <doctest/doctest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

const std::string kId = "00112233445566778899aabbccddeeff";
constexpr uint64_t kBlocks = 100;

std::string contentsOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void replace(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}
/** Makes the checksum right again after a change. */
std::string summed(std::string contents) {
  const uint64_t sum = XXH3_64bits(contents.data(), contents.size() - 8);
  std::memcpy(contents.data() + contents.size() - 8, &sum, sizeof sum);
  return contents;
}
std::string number(uint64_t value, size_t width) {
  return {reinterpret_cast<const char*>(&value), width};
}

}  // namespace

TEST_CASE("order file: the bytes that the format page describes") {
  const TempDirectory directory;
  const std::string path = directory.path() + "/order";
  writeOrderFile(path, kId, NeedOrder{7, 99, 0});
  const std::string head = std::string("CKPTORD\0", 8) + number(1, 4) + number(56, 4) + kId +
                           number(3, 8) + number(7, 4) + number(99, 4) + number(0, 4);
  CHECK(contentsOf(path) == summed(head + number(0, 8)));
  CHECK(readOrderFile(path, kId, kBlocks) == NeedOrder{7, 99, 0});
  writeOrderFile(path, kId, NeedOrder{});
  CHECK(readOrderFile(path, kId, kBlocks).empty());
  writeOrderFile(path, "short", NeedOrder{1});
  CHECK(readOrderFile(path, "short", kBlocks) == NeedOrder{1});
  const auto files = std::filesystem::directory_iterator(directory.path());
  CHECK(std::distance(begin(files), end(files)) == 1);  // no temporary is left
}

TEST_CASE("order file: any flipped, missing or added byte makes it count as empty") {
  const TempDirectory directory;
  const std::string path = directory.path() + "/order";
  writeOrderFile(path, kId, NeedOrder{5, 4, 3});
  const std::string whole = contentsOf(path);
  for (size_t at = 0; at < whole.size(); ++at) {
    CAPTURE(at);
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    replace(path, flipped);
    CHECK(readOrderFile(path, kId, kBlocks).empty());
    replace(path, whole.substr(0, at));
    CHECK(readOrderFile(path, kId, kBlocks).empty());
  }
  for (const char* more : {"1", "4444", "88888888"}) {
    replace(path, whole + more);
    CHECK(readOrderFile(path, kId, kBlocks).empty());
  }
  replace(path, whole);
  CHECK(readOrderFile(path, kId, kBlocks).size() == 3);
}

TEST_CASE("order file: foreign, stale and senseless ones count as empty") {
  const TempDirectory directory;
  const std::string path = directory.path() + "/order";
  CHECK(readOrderFile(path, kId, kBlocks).empty());
  CHECK(readOrderFile(directory.path(), kId, kBlocks).empty());  // a directory
  writeOrderFile(path, kId, NeedOrder{5, 4, 3});
  std::string other = kId;
  other[0] = 'f';
  for (const std::string& id : {other, std::string(), kId.substr(1), kId + "0"})
    CHECK(readOrderFile(path, id, kBlocks).empty());
  CHECK(readOrderFile(path, kId, 5).empty());  // of a checkpoint with more blocks
  CHECK(readOrderFile(path, kId, 6).size() == 3);

  const std::string whole = contentsOf(path);
  const auto changed = [&](size_t at, uint64_t value, size_t width) {
    std::string contents = whole;
    contents.replace(at, width, number(value, width));
    replace(path, summed(contents));
    return readOrderFile(path, kId, kBlocks);
  };
  CHECK(changed(8, 2, 4).empty());            // version
  CHECK(changed(12, 64, 4).empty());          // length of the header
  CHECK(changed(48, 4, 8).empty());           // count
  CHECK(changed(48, UINT64_MAX, 8).empty());  // count that overflows
  CHECK(changed(48, 1ULL << 62, 8).empty());  // likewise
  CHECK(changed(56, 4, 4).empty());           // a block twice
  CHECK(changed(56, kBlocks, 4).empty());     // no such block
  CHECK(changed(56, UINT32_MAX, 4).empty());  // likewise
  CHECK(changed(56, 6, 4) == NeedOrder{6, 4, 3});
}

TEST_CASE("order file: one that cannot be written leaves the one before") {
  const TempDirectory directory;
  const std::string path = directory.path() + "/order";
  writeOrderFile(path, kId, NeedOrder{1});
  CHECK_THROWS_AS(writeOrderFile(path, kId + "0", NeedOrder{2}), Error);  // id too long
  CHECK_THROWS_AS(writeOrderFile(path, "", NeedOrder{2}), Error);
  CHECK_THROWS_AS(writeOrderFile(directory.path() + "/none/order", kId, NeedOrder{2}), Error);
  CHECK_THROWS_AS(writeOrderFile(directory.path(), kId, NeedOrder{2}), Error);  // a directory
  CHECK(readOrderFile(path, kId, kBlocks) == NeedOrder{1});
  const auto files = std::filesystem::directory_iterator(directory.path());
  CHECK(std::distance(begin(files), end(files)) == 1);
  // The temporary of a directory stands beside it.
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(directory.path()).parent_path()))
    CHECK_FALSE(entry.path().string().starts_with(directory.path() + ".new"));
}
