// Every operation that the decoder can name and the interpreter has a handler for.
//
// Compressed instructions are not among them: they decode to the operation they abbreviate.
// An operation that ends a block is followed by no other in it.
#pragma once

#include <cstdint>

// clang-format off
#define RV64_INTEGER_OPS(OP) \
  OP(Li) OP(Auipc) OP(Mv) \
  OP(Addi) OP(Slti) OP(Sltiu) OP(Xori) OP(Ori) OP(Andi) OP(Slli) OP(Srli) OP(Srai) \
  OP(Add) OP(Sub) OP(Sll) OP(Slt) OP(Sltu) OP(Xor) OP(Srl) OP(Sra) OP(Or) OP(And) \
  OP(Addiw) OP(Slliw) OP(Srliw) OP(Sraiw) OP(Addw) OP(Subw) OP(Sllw) OP(Srlw) OP(Sraw) \
  OP(Mul) OP(Mulh) OP(Mulhsu) OP(Mulhu) OP(Div) OP(Divu) OP(Rem) OP(Remu) \
  OP(Mulw) OP(Divw) OP(Divuw) OP(Remw) OP(Remuw)

#define RV64_MEMORY_OPS(OP) \
  OP(Lb) OP(Lh) OP(Lw) OP(Ld) OP(Lbu) OP(Lhu) OP(Lwu) OP(Sb) OP(Sh) OP(Sw) OP(Sd) \
  OP(Flw) OP(Fld) OP(Fsw) OP(Fsd)

#define RV64_ATOMIC_OPS(OP) \
  OP(LrW) OP(LrD) OP(ScW) OP(ScD) \
  OP(AmoswapW) OP(AmoaddW) OP(AmoxorW) OP(AmoandW) OP(AmoorW) \
  OP(AmominW) OP(AmomaxW) OP(AmominuW) OP(AmomaxuW) \
  OP(AmoswapD) OP(AmoaddD) OP(AmoxorD) OP(AmoandD) OP(AmoorD) \
  OP(AmominD) OP(AmomaxD) OP(AmominuD) OP(AmomaxuD) \
  OP(Fence) OP(FenceLight) OP(Pause)

#define RV64_FLOAT_OPS_OF(OP, F) \
  OP(Fadd##F) OP(Fsub##F) OP(Fmul##F) OP(Fdiv##F) OP(Fsqrt##F) \
  OP(Fmadd##F) OP(Fmsub##F) OP(Fnmsub##F) OP(Fnmadd##F) \
  OP(Fsgnj##F) OP(Fsgnjn##F) OP(Fsgnjx##F) OP(Fmin##F) OP(Fmax##F) \
  OP(Feq##F) OP(Flt##F) OP(Fle##F) OP(Fclass##F) \
  OP(FcvtW##F) OP(FcvtWu##F) OP(FcvtL##F) OP(FcvtLu##F) \
  OP(Fcvt##F##W) OP(Fcvt##F##Wu) OP(Fcvt##F##L) OP(Fcvt##F##Lu)
#define RV64_FLOAT_OPS(OP) \
  RV64_FLOAT_OPS_OF(OP, S) RV64_FLOAT_OPS_OF(OP, D) \
  OP(FcvtSD) OP(FcvtDS) OP(FmvXW) OP(FmvWX) OP(FmvXD) OP(FmvDX)

#define RV64_BRANCH_OPS(OP) \
  OP(Beq) OP(Bne) OP(Blt) OP(Bge) OP(Bltu) OP(Bgeu) OP(Jal) OP(Jalr) OP(Next)

#define RV64_SYSTEM_OPS(OP) \
  OP(Ecall) OP(Ebreak) OP(Sret) OP(Wfi) OP(SfenceVma) OP(FenceI) \
  OP(Csrrw) OP(Csrrs) OP(Csrrc) OP(Csrrwi) OP(Csrrsi) OP(Csrrci) OP(Illegal)

#define RV64_OPS(OP) \
  RV64_INTEGER_OPS(OP) RV64_MEMORY_OPS(OP) RV64_ATOMIC_OPS(OP) RV64_FLOAT_OPS(OP) \
  RV64_BRANCH_OPS(OP) RV64_SYSTEM_OPS(OP)
// clang-format on

namespace ckptfs::rv64 {

enum class Op : uint16_t {
#define OP(name) name,
  RV64_OPS(OP)
#undef OP
      count
};

constexpr bool endsBlock(Op op) noexcept {
  return op >= Op::Beq;
}

}  // namespace ckptfs::rv64
