// Source: RISC-V ISA manual volume I, chapter 34 (opcode maps).
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

Op after(Op first, uint32_t steps) {
  return Op(uint32_t(first) + steps);
}

Op loadOp(uint32_t width) {
  static constexpr Op kOps[] = {Op::Lb,  Op::Lh,  Op::Lw,  Op::Ld,
                                Op::Lbu, Op::Lhu, Op::Lwu, Op::Illegal};
  return kOps[width];
}

Op immediateOp(uint32_t bits, int32_t& imm) {
  switch (field(bits, 12, 3)) {
    case 0:
      return Op::Addi;
    case 1:
      imm &= 63;
      return field(bits, 26, 6) == 0 ? Op::Slli : Op::Illegal;
    case 2:
      return Op::Slti;
    case 3:
      return Op::Sltiu;
    case 4:
      return Op::Xori;
    case 5:
      imm &= 63;
      if (field(bits, 26, 6) == 0) return Op::Srli;
      return field(bits, 26, 6) == 0x10 ? Op::Srai : Op::Illegal;
    case 6:
      return Op::Ori;
    default:
      return Op::Andi;
  }
}

Op immediateWordOp(uint32_t bits, int32_t& imm) {
  const uint32_t high = field(bits, 25, 7);
  switch (field(bits, 12, 3)) {
    case 0:
      return Op::Addiw;
    case 1:
      imm &= 31;
      return high == 0 ? Op::Slliw : Op::Illegal;
    case 5:
      imm &= 31;
      if (high == 0) return Op::Srliw;
      return high == 0x20 ? Op::Sraiw : Op::Illegal;
    default:
      return Op::Illegal;
  }
}

Op registerOp(uint32_t bits) {
  static constexpr Op kBase[] = {Op::Add, Op::Sll, Op::Slt, Op::Sltu,
                                 Op::Xor, Op::Srl, Op::Or,  Op::And};
  const uint32_t which = field(bits, 12, 3);
  switch (field(bits, 25, 7)) {
    case 0:
      return kBase[which];
    case 1:
      return after(Op::Mul, which);
    case 0x20:
      return which == 0 ? Op::Sub : which == 5 ? Op::Sra : Op::Illegal;
    default:
      return Op::Illegal;
  }
}

Op registerWordOp(uint32_t bits) {
  const uint32_t which = field(bits, 12, 3);
  switch (field(bits, 25, 7)) {
    case 0:
      return which == 0 ? Op::Addw : which == 1 ? Op::Sllw : which == 5 ? Op::Srlw : Op::Illegal;
    case 1:
      return which == 0 ? Op::Mulw : which >= 4 ? after(Op::Divw, which - 4) : Op::Illegal;
    case 0x20:
      return which == 0 ? Op::Subw : which == 5 ? Op::Sraw : Op::Illegal;
    default:
      return Op::Illegal;
  }
}

Op atomicOp(uint32_t bits) {
  const uint32_t width = field(bits, 12, 3);
  if (width != 2 && width != 3) return Op::Illegal;
  const bool wide = width == 3;
  const auto amo = [wide](Op word) {
    return wide ? after(word, uint32_t(Op::AmoswapD) - uint32_t(Op::AmoswapW)) : word;
  };
  switch (field(bits, 27, 5)) {
    case 0x02:
      return field(bits, 20, 5) != 0 ? Op::Illegal : wide ? Op::LrD : Op::LrW;
    case 0x03:
      return wide ? Op::ScD : Op::ScW;
    case 0x01:
      return amo(Op::AmoswapW);
    case 0x00:
      return amo(Op::AmoaddW);
    case 0x04:
      return amo(Op::AmoxorW);
    case 0x0c:
      return amo(Op::AmoandW);
    case 0x08:
      return amo(Op::AmoorW);
    case 0x10:
      return amo(Op::AmominW);
    case 0x14:
      return amo(Op::AmomaxW);
    case 0x18:
      return amo(Op::AmominuW);
    case 0x1c:
      return amo(Op::AmomaxuW);
    default:
      return Op::Illegal;
  }
}

Op fenceOp(uint32_t bits) {
  switch (field(bits, 12, 3)) {
    case 0: {
      if (bits == 0x0100000f) return Op::Pause;
      const uint32_t mode = field(bits, 28, 4);
      const bool storeThenLoad = (field(bits, 24, 4) & 5) != 0 && (field(bits, 20, 4) & 10) != 0;
      // x86 keeps every order but an older store and a younger load; fence.tso wants no more.
      return mode == 0 && storeThenLoad ? Op::Fence : Op::FenceLight;
    }
    case 1:
      return Op::FenceI;
    default:
      return Op::Illegal;
  }
}

Op systemOp(uint32_t bits) {
  const uint32_t which = field(bits, 12, 3);
  if (which != 0)
    return which == 4 ? Op::Illegal : after(Op::Csrrw, which > 4 ? which - 2 : which - 1);
  switch (bits) {
    case 0x00000073:
      return Op::Ecall;
    case 0x00100073:
      return Op::Ebreak;
    case 0x10200073:
      return Op::Sret;
    case 0x10500073:
      return Op::Wfi;
    default:
      break;
  }
  if (field(bits, 25, 7) == 9 && field(bits, 7, 5) == 0) return Op::SfenceVma;
  return Op::Illegal;
}

/** Destination and rounding of a floating-point operation that is not a fused multiply-add. */
struct FloatShape {
  Op op = Op::Illegal;
  bool integerTarget = false;
  bool rounds = false;
};

FloatShape floatShape(uint32_t bits) {
  const bool wide = field(bits, 25, 2) == 1;  // 0: single, 1: double; no other format here
  if (field(bits, 25, 2) > 1) return {};
  const auto form = [wide](Op single) {
    return wide ? after(single, uint32_t(Op::FaddD) - uint32_t(Op::FaddS)) : single;
  };
  const uint32_t which = field(bits, 12, 3);
  const uint32_t source = field(bits, 20, 5);
  switch (field(bits, 27, 5)) {
    case 0x00:
      return {form(Op::FaddS), false, true};
    case 0x01:
      return {form(Op::FsubS), false, true};
    case 0x02:
      return {form(Op::FmulS), false, true};
    case 0x03:
      return {form(Op::FdivS), false, true};
    case 0x0b:
      return source == 0 ? FloatShape{form(Op::FsqrtS), false, true} : FloatShape{};
    case 0x04:
      return which < 3 ? FloatShape{form(after(Op::FsgnjS, which)), false, false} : FloatShape{};
    case 0x05:
      return which < 2 ? FloatShape{form(after(Op::FminS, which)), false, false} : FloatShape{};
    case 0x08:
      if (wide && source == 0) return {Op::FcvtDS, false, true};
      if (!wide && source == 1) return {Op::FcvtSD, false, true};
      return {};
    case 0x14:
      if (which > 2) return {};
      return {form(which == 2 ? Op::FeqS : which == 1 ? Op::FltS : Op::FleS), true, false};
    case 0x18:
      return source < 4 ? FloatShape{form(after(Op::FcvtWS, source)), true, true} : FloatShape{};
    case 0x1a:
      return source < 4 ? FloatShape{form(after(Op::FcvtSW, source)), false, true} : FloatShape{};
    case 0x1c:
      if (source != 0) return {};
      if (which == 1) return {form(Op::FclassS), true, false};
      return which == 0 ? FloatShape{wide ? Op::FmvXD : Op::FmvXW, true, false} : FloatShape{};
    case 0x1e:
      return source == 0 && which == 0 ? FloatShape{wide ? Op::FmvDX : Op::FmvWX, false, false}
                                       : FloatShape{};
    default:
      return {};
  }
}

bool validRounding(uint32_t mode) {
  return mode <= 4 || mode == 7;
}

}  // namespace

Instruction decode(uint32_t bits) noexcept {
  if ((bits & 3) != 3) return decodeCompressed(uint16_t(bits));
  const uint32_t rd = field(bits, 7, 5);
  const uint32_t which = field(bits, 12, 3);
  Instruction i;
  i.rd = sinkFor(rd);
  i.rs1 = uint8_t(field(bits, 15, 5));
  i.rs2 = uint8_t(field(bits, 20, 5));
  i.imm = int32_t(bits) >> 20;  // I-type, the most common
  switch (field(bits, 2, 5)) {
    case 0x00:
      i.op = loadOp(which);
      break;
    case 0x01:
      i.op = which == 2 ? Op::Flw : which == 3 ? Op::Fld : Op::Illegal;
      i.rd = uint8_t(rd);
      break;
    case 0x03:
      i.op = fenceOp(bits);
      break;
    case 0x04:
      i.op = immediateOp(bits, i.imm);
      break;
    case 0x05:
      i.op = Op::Auipc;
      i.imm = int32_t(bits & 0xfffff000);
      break;
    case 0x06:
      i.op = immediateWordOp(bits, i.imm);
      break;
    case 0x08:
    case 0x09:
      if (field(bits, 2, 5) == 0x08)
        i.op = which < 4 ? after(Op::Sb, which) : Op::Illegal;
      else
        i.op = which == 2 ? Op::Fsw : which == 3 ? Op::Fsd : Op::Illegal;
      i.imm = int32_t(bits & 0xfe000000) >> 20 | int32_t(rd);
      break;
    case 0x0b:
      i.op = atomicOp(bits);
      break;
    case 0x0c:
      i.op = registerOp(bits);
      break;
    case 0x0d:
      i.op = Op::Li;
      i.imm = int32_t(bits & 0xfffff000);
      break;
    case 0x0e:
      i.op = registerWordOp(bits);
      break;
    case 0x10:
    case 0x11:
    case 0x12:
    case 0x13: {
      const bool wide = field(bits, 25, 2) == 1;
      if (field(bits, 25, 2) > 1 || !validRounding(which)) break;
      i.op = after(wide ? Op::FmaddD : Op::FmaddS, field(bits, 2, 2));
      i.rd = uint8_t(rd);
      i.imm = int32_t(which | field(bits, 27, 5) << 8);
      break;
    }
    case 0x14: {
      const FloatShape shape = floatShape(bits);
      if (shape.rounds && !validRounding(which)) break;
      i.op = shape.op;
      if (!shape.integerTarget) i.rd = uint8_t(rd);
      i.imm = int32_t(which);
      break;
    }
    case 0x18:
      i.op = which < 2    ? after(Op::Beq, which)
             : which >= 4 ? after(Op::Blt, which - 4)
                          : Op::Illegal;
      i.imm = signExtend(field(bits, 31, 1) << 12 | field(bits, 7, 1) << 11 |
                             field(bits, 25, 6) << 5 | field(bits, 8, 4) << 1,
                         13);
      break;
    case 0x19:
      i.op = which == 0 ? Op::Jalr : Op::Illegal;
      break;
    case 0x1b:
      i.op = Op::Jal;
      i.imm = signExtend(field(bits, 31, 1) << 20 | field(bits, 12, 8) << 12 |
                             field(bits, 20, 1) << 11 | field(bits, 21, 10) << 1,
                         21);
      break;
    case 0x1c:
      i.op = systemOp(bits);
      i.imm = int32_t(bits >> 20);
      break;
    default:
      break;
  }
  return i;
}

}  // namespace ckptfs::rv64
