# Calls the random program, which lies 128 KiB before this one, 200 times; then powers off. Loaded
# anywhere: everything is relative to the pc. The random program keeps no register but ra.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    li t0, SSTATUS_FS
    csrs sstatus, t0
next:
    la t0, _start
    lui t1, 0x20
    sub t0, t0, t1
    jalr t0
    la t0, count
    lw t1, 0(t0)
    addi t1, t1, -1
    sw t1, 0(t0)
    bnez t1, next
    END 0
    .align 2
count: .word 200
