# Interrupts: software, timer and external, priority, vectors, WFI.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    la t0, vectors
    ori t0, t0, 1
    csrw stvec, t0
    li s0, 0                        # interrupts seen, one hexadecimal digit each

    # Pending but not enabled, in sie or in sstatus: nothing.
    csrsi sip, 2
    csrsi sstatus, SSTATUS_SIE
    nop
    EXPECT 1, s0, 0
    csrci sstatus, SSTATUS_SIE
    li t0, 0x222
    csrw sie, t0
    nop
    EXPECT 2, s0, 0
    # Enabled: taken before the next instruction.
    csrsi sstatus, SSTATUS_SIE
    EXPECT 3, s0, 1

    # Enabled by sie alone.
    csrw sie, x0
    csrsi sip, 2
    csrwi sie, 2
    EXPECT 4, s0, 0x11
    # User mode takes them whatever SIE says.
    csrci sstatus, SSTATUS_SIE
    csrsi sip, 2
    li t6, SSTATUS_SPIE
    csrc sstatus, t6
    TO_USER
    nop
    END 5                           # never reached: the handler goes on below
user_done:
    EXPECT 5, s0, 0x111

    # Timer: pending at its deadline, cleared by a new one; WFI wakes with SIE clear.
    li s0, 0
    li t0, 0x20
    csrw sie, t0
    csrr a0, time
    addi a0, a0, 100
    SBI SBI_TIME, 0
    wfi
    csrr t1, sip
    EXPECT 6, t1, 0x20
    EXPECT 7, s0, 0
    li a0, -1
    SBI SBI_TIME, 0
    csrr t1, sip
    EXPECT 8, t1, 0
    # And taken when enabled, while waiting.
    csrsi sstatus, SSTATUS_SIE
    csrr a0, time
    addi a0, a0, 100
    SBI SBI_TIME, 0
    EXPECT 9, s0, 5

    # Priority: software before timer.
    csrci sstatus, SSTATUS_SIE
    li s0, 0
    csrr a0, time
    SBI SBI_TIME, 0
    csrsi sip, 2
    li t0, 0x222
    csrw sie, t0
    csrsi sstatus, SSTATUS_SIE
    EXPECT 10, s0, 0x15

    # External: the test raises the line when it reads this byte on the console.
    li s0, 0
    li t0, 0x200
    csrw sie, t0
    li a0, 'R'
    SBI SBI_DBCN, 2
1:  beqz s0, 1b
    EXPECT 11, s0, 9
    END 0

    .align 8
    .option norvc
vectors:
    j exception
    j software
    .word 0, 0, 0
    j timer
    .word 0, 0, 0
    j external
    .option rvc
exception:
    END 99
software:
    csrci sip, 2
    slli s0, s0, 4
    ori s0, s0, 1
    csrr t5, scause
    li t6, 1 << 63 | 1
    bne t5, t6, exception
    csrr t5, sstatus
    andi t5, t5, SSTATUS_SPP
    bnez t5, 1f
    csrr t5, sepc                   # came from user mode: go on in S
    la t6, user_done
    csrw sepc, t6
    li t6, SSTATUS_SPP
    csrs sstatus, t6
1:  sret
timer:
    slli s0, s0, 4
    ori s0, s0, 5
    li a0, -1
    SBI SBI_TIME, 0
    sret
external:
    slli s0, s0, 4
    ori s0, s0, 9
    csrw sie, x0
    sret
