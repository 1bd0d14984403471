// IO blocks of any bytes: an accepted one can be gone through, decoded and packed again to the very
// same bytes.
//
// Input: geometry, whether checksums are mended, then the IO block.
#include <algorithm>

#include "checkpoint/image/block_codec.h"
#include "checkpoint/image/io_block_packer.h"
#include "checkpoint/image/segment.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::format;
using namespace ckptfs::fuzz;

namespace {

constexpr Geometry kGeometries[] = {{4096, 1, 3}, {4096, 8, 8}, {4096, 1, 256}, {8192, 2, 4}};

void mend(Bytes& bytes) {
  if (bytes.size() < sizeof(IoBlockHeader)) return;
  auto header = take<IoBlockHeader>(bytes);
  std::memcpy(header.magic, kIoBlockMagic, sizeof header.magic);
  const uint64_t room = (bytes.size() - sizeof header) / sizeof(IoBlockEntry);
  header.count = static_cast<uint32_t>(std::min<uint64_t>(header.count, room));
  uint64_t bodies = 0;
  for (uint32_t i = 0; i < header.count; ++i)
    bodies += take<IoBlockEntry>(bytes, sizeof header + i * sizeof(IoBlockEntry)).stored;
  header.bodyBytes = static_cast<uint32_t>(bodies);
  header.bytes = static_cast<uint32_t>(aligned(bodiesAt(header.count) + header.bodyBytes));
  if (bodies < 1 << 20) bytes.resize(std::max<size_t>(bytes.size(), header.bytes));
  put(bytes, 0, header);
  header.checksum =
      checksumOf(std::span<const std::byte>(bytes).first(offsetof(IoBlockHeader, checksum)),
                 std::span<const std::byte>(bytes).subspan(sizeof header,
                                                           header.count * sizeof(IoBlockEntry)));
  put(bytes, 0, header);
}

void packAgain(const Geometry& geometry, std::span<const std::byte> ioBlock) {
  static IoBlockPacker packers[] = {{kGeometries[0], Codec::raw},
                                    {kGeometries[1], Codec::raw},
                                    {kGeometries[2], Codec::raw},
                                    {kGeometries[3], Codec::raw}};
  IoBlockPacker& packer =
      packers[std::find(std::begin(kGeometries), std::end(kGeometries), geometry) - kGeometries];
  packer.clear();
  forEachEntry(ioBlock, [&](const IoBlockEntry& entry, uint32_t offset) {
    packer.addBody(entry, ioBlock.data() + offset);
  });
  const auto header = take<IoBlockHeader>(ioBlock);
  Bytes packed;
  for (const iovec& piece : packer.finish(header.sequence)) {
    const auto* const from = static_cast<const std::byte*>(piece.iov_base);
    packed.insert(packed.end(), from, from + piece.iov_len);
  }
  FUZZ_CHECK(packed.size() == header.bytes);
  const uint64_t used = bodiesAt(header.count) + header.bodyBytes;  // padding is not looked at
  FUZZ_CHECK(std::memcmp(packed.data(), ioBlock.data(), used) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const Geometry geometry = kGeometries[input.byte() % std::size(kGeometries)];
  const bool mended = input.byte() % 2 != 0;
  Bytes bytes = input.copy();
  if (mended) mend(bytes);
  if (checkIoBlock(bytes, geometry) != nullptr) return 0;
  Bytes raw(geometry.blockBytes());
  uint64_t end = 0;
  forEachEntry(bytes, [&](const IoBlockEntry& entry, uint32_t offset) {
    end = offset + uint64_t{entry.stored};
    FUZZ_CHECK(end <= bytes.size());
    const auto body = std::span<const std::byte>(bytes).subspan(offset, entry.stored);
    checksumOf(body);
    decodeBlock(entry.codec, body, raw);
  });
  FUZZ_CHECK(end <= take<IoBlockHeader>(bytes).bytes);
  packAgain(geometry, bytes);
  return 0;
}
