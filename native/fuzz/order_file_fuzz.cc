// Order files of any bytes: what is used of one is in range and without repetition, and written
// again gives the very same file.
//
// Input: what is mended, number of memory blocks (two bytes), then the file.
#include <algorithm>
#include <set>

#include "checkpoint/image/format.h"
#include "checkpoint/image/order_file.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::fuzz;

namespace {
const std::string kId = "0123456789abcdef0123456789abcdef";
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch;
  Input input(data, size);
  const bool mended = input.byte() % 2 != 0;
  const uint64_t blocks = input.byte() + uint64_t{256} * input.byte();
  Bytes bytes = input.copy();
  if (mended && bytes.size() >= sizeof(uint64_t)) {
    const size_t end = bytes.size() - sizeof(uint64_t);
    format::put(bytes, end, format::checksumOf(std::span<const std::byte>(bytes).first(end)));
  }
  const NeedOrder order = readOrderFile(scratch.write("order", bytes), kId, blocks);
  if (order.empty()) return 0;
  FUZZ_CHECK(order.size() <= blocks);
  FUZZ_CHECK(std::set<uint32_t>(order.begin(), order.end()).size() == order.size());
  FUZZ_CHECK(*std::max_element(order.begin(), order.end()) < blocks);
  const std::string again = scratch.path() + "/again";
  writeOrderFile(again, kId, order);
  Bytes written(std::filesystem::file_size(again));
  FILE* const file = std::fopen(again.c_str(), "r");
  FUZZ_CHECK(file != nullptr &&
             std::fread(written.data(), 1, written.size(), file) == written.size());
  std::fclose(file);
  FUZZ_CHECK(written == bytes);
  return 0;
}
