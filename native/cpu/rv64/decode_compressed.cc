// Source: RISC-V ISA manual volume I, chapter 27 ("C" extension), RV64 columns.
//
// Every immediate is assembled by `gather`: a list of the immediate's bit numbers, from instruction
// bit 12 downward, in the order of the manual's tables.
#include "cpu/rv64/decode.h"
#include "cpu/rv64/hart_state.h"

namespace ckptfs::rv64 {
namespace {

constexpr uint32_t field(uint32_t bits, unsigned low, unsigned width) {
  return bits >> low & ((1u << width) - 1);
}
constexpr int32_t signExtend(uint32_t value, unsigned width) {
  return int32_t(value << (32 - width)) >> (32 - width);
}
uint8_t sinkFor(uint32_t rd) {
  return uint8_t(rd == 0 ? HartState::kSink : rd);
}

/** Spreads the instruction bits [from, from - count] downwards to the immediate's bit numbers. */
template <class... Positions>
uint32_t gather(uint32_t bits, unsigned from, Positions... positions) {
  uint32_t result = 0;
  ((result |= (bits >> from-- & 1) << positions), ...);
  return result;
}

constexpr unsigned kSp = 2;

int32_t imm6(uint32_t bits) {
  return signExtend(field(bits, 12, 1) << 5 | field(bits, 2, 5), 6);
}
uint32_t offsetD(uint32_t bits) {
  return gather(bits, 12, 5, 4, 3) | gather(bits, 6, 7, 6);
}
uint32_t offsetW(uint32_t bits) {
  return gather(bits, 12, 5, 4, 3) | gather(bits, 6, 2, 6);
}
uint32_t stackLoadD(uint32_t bits) {
  return gather(bits, 12, 5) | gather(bits, 6, 4, 3, 8, 7, 6);
}
uint32_t stackLoadW(uint32_t bits) {
  return gather(bits, 12, 5) | gather(bits, 6, 4, 3, 2, 7, 6);
}
uint32_t stackStoreD(uint32_t bits) {
  return gather(bits, 12, 5, 4, 3, 8, 7, 6);
}
uint32_t stackStoreW(uint32_t bits) {
  return gather(bits, 12, 5, 4, 3, 2, 7, 6);
}

Instruction make(Op op, uint32_t rd, uint32_t rs1, uint32_t rs2, uint32_t imm) {
  return {op, uint8_t(rd), uint8_t(rs1), uint8_t(rs2), int32_t(imm)};
}

Instruction quadrant0(uint32_t bits) {
  const uint32_t low = 8 + field(bits, 2, 3);   // rd' or rs2'
  const uint32_t base = 8 + field(bits, 7, 3);  // rs1'
  switch (field(bits, 13, 3)) {
    case 0: {
      const uint32_t imm = gather(bits, 12, 5, 4, 9, 8, 7, 6, 2, 3);
      if (imm == 0) return {};  // also the all-zero instruction
      return make(Op::Addi, low, kSp, 0, imm);
    }
    case 1:
      return make(Op::Fld, low, base, 0, offsetD(bits));
    case 2:
      return make(Op::Lw, low, base, 0, offsetW(bits));
    case 3:
      return make(Op::Ld, low, base, 0, offsetD(bits));
    case 5:
      return make(Op::Fsd, 0, base, low, offsetD(bits));
    case 6:
      return make(Op::Sw, 0, base, low, offsetW(bits));
    case 7:
      return make(Op::Sd, 0, base, low, offsetD(bits));
    default:
      return {};
  }
}

Instruction arithmetic(uint32_t bits) {
  const uint32_t rd = 8 + field(bits, 7, 3);
  const uint32_t rs2 = 8 + field(bits, 2, 3);
  const uint32_t shift = uint32_t(imm6(bits)) & 63;
  switch (field(bits, 10, 2)) {
    case 0:
      return make(Op::Srli, rd, rd, 0, shift);
    case 1:
      return make(Op::Srai, rd, rd, 0, shift);
    case 2:
      return make(Op::Andi, rd, rd, 0, uint32_t(imm6(bits)));
    default:
      break;
  }
  static constexpr Op kOps[] = {Op::Sub,  Op::Xor,  Op::Or,      Op::And,
                                Op::Subw, Op::Addw, Op::Illegal, Op::Illegal};
  return make(kOps[field(bits, 12, 1) * 4 + field(bits, 5, 2)], rd, rd, rs2, 0);
}

Instruction quadrant1(uint32_t bits) {
  const uint32_t rd = field(bits, 7, 5);
  const uint32_t imm = uint32_t(imm6(bits));
  const auto branch = [bits](Op op) {
    const uint32_t offset = gather(bits, 12, 8, 4, 3) | gather(bits, 6, 7, 6, 2, 1, 5);
    return make(op, 0, 8 + field(bits, 7, 3), 0, uint32_t(signExtend(offset, 9)));
  };
  switch (field(bits, 13, 3)) {
    case 0:
      return make(Op::Addi, sinkFor(rd), rd, 0, imm);
    case 1:
      return rd == 0 ? Instruction{} : make(Op::Addiw, rd, rd, 0, imm);
    case 2:
      return make(Op::Li, sinkFor(rd), 0, 0, imm);
    case 3: {
      if (rd != kSp) return imm == 0 ? Instruction{} : make(Op::Li, sinkFor(rd), 0, 0, imm << 12);
      const uint32_t offset = gather(bits, 12, 9) | gather(bits, 6, 4, 6, 8, 7, 5);
      if (offset == 0) return {};
      return make(Op::Addi, kSp, kSp, 0, uint32_t(signExtend(offset, 10)));
    }
    case 4:
      return arithmetic(bits);
    case 5: {
      const uint32_t offset = gather(bits, 12, 11, 4, 9, 8, 10, 6, 7, 3, 2, 1, 5);
      return make(Op::Jal, HartState::kSink, 0, 0, uint32_t(signExtend(offset, 12)));
    }
    case 6:
      return branch(Op::Beq);
    default:
      return branch(Op::Bne);
  }
}

Instruction quadrant2(uint32_t bits) {
  const uint32_t rd = field(bits, 7, 5);
  const uint32_t rs2 = field(bits, 2, 5);
  switch (field(bits, 13, 3)) {
    case 0:
      return make(Op::Slli, sinkFor(rd), rd, 0, uint32_t(imm6(bits)) & 63);
    case 1:
      return make(Op::Fld, rd, kSp, 0, stackLoadD(bits));
    case 2:
      return rd == 0 ? Instruction{} : make(Op::Lw, rd, kSp, 0, stackLoadW(bits));
    case 3:
      return rd == 0 ? Instruction{} : make(Op::Ld, rd, kSp, 0, stackLoadD(bits));
    case 4:
      if (field(bits, 12, 1) == 0) {
        if (rs2 != 0) return make(Op::Mv, sinkFor(rd), rs2, 0, 0);
        return rd == 0 ? Instruction{} : make(Op::Jalr, HartState::kSink, rd, 0, 0);
      }
      if (rs2 != 0) return make(Op::Add, sinkFor(rd), rd, rs2, 0);
      return rd == 0 ? make(Op::Ebreak, 0, 0, 0, 0) : make(Op::Jalr, 1, rd, 0, 0);
    case 5:
      return make(Op::Fsd, 0, kSp, rs2, stackStoreD(bits));
    case 6:
      return make(Op::Sw, 0, kSp, rs2, stackStoreW(bits));
    default:
      return make(Op::Sd, 0, kSp, rs2, stackStoreD(bits));
  }
}

}  // namespace

Instruction decodeCompressed(uint16_t bits) noexcept {
  switch (bits & 3) {
    case 0:
      return quadrant0(bits);
    case 1:
      return quadrant1(bits);
    case 2:
      return quadrant2(bits);
    default:
      return {};
  }
}

}  // namespace ckptfs::rv64
