// From instruction bits to an operation with its operands. Pure functions, no state.
#pragma once

#include <cstdint>

#include "cpu/rv64/opcodes.h"

namespace ckptfs::rv64 {

/** A decoded instruction. Registers are indices into HartState::x or f; an integer destination x0
 *  is HartState::kSink. */
struct Instruction {
  Op op = Op::Illegal;
  uint8_t rd = 0;
  uint8_t rs1 = 0;
  uint8_t rs2 = 0;
  /** Immediate, branch offset, shift amount or CSR number. Floating point: rounding mode (0..4 or
   *  7, dynamic) in bits 2:0 and rs3 in bits 12:8. CSR: the number, and the immediate is rs1. */
  int32_t imm = 0;
};

constexpr unsigned kMaxInstructionBytes = 4;
/** Length in bytes, from the first 16 bits. */
constexpr unsigned lengthOf(uint16_t bits) noexcept {
  return (bits & 3) == 3 ? 4 : 2;
}

/** Decodes a 32-bit instruction, or a 16-bit one with zeros above it. */
Instruction decode(uint32_t bits) noexcept;
Instruction decodeCompressed(uint16_t bits) noexcept;

}  // namespace ckptfs::rv64
