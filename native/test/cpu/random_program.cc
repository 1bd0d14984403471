#include "test/cpu/random_program.h"

#include <cstring>
#include <initializer_list>
#include <utility>

namespace ckptfs::rv64::test {
namespace {

// Layout, as offsets in the image.
constexpr uint32_t kTable = 0x10000;  // initial x and f, saved return address at +0x700
constexpr uint32_t kDump = 0x10800;   // final x, f and fcsr
constexpr uint32_t kData = 0x12000;   // what loads and stores reach
constexpr uint32_t kCodeLimit = 0xf000;

// Registers that hold pointers for the random part, which never writes them.
constexpr uint32_t kStack = 2, kCompressedBase = 8, kAtomicBase = 30, kMiddle = 31;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  uint64_t next() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }
  uint32_t below(uint32_t limit) { return uint32_t((next() >> 32) * limit >> 32); }
  template <class T>
  T of(std::initializer_list<T> list) {
    return list.begin()[below(uint32_t(list.size()))];
  }

 private:
  uint64_t state_;
};

constexpr uint32_t rType(uint32_t opcode, uint32_t f3, uint32_t f7, uint32_t rd, uint32_t rs1,
                         uint32_t rs2) {
  return f7 << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 | rd << 7 | opcode;
}
constexpr uint32_t iType(uint32_t opcode, uint32_t f3, uint32_t rd, uint32_t rs1, int32_t imm) {
  return uint32_t(imm) << 20 | rs1 << 15 | f3 << 12 | rd << 7 | opcode;
}
constexpr uint32_t sType(uint32_t opcode, uint32_t f3, uint32_t rs1, uint32_t rs2, int32_t imm) {
  return (uint32_t(imm) >> 5 & 127) << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 |
         (uint32_t(imm) & 31) << 7 | opcode;
}
constexpr uint32_t bType(uint32_t f3, uint32_t rs1, uint32_t rs2, uint32_t offset) {  // below 2048
  return rs2 << 20 | rs1 << 15 | f3 << 12 | (offset & 30) << 7 | (offset >> 5 & 63) << 25 |
         (offset >> 11 & 1) << 7 | 0x63;
}

class Assembler {
 public:
  explicit Assembler(uint64_t seed) : random(seed) {
    image_.image.resize(RandomProgram::kImageBytes);
  }

  void half(uint32_t bits) {
    std::memcpy(&image_.image[at], &bits, 2);
    at += 2;
  }
  void word(uint32_t bits) {
    std::memcpy(&image_.image[at], &bits, 4);
    at += 4;
  }
  void data(uint32_t offset, uint64_t value) { std::memcpy(&image_.image[offset], &value, 8); }
  /** Address of an image offset, whatever the pc. */
  void address(uint32_t rd, uint32_t offset) {
    const uint32_t distance = offset - at;
    word(((distance + 0x800) & 0xfffff000) | rd << 7 | 0x17);
    word(iType(0x13, 0, rd, rd, int32_t(distance << 20) >> 20));
  }
  void loadDouble(uint32_t fd, uint32_t base, int32_t offset) {
    word(iType(0x07, 3, fd, base, offset));
  }
  void storeDouble(uint32_t fs, uint32_t base, int32_t offset) {
    word(sType(0x27, 3, base, fs, offset));
  }
  void load(uint32_t rd, uint32_t base, int32_t offset) { word(iType(0x03, 3, rd, base, offset)); }
  void store(uint32_t rs, uint32_t base, int32_t offset) { word(sType(0x23, 3, base, rs, offset)); }

  void prologue() {
    address(kMiddle, kTable);
    store(1, kMiddle, 0x700);
    word(0x00301073);  // csrw fcsr, x0
    for (uint32_t i = 0; i < 32; ++i) loadDouble(i, kMiddle, int32_t(0x100 + 8 * i));
    for (uint32_t i = 1; i < 31; ++i) load(i, kMiddle, int32_t(8 * i));
    address(kStack, kData);
    address(kCompressedBase, kData + 0x200);
    address(kAtomicBase, kData + 0x400);
    address(kMiddle, kData + 0x800);
  }
  RandomProgram epilogue() {
    address(kMiddle, kDump);
    for (uint32_t i = 1; i < 31; ++i) store(i, kMiddle, int32_t(8 * i));
    for (uint32_t i = 0; i < 32; ++i) storeDouble(i, kMiddle, int32_t(0x100 + 8 * i));
    word(0x003022f3);  // csrr t0, fcsr
    store(5, kMiddle, 0);
    load(1, kMiddle, -0x100);
    word(0x00008067);  // ret
    return std::move(image_);
  }

  Random random;
  uint32_t at = 0;

 private:
  RandomProgram image_;
};

uint64_t interestingInteger(Random& random) {
  switch (random.below(4)) {
    case 0:
      return random.of<uint64_t>({0, 1, UINT64_MAX, uint64_t{1} << 63, INT64_MAX, 0x80000000,
                                  0x7fffffff, 0xffffffff, 0xffffffff80000000});
    case 1:
      return random.next() & 0xff;
    case 2:
      return uint64_t(int64_t(int32_t(random.next())));
    default:
      return random.next();
  }
}

uint32_t target(Random& random) {
  for (;;) {
    const uint32_t rd = random.below(30);
    if (rd != kStack && rd != kCompressedBase) return rd;
  }
}
uint32_t compressedTarget(Random& random) {
  return 1 + random.below(7);
}  // x9..x15

void register32(Assembler& a) {
  Random& r = a.random;
  const uint32_t rd = target(r), rs1 = r.below(32), rs2 = r.below(32), f3 = r.below(8);
  if (r.below(2) != 0) {
    const uint32_t f7 = r.below(3) == 0 ? 1 : (f3 == 0 || f3 == 5) && r.below(2) != 0 ? 0x20 : 0;
    a.word(rType(0x33, f3, f7, rd, rs1, rs2));
  } else {
    const uint32_t shape =
        r.of<uint32_t>({0x00000, 0x20000, 0x00001, 0x00005, 0x20005, 0x10000, 0x10004, 0x10005,
                        0x10006, 0x10007});  // f7 (1: M) in the high half
    const uint32_t f7 = shape >> 16 == 2 ? 0x20 : shape >> 16;
    a.word(rType(0x3b, shape & 7, f7, rd, rs1, rs2));
  }
}

void immediate32(Assembler& a) {
  Random& r = a.random;
  const uint32_t rd = target(r), rs1 = r.below(32), f3 = r.below(8);
  const uint32_t shift = r.below(64);
  switch (r.below(6)) {
    case 0:
      a.word(uint32_t(r.next()) << 12 | rd << 7 | r.of<uint32_t>({0x37, 0x17}));
      break;
    case 1:
      a.word(iType(0x1b, 0, rd, rs1, int32_t(r.next())));
      break;
    case 2:
      a.word(iType(0x1b, r.of<uint32_t>({1, 5}), rd, rs1, int32_t(shift & 31)));
      a.word(iType(0x1b, 5, rd, rs1, int32_t((shift & 31) | 0x400)));
      break;
    case 3:
      a.word(iType(0x13, 5, rd, rs1, int32_t(shift | 0x400)));
      break;
    default:
      a.word(iType(0x13, f3, rd, rs1, f3 == 1 || f3 == 5 ? int32_t(shift) : int32_t(r.next())));
  }
}

void memory32(Assembler& a) {
  Random& r = a.random;
  const int32_t offset = int32_t(r.below(4096)) - 2048;
  switch (r.below(5)) {
    case 0:
    case 1:
      a.word(iType(0x03, r.below(7), target(r), kMiddle, offset));
      break;
    case 2:
    case 3:
      a.word(sType(0x23, r.below(4), kMiddle, r.below(32), offset));
      break;
    default:
      if (r.below(2) != 0)
        a.word(iType(0x07, 2 + r.below(2), r.below(32), kMiddle, offset));
      else
        a.word(sType(0x27, 2 + r.below(2), kMiddle, r.below(32), offset));
  }
}

void atomic32(Assembler& a) {
  Random& r = a.random;
  const uint32_t f3 = 2 + r.below(2), ordering = r.below(4);
  if (r.below(4) == 0) {
    a.word(rType(0x2f, f3, 2u << 2 | ordering, target(r), kAtomicBase, 0));
    a.word(rType(0x2f, f3, 3u << 2 | ordering, target(r), kAtomicBase, r.below(30)));
    return;
  }
  const uint32_t f5 = r.of<uint32_t>({0, 1, 4, 8, 12, 16, 20, 24, 28});
  a.word(rType(0x2f, f3, f5 << 2 | ordering, target(r), kAtomicBase, r.below(30)));
}

/** Quadrant, function and registers chosen; every other bit random. */
void compressed(Assembler& a) {
  Random& r = a.random;
  const uint32_t noise = uint32_t(r.next()) & 0x1fff;
  const uint32_t rd = target(r);
  const uint32_t rdOr1 = rd == 0 ? 1 : rd;
  switch (r.below(17)) {
    case 0:
      a.half(0x0000 | (noise & 0x1fe0) | 0x20 | compressedTarget(r) << 2);
      break;  // addi4spn
    case 1:
      a.half(0x4000 | (noise & 0x1c60) | compressedTarget(r) << 2);
      break;  // lw
    case 2:
      a.half(0x6000 | (noise & 0x1c60) | compressedTarget(r) << 2);
      break;  // ld
    case 3:
      a.half(0xc000 | (noise & 0x1c7c));
      break;  // sw
    case 4:
      a.half(0xe000 | (noise & 0x1c7c));
      break;  // sd
    case 5:
      a.half(r.of<uint32_t>({0x2000, 0xa000}) | (noise & 0x1c7c));
      break;  // fld, fsd
    case 6:
      a.half(0x0001 | (noise & 0x107c) | rd << 7);
      break;  // addi
    case 7:
      a.half(0x2001 | (noise & 0x107c) | rdOr1 << 7);
      break;  // addiw
    case 8:
      a.half(0x4001 | (noise & 0x107c) | rd << 7);
      break;  // li
    case 9:
      a.half(0x6001 | (noise & 0x1078) | 4 | rd << 7);
      break;  // lui
    case 10:  // srli, srai, andi
      a.half(0x8001 | (noise & 0x107c) | r.below(3) << 10 | compressedTarget(r) << 7);
      break;
    case 11:
      a.half(0x8c01 | (noise & 0x7c) | compressedTarget(r) << 7);
      break;  // sub, xor, or, and
    case 12:
      a.half(0x9c01 | (noise & 0x3c) | compressedTarget(r) << 7);
      break;  // subw, addw
    case 13:
      a.half(0x0002 | (noise & 0x107c) | rd << 7);
      break;  // slli
    case 14:  // lwsp, ldsp, fldsp
      a.half(r.of<uint32_t>({0x4002, 0x6002, 0x2002}) | (noise & 0x107c) | rdOr1 << 7);
      break;
    case 15:
      a.half(r.of<uint32_t>({0xa002, 0xc002, 0xe002}) | (noise & 0x1ffc));
      break;  // ...sp
    default:  // mv, add
      a.half(0x8002 | (noise & 0x1000) | rd << 7 | (1 + r.below(31)) << 2);
  }
}

void straight(Assembler& a) {
  switch (a.random.below(8)) {
    case 0:
    case 1:
      return register32(a);
    case 2:
      return immediate32(a);
    case 3:
      return memory32(a);
    case 4:
      return atomic32(a);
    default:
      return compressed(a);
  }
}

/** A jump or branch over one random step. */
void forward(Assembler& a) {
  Random& r = a.random;
  const uint32_t from = a.at;
  const uint32_t form = r.below(5);
  const bool shortForm = form >= 3;
  a.at += shortForm ? 2 : 4;
  straight(a);
  const uint32_t end = a.at;
  const uint32_t distance = end - from;  // at most 12
  a.at = from;
  const uint32_t shortOffset = (distance & 6) << 2;  // imm[2:1] of CB and CJ: bits 4:3
  const uint32_t bit3 = distance >> 3 & 1;
  switch (form) {
    case 0:
      a.word((distance & 0x7fe) << 20 | target(r) << 7 | 0x6f);
      break;  // jal
    case 1:
    case 2:
      a.word(bType(r.of<uint32_t>({0, 1, 4, 5, 6, 7}), r.below(32), r.below(32), distance));
      break;
    case 3:
      a.half(r.of<uint32_t>({0xc001, 0xe001}) | bit3 << 10 | compressedTarget(r) << 7 |
             shortOffset);
      break;
    default:
      a.half(0xa001 | bit3 << 5 | shortOffset);
  }
  a.at = end;
}

uint64_t interestingFloat(Random& random, bool wide) {
  const unsigned bits = wide ? 52 : 23;
  const uint64_t top = wide ? 0x7ff : 0xff, bias = top / 2;
  const uint64_t ones = (uint64_t{1} << bits) - 1;
  uint64_t exponent, fraction;
  switch (random.below(8)) {
    case 0:  // zero, subnormals, infinity, NaNs
      exponent = random.of<uint64_t>({0, top});
      fraction = random.of<uint64_t>({0, 0, 1, ones, ones >> 1, (ones >> 1) + 1, (ones >> 1) + 2});
      break;
    case 1:  // edges of the range and around one
      exponent =
          random.of<uint64_t>({1, top - 1, bias, bias - 1, bias + 1, bias + bits, 2, top - 2});
      fraction = random.of<uint64_t>({0, 1, ones, ones - 1, ones >> 1, (ones >> 1) + 1});
      break;
    case 2:  // around the ranges of the integer types, with halves
      exponent = bias + random.of<uint64_t>({30, 31, 32, 62, 63, 64, 0, 1, 2});
      fraction = random.below(2) != 0 ? random.next() & ones : ones << random.below(bits) & ones;
      break;
    case 3:
    case 4:  // short fractions: exact results and ties
      exponent = bias - 4 + random.below(8);
      fraction = (random.next() & 7) << (bits - 3);
      if (random.below(2) != 0) fraction |= random.next() & 3;
      break;
    case 5:
      exponent = bias - 30 + random.below(60);
      fraction = random.next() & ones;
      break;
    case 6:  // products and quotients near the ends of the range
      exponent =
          random.of<uint64_t>({bias / 2, bias / 2 + bias, bias * 2 - 2, 1, 3}) + random.below(4);
      fraction = random.next() & ones;
      break;
    default:
      exponent = random.next() & top;
      fraction = random.next() & ones;
  }
  const uint64_t sign = random.next() & 1;
  const uint64_t value = sign << (wide ? 63 : 31) | (exponent & top) << bits | fraction;
  if (wide) return value;
  const bool badBox = random.below(32) == 0;
  return (badBox ? random.next() << 32 : 0xffffffff00000000) | value;
}

/** An F or D instruction on f1, f2, f3 and x6, with its result in f4 or x7. */
struct FloatCase {
  uint32_t word;
  bool integerTarget;
  bool wide;
};

FloatCase floatInstruction(Random& r) {
  const bool wide = r.below(2) != 0;
  const uint32_t format = wide ? 1 : 0;
  const uint32_t mode = r.below(3) == 0 ? 7 : r.below(5);
  const auto arithmetic = [&](uint32_t f5, uint32_t f3, uint32_t rs2) {
    return rType(0x53, f3, f5 << 2 | format, 4, 1, rs2);
  };
  const auto toInteger = [&](uint32_t f5, uint32_t f3, uint32_t rs2) {
    return FloatCase{rType(0x53, f3, f5 << 2 | format, 7, 1, rs2), true, wide};
  };
  switch (r.below(14)) {
    case 0:
      return {arithmetic(0x00, mode, 2), false, wide};
    case 1:
      return {arithmetic(0x01, mode, 2), false, wide};
    case 2:
      return {arithmetic(0x02, mode, 2), false, wide};
    case 3:
      return {arithmetic(0x03, mode, 2), false, wide};
    case 4:
      return {arithmetic(0x0b, mode, 0), false, wide};
    case 5:
      return {arithmetic(0x04, r.below(3), 2), false, wide};
    case 6:
      return {arithmetic(0x05, r.below(2), 2), false, wide};
    case 7:
      return {rType(0x53, mode, 0x08u << 2 | (wide ? 0 : 1), 4, 1, wide ? 1 : 0), false, wide};
    case 8:
      return toInteger(0x14, r.below(3), 2);
    case 9:
      return toInteger(0x18, mode, r.below(4));
    case 10:
      return {rType(0x53, mode, 0x1au << 2 | format, 4, 6, r.below(4)), false, wide};
    case 11:
      if (r.below(3) == 0) return {rType(0x53, 0, 0x1eu << 2 | format, 4, 6, 0), false, wide};
      return toInteger(0x1c, r.below(2), 0);
    default:
      return {3u << 27 | rType(r.of<uint32_t>({0x43, 0x47, 0x4b, 0x4f}), mode, format, 4, 1, 2),
              false, wide};
  }
}

}  // namespace

RandomProgram integerProgram(uint64_t seed) {
  Assembler a(seed);
  for (uint32_t i = 0; i < 32; ++i) {
    a.data(kTable + 8 * i, interestingInteger(a.random));
    a.data(kTable + 0x100 + 8 * i, a.random.next());
  }
  for (uint32_t offset = kData; offset < kData + 0x1000; offset += 8)
    a.data(offset, interestingInteger(a.random));
  a.prologue();
  while (a.at < kCodeLimit - 0x1000) {
    if (a.random.below(6) == 0)
      forward(a);
    else
      straight(a);
  }
  return a.epilogue();
}

RandomProgram floatProgram(uint64_t seed) {
  constexpr uint32_t kCases = 640, kSlot = 16;
  Assembler a(seed ^ 0xf10a7);
  a.prologue();
  a.address(11, kData);  // where the case's result goes
  for (uint32_t i = 0; i < kCases; ++i) {
    const FloatCase c = floatInstruction(a.random);
    // Operands are immediate data in the code, jumped over: jal x5 leaves their address.
    if (a.at % 8 != 4) a.word(0x00000013);
    a.word(36u << 20 | 5u << 7 | 0x6f);  // jal t0, +36
    for (uint32_t operand = 0; operand < 3; ++operand) {
      a.data(a.at, interestingFloat(a.random, c.wide));
      a.at += 8;
    }
    a.data(a.at, interestingInteger(a.random));
    a.at += 8;
    for (uint32_t operand = 0; operand < 3; ++operand)
      a.loadDouble(1 + operand, 5, int32_t(8 * operand));
    a.load(6, 5, 24);
    a.word(0x00205073 | a.random.below(5) << 15);  // csrwi frm
    a.word(0x00105073);                            // csrwi fflags, 0
    a.word(c.word);
    if (c.integerTarget)
      a.store(7, 11, 0);
    else
      a.storeDouble(4, 11, 0);
    a.word(0x001023f3);  // csrr t2, fflags
    a.store(7, 11, 8);
    a.word(iType(0x13, 0, 11, 11, kSlot));
  }
  return a.epilogue();
}

uint64_t hashOf(const uint8_t* results) {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint64_t i = 0; i < RandomProgram::kResultBytes; ++i)
    hash = (hash ^ results[i]) * 0x100000001b3;
  return hash;
}

}  // namespace ckptfs::rv64::test
