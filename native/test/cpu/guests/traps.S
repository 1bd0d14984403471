# Synchronous exceptions, CSRs and privilege.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    la t0, trap_record
    csrw stvec, t0
    li t0, SSTATUS_FS
    csrs sstatus, t0

    # Illegal instructions: stval holds their bits.
    TRAPS 1, 2, 0, .half 0
    TRAPS 2, 2, 0xc0001073, .word 0xc0001073
    TRAPS 3, 2, 0xffffffff, .word 0xffffffff
    TRAPS 4, 2, 0x8000, .half 0x8000            # reserved compressed
    TRAPS 5, 2, 0x9c41, .half 0x9c41            # reserved compressed
    TRAPS 6, 2, 0x30200073, mret
    TRAPS 7, 2, 0x0000500f, .word 0x0000500f    # reserved in MISC-MEM
    TRAPS 8, 2, 0x02005053, .word 0x02005053  # fadd.d, rounding mode 5
    TRAPS 9, 2, any, csrw 0x7c0, t0             # unknown and M-mode registers
    TRAPS 10, 2, any, csrr t0, 0x300
    TRAPS 11, 2, any, csrr t0, 0x5c0
    TRAPS 12, 2, any, csrw cycle, t0            # read-only
    TRAPS 13, 2, 0xc012a2f3, csrrs t0, time, t0
    csrrs t0, time, x0

    # Breakpoints.
    TRAPS 14, 3, any, .word 0x00100073
    mv t0, s11
    beq t0, s9, 1f
    END 14
1:  TRAPS 15, 3, any, .half 0x9002

    # Misaligned atomics; misaligned loads and stores work.
    la t0, data + 2
    TRAPS 16, 6, any, amoadd.w t1, t1, (t0)
    mv t1, s11
    beq t0, t1, 1f
    END 16
1:  TRAPS 17, 4, any, lr.w t1, (t0)
    TRAPS 18, 6, any, sc.w t1, t1, (t0)
    la t0, data + 4
    TRAPS 19, 4, any, lr.d t1, (t0)
    la t0, data
    li t1, 0x1122334455667788
    sd t1, 1(t0)
    ld t2, 1(t0)
    beq t1, t2, 1f
    END 20
1:  lw t2, 2(t0)
    EXPECT 21, t2, 0x44556677
    lh t2, 7(t0)
    EXPECT 22, t2, 0x1122

    # A store-conditional succeeds only after its own load-reserved, once, and not after a trap.
    la t0, data
    addi t3, t0, 8
    sc.d t1, t0, (t0)
    EXPECT 80, t1, 1
    lr.d t1, (t0)
    sc.d t1, t0, (t3)               # another address
    EXPECT 81, t1, 1
    sc.d t1, t0, (t0)               # and the failure ended the reservation
    EXPECT 82, t1, 1
    lr.d t1, (t0)
    sc.d t1, x0, (t0)
    EXPECT 83, t1, 0
    sc.d t1, x0, (t0)
    EXPECT 84, t1, 1
    lr.w t1, (t0)
    TRAPS 85, 3, any, ebreak
    sc.w t1, x0, (t0)
    EXPECT 86, t1, 1
    li t1, 5
    lr.w t2, (t0)
    sw t1, 0(t0)
    sc.w t1, x0, (t0)               # the value has changed
    EXPECT 87, t1, 1
    ld t2, 0(t0)
    EXPECT 88, t2, 5

    # jalr clears bit 0 of its target.
    la t0, odd
    jalr t1, 1(t0)
    END 89
odd:

    # Accesses where nothing is.
    li t0, 0x40000000
    TRAPS 23, 5, 0x40000008, ld t1, 8(t0)
    TRAPS 24, 7, 0x40000000, sw t1, 0(t0)
    TRAPS 25, 7, 0x40000000, amoadd.w t1, t1, (t0)
    TRAPS 26, 5, 0x40000000, lr.w t1, (t0)
    TRAPS 27, 7, 0x40000000, sc.w t1, t1, (t0)
    li s10, -1
    la s8, 2f
    jr t0
2:  EXPECT 28, s10, 1
    EXPECT 28, s11, 0x40000000
    EXPECT 28, s9, 0x40000000

    # A device: every size, but nothing misaligned or atomic.
    li t0, 0x10000000
    li t1, 0x8877665544332211
    sd t1, 0(t0)
    lb t2, 7(t0)
    EXPECT 30, t2, -0x78
    lhu t2, 4(t0)
    EXPECT 31, t2, 0x6655
    lw t2, 4(t0)
    EXPECT 32, t2, 0xffffffff88776655
    sb t1, 1(t0)
    sh t1, 2(t0)
    sw t1, 4(t0)
    ld t2, 0(t0)
    EXPECT 33, t2, 0x4433221122111111
    TRAPS 34, 5, 0x10000001, lw t2, 1(t0)
    TRAPS 35, 7, 0x10000000, amoswap.w t2, t2, (t0)

    # sstatus: which bits exist.
    csrr t0, sstatus
    li t1, -1
    csrw sstatus, t1
    csrr t2, sstatus
    csrw sstatus, t0
    EXPECT 40, t2, 0x80000002000c6122
    li t0, SSTATUS_FS
    csrc sstatus, t0
    TRAPS 41, 2, any, fadd.s fa0, fa0, fa0
    TRAPS 42, 2, any, flw fa0, 0(sp)
    TRAPS 43, 2, any, c.fsdsp fa0, 0(sp)
    TRAPS 44, 2, any, csrr t1, fcsr
    TRAPS 45, 2, any, fmv.x.d t1, fa0
    # Initial or clean becomes dirty with the first write.
    li t0, 0x4000
    csrs sstatus, t0
    csrr t1, sstatus
    bgez t1, 1f
    END 46
1:  fmv.d.x fa0, x0
    csrr t1, sstatus
    bltz t1, 1f
    END 47
1:  li t0, 5
    csrw frm, t0
    TRAPS 48, 2, any, fadd.d fa0, fa0, fa0         # dynamic, and frm is invalid
    fadd.d fa0, fa0, fa0, rtz                      # static: fine
    csrw frm, x0
    li t0, 0x1ff
    csrw fcsr, t0
    csrr t1, fcsr
    EXPECT 49, t1, 0xff
    csrw fcsr, x0

    # stvec, sepc, sip, sie, scounteren, senvcfg: what is writable.
    csrr t0, stvec
    li t1, -1
    csrw stvec, t1
    csrr t2, stvec
    csrw stvec, t0
    EXPECT 50, t2, -3
    csrw sepc, t1
    csrr t2, sepc
    EXPECT 51, t2, -2
    csrw sie, t1
    csrr t2, sie
    csrw sie, x0
    EXPECT 52, t2, 0x222
    csrw sip, t1
    csrr t2, sip
    csrw sip, x0
    EXPECT 53, t2, 2
    csrr t2, scounteren             # user mode may read the counters from the start
    EXPECT 57, t2, 7
    csrw scounteren, t1
    csrr t2, scounteren
    EXPECT 54, t2, 7
    csrw scounteren, x0

    # satp: an unsupported mode changes nothing.
    li t0, 9 << 60 | 0x80200
    csrw satp, t0
    csrr t1, satp
    EXPECT 55, t1, 0
    li t0, 1 << 60
    csrw satp, t0
    csrr t1, satp
    EXPECT 56, t1, 0

    # User mode.
    USER_TRAPS 60, 8, 0, ecall
    USER_TRAPS 61, 2, any, csrr t0, sstatus
    USER_TRAPS 62, 2, 0x10500073, wfi
    USER_TRAPS 63, 2, 0x10200073, sret
    USER_TRAPS 64, 2, 0x12000073, sfence.vma
    USER_TRAPS 65, 2, any, csrr t0, cycle
    USER_TRAPS 66, 2, any, csrr t0, time
    USER_TRAPS 67, 2, any, csrr t0, instret
    li t0, 5
    csrw scounteren, t0
    USER_TRAPS 68, 2, any, csrr t0, time
    la s8, 2f
    TO_USER
    csrr t0, cycle
    csrr t0, instret
    ecall
2:  EXPECT 69, s10, 8

    # SPP, SPIE and SIE through a trap and back.
    csrsi sstatus, SSTATUS_SIE
    li s10, -1
    la s8, 2f
    la t0, inspect
    csrw stvec, t0
    .word 0                         # illegal
2:  csrr t1, sstatus
    andi t1, t1, 0x122
    EXPECT 70, t5, 0x120                       # in the handler: from S, SIE was set and is clear
    EXPECT 71, t1, 0x22                        # after sret: SIE back, SPIE set, SPP clear
    csrci sstatus, SSTATUS_SIE

    # instret counts instructions exactly, time moves.
    csrr t0, instret
    nop
    nop
    csrr t1, instret
    sub t1, t1, t0
    EXPECT 72, t1, 3
    csrr t0, time
    csrr t1, time
    bltu t0, t1, 1f
    END 73
1:
    END 0

    .align 2
inspect:
    csrr t5, sstatus
    andi t5, t5, 0x122
    csrw sepc, s8
    sret

TRAP_RECORDER
    .align 4
data:
    .zero 32
