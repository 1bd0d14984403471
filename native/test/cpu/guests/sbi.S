# The SBI's calls on one hart, and their errors.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    la t0, unexpected
    csrw stvec, t0

    SBI SBI_BASE, 0
    EXPECT 1, a0, 0
    EXPECT 1, a1, 0x2000000
    SBI SBI_BASE, 1
    EXPECT 2, a0, 0
    SBI SBI_BASE, 2
    EXPECT 3, a0, 0
    SBI SBI_BASE, 4
    EXPECT 4, a1, 0
    SBI SBI_BASE, 5
    EXPECT 5, a1, 0
    SBI SBI_BASE, 6
    EXPECT 6, a1, 0
    SBI SBI_BASE, 7
    EXPECT 7, a0, -2

    # probe_extension of every one, and of one that there is not (PMU).
    la s0, extensions
probe_next:
    lwu a0, 0(s0)
    beqz a0, 2f
    SBI SBI_BASE, 3
    EXPECT 8, a0, 0
    EXPECT 8, a1, 1
    addi s0, s0, 4
    j probe_next
2:  li a0, 0x504d55
    SBI SBI_BASE, 3
    EXPECT 9, a0, 0
    EXPECT 9, a1, 0
    SBI 0x504d55, 0
    EXPECT 10, a0, -2
    SBI SBI_TIME, 1
    EXPECT 11, a0, -2
    SBI SBI_IPI, 1
    EXPECT 12, a0, -2
    SBI SBI_RFENCE, 7
    EXPECT 13, a0, -2
    SBI SBI_HSM, 4
    EXPECT 14, a0, -2
    SBI SBI_SRST, 1
    EXPECT 15, a0, -2
    SBI SBI_DBCN, 3
    EXPECT 16, a0, -2

    # Registers but a0 and a1 are kept.
    li s1, 0x1234
    mv a2, s1
    mv a3, s1
    mv a4, s1
    mv a5, s1
    SBI SBI_BASE, 0
    bne a2, s1, bad
    bne a3, s1, bad
    bne a4, s1, bad
    bne a5, s1, bad

    # IPI to itself, by mask and to all.
    li a0, 1
    li a1, 0
    SBI SBI_IPI, 0
    EXPECT 20, a0, 0
    csrr t0, sip
    EXPECT 20, t0, 2
    csrci sip, 2
    li a0, 0
    li a1, -1
    SBI SBI_IPI, 0
    csrr t0, sip
    EXPECT 21, t0, 2
    csrci sip, 2

    # Fences of itself: all kinds, ranges that wrap, and the whole space.
    li s2, 0
3:  li a0, 1
    li a1, 0
    li a2, -4096
    li a3, 8192
    li a4, 0
    li a7, SBI_RFENCE
    mv a6, s2
    ecall
    EXPECT 22, a0, 0
    li a0, 1
    li a1, 0
    li a2, 0
    li a3, -1
    mv a6, s2
    ecall
    EXPECT 23, a0, 0
    addi s2, s2, 1
    li t0, 3
    blt s2, t0, 3b

    # Debug console: bytes, the length written; bad addresses.
    li a0, 6
    la a1, hello
    li a2, 0
    SBI SBI_DBCN, 0
    EXPECT 30, a0, 0
    EXPECT 30, a1, 6
    li a0, 'x'
    SBI SBI_DBCN, 2
    EXPECT 31, a0, 0
    li a0, 6
    li a1, 0x1000
    li a2, 0
    SBI SBI_DBCN, 0
    EXPECT 32, a0, -3
    li a0, 6
    la a1, hello
    li a2, 1
    SBI SBI_DBCN, 0
    EXPECT 33, a0, -3
    li a0, -1
    la a1, hello
    li a2, 0
    SBI SBI_DBCN, 0
    EXPECT 34, a0, -3
    li a0, 6
    la a1, hello
    li a2, 0
    SBI SBI_DBCN, 1
    EXPECT 35, a0, 0
    EXPECT 35, a1, 0
    # Legacy console: no value, a1 kept.
    li a0, 'y'
    li a1, 0x55
    SBI 1, 0
    EXPECT 36, a0, 0
    EXPECT 36, a1, 0x55

    # Suspend returns when an interrupt is pending; retentive, then with a new start.
    csrwi sie, 2
    csrsi sip, 2
    li a0, 0
    SBI SBI_HSM, 3
    EXPECT 40, a0, 0
    li a0, 5                        # no such kind of suspension
    SBI SBI_HSM, 3
    EXPECT 41, a0, -3
    li a0, 0x80000000
    li a1, 0x1001
    SBI SBI_HSM, 3
    EXPECT 42, a0, -5
    li a0, 0x80000000
    la a1, resumed
    li a2, 0x77
    SBI SBI_HSM, 3
bad:
    END 43
resumed:
    EXPECT 44, a0, 0
    EXPECT 45, a1, 0x77

    # System reset: an invalid type, then a reboot.
    li a0, 3
    li a1, 0
    SBI SBI_SRST, 0
    EXPECT 46, a0, -3
    li a0, 1
    li a1, 0
    SBI SBI_SRST, 0
    j .

unexpected:
    END 98
    .align 3
extensions:
    .word SBI_BASE, SBI_TIME, SBI_IPI, SBI_RFENCE, SBI_HSM, SBI_SRST, SBI_DBCN, 1, 0
hello:
    .ascii "hello\n"
