# Hart 0 fences hart 1 while that is inside a device access, which the test holds up. The test sets
# the word at RAM + 0x10000 once hart 1 is there.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    li a0, 1
    la a1, second
    SBI SBI_HSM, 0
    EXPECT 1, a0, 0
    la t0, _start
    li t1, 0x10000
    add t0, t0, t1
2:  lw t1, 0(t0)
    beqz t1, 2b
    li a0, 'A'
    SBI SBI_DBCN, 2
    li a0, 2
    li a1, 0
    li a2, 0
    li a3, 0
    SBI SBI_RFENCE, 1
    EXPECT 2, a0, 0
    li a0, 'B'
    SBI SBI_DBCN, 2
    END 0

second:
    li t0, 0x10000000
    lw t1, 0(t0)
    j .
