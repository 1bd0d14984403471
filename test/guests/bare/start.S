// Entry of every hart, in S-mode with paging off and interrupts disabled: the boot hart at _start
// (a0 = hart, a1 = device tree), the others at _start_other (a0 = hart). Gives each its stack and its
// trap vector, turns floating point on, and goes on in C (bare.c). RAM is zero at boot, so .bss is too.
#define STACK_SHIFT 14 /* 16 KiB a hart, kMaxHarts of them */
#define SSTATUS_FS_INITIAL 0x2000

.section .text.start, "ax"
.globl _start, _start_other
_start:
  call enter
  call bareBoot
1:
  j 1b

.balign 4
_start_other:
  call enter
  call bareOther
1:
  j 1b

enter:
  li t0, SSTATUS_FS_INITIAL
  csrs sstatus, t0
  la t0, trap
  csrw stvec, t0
  la sp, stacks
  addi t1, a0, 1
  slli t1, t1, STACK_SHIFT
  add sp, sp, t1
  mv tp, a0
  ret

.bss
.balign 16
stacks:
  .space 8 << STACK_SHIFT
