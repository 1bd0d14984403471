# Two harts: HSM, IPI, RFENCE, and contention with AMO and LR/SC. The test runs it several times.
.include "test/cpu/guests/guest.inc"

.equ ROUNDS, 20000

    .globl _start
_start:
    # Hart 0 only; hart 1 is stopped.
    la t0, unexpected
    csrw stvec, t0
    li a0, 1
    SBI SBI_HSM, 2
    EXPECT 1, a0, 0
    EXPECT 1, a1, 1
    li a0, 0
    SBI SBI_HSM, 2
    EXPECT 2, a1, 0
    li a0, 2                        # no such hart
    SBI SBI_HSM, 2
    EXPECT 3, a0, -3
    li a0, 2
    la a1, second
    SBI SBI_HSM, 0
    EXPECT 4, a0, -3
    li a0, 1
    li a1, 0x1000                   # not RAM
    SBI SBI_HSM, 0
    EXPECT 5, a0, -5
    li a0, 0                        # already running
    la a1, second
    SBI SBI_HSM, 0
    EXPECT 6, a0, -6

    # A fence of a stopped hart is done at once.
    li a0, 3
    li a1, 0
    li a2, 0
    li a3, 0
    SBI SBI_RFENCE, 1
    EXPECT 7, a0, 0
    li a0, 4                        # a hart that does not exist
    li a1, 0
    SBI SBI_RFENCE, 0
    EXPECT 8, a0, -3
    li a0, 1
    li a1, 2
    SBI SBI_IPI, 0
    EXPECT 9, a0, -3

    li a0, 1
    la a1, second
    li a2, 0x1234
    SBI SBI_HSM, 0
    EXPECT 10, a0, 0

    # Both harts add to the same counters.
    jal add_many
    la t0, ready
1:  lw t1, 0(t0)
    fence r, rw
    beqz t1, 1b
    la t0, counters
    lw t1, 0(t0)
    EXPECT 11, t1, 2 * ROUNDS
    ld t1, 8(t0)
    EXPECT 12, t1, 2 * ROUNDS
    ld t1, 16(t0)
    EXPECT 13, t1, 2 * ROUNDS
    lw t1, 24(t0)
    EXPECT 14, t1, 2 * ROUNDS

    # Hart 1 sleeps until an IPI; it answers by one. Mask base -1 names all harts.
    li s0, 200
    csrwi sie, 0
2:  li a0, 2
    li a1, 0
    SBI SBI_IPI, 0
3:  csrr t1, sip
    andi t1, t1, 2
    beqz t1, 3b
    csrci sip, 2
    addi s0, s0, -1
    bnez s0, 2b

    # Code that hart 1 runs in a loop is changed, fenced remotely, and then seen.
    li s0, 1
    la s1, patched
    la s2, seen
4:  slli t0, s0, 20
    li t1, 0x00000513               # li a0, s0
    or t0, t0, t1
    sw t0, 0(s1)
    li a0, -1
    li a1, -1
    SBI SBI_RFENCE, 0
    EXPECT 15, a0, 0
    ld t2, 8(s2)                    # hart 1 counts its calls: after two more it has seen it
    addi t2, t2, 2
5:  ld t1, 8(s2)
    blt t1, t2, 5b
    ld t1, 0(s2)
    beq t1, s0, 6f
    END 16
6:  addi s0, s0, 1
    li t0, 200
    blt s0, t0, 4b

    # A page is mapped elsewhere, and fenced remotely: when the call returns, no access of hart 1 uses
    # the old mapping. Hart 1 looks at the announcement and then at the page, late in a long block.
    jal paging_on
    la t0, quit
    li t1, 2
    sw t1, 0(t0)
6:  lw t1, 0(t0)                    # hart 1 answers that it is there
    li t2, 3
    bne t1, t2, 6b
    li s0, 0
6:  la t0, versions
    slli t1, s0, 12
    andi t2, s0, 1
    slli t2, t2, 12
    add t0, t0, t2
    sd s0, 0(t0)
    srli t0, t0, 2
    ori t0, t0, 0xcf
    la t1, leaves
    sd t0, 0(t1)
    li a0, 2
    li a1, 0
    li a2, 0x40000000
    li a3, 0x1000
    SBI SBI_RFENCE, 1
    la t0, announced
    sd s0, 0(t0)
    addi s0, s0, 1
    li t0, 2000
    blt s0, t0, 6b

    # Hart 1 stops itself.
    la t0, quit
    li t1, 1
    sw t1, 0(t0)
7:  li a0, 1
    SBI SBI_HSM, 2
    EXPECT 17, a0, 0
    li t0, 1
    bne a1, t0, 7b
    # And starts again elsewhere.
    la t0, quit
    sw x0, 0(t0)
    li a0, 1
    la a1, third
    li a2, 77
    SBI SBI_HSM, 0
    EXPECT 18, a0, 0
8:  la t0, quit
    lw t1, 0(t0)
    beqz t1, 8b
    EXPECT 19, t1, 77
    # It is suspended until an IPI.
9:  li a0, 1
    SBI SBI_HSM, 2
    li t0, 4
    bne a1, t0, 9b
    li a0, 1
    li a1, 1
    SBI SBI_IPI, 0
10: la t0, quit
    lw t1, 0(t0)
    li t2, 78
    bne t1, t2, 10b
11: li a0, 1
    SBI SBI_HSM, 2
    li t0, 1
    bne a1, t0, 11b
    END 0

second:
    la t0, unexpected
    csrw stvec, t0
    EXPECT 30, a0, 1
    EXPECT 31, a1, 0x1234
    csrr t0, satp
    EXPECT 32, t0, 0
    csrr t0, sstatus
    andi t0, t0, 2
    EXPECT 33, t0, 0
    jal add_many
    la t0, ready
    li t1, 1
    fence rw, w
    sw t1, 0(t0)

    csrwi sie, 2
    li s0, 200
1:  wfi
    csrr t1, sip
    andi t1, t1, 2
    beqz t1, 1b
    csrci sip, 2
    li a0, 1
    li a1, 0
    SBI SBI_IPI, 0
    addi s0, s0, -1
    bnez s0, 1b

    la s1, patched
    la s2, seen
    la s3, quit
2:  jalr s1
    sd a0, 0(s2)
    ld t0, 8(s2)
    addi t0, t0, 1
    sd t0, 8(s2)
    lw t0, 0(s3)
    beqz t0, 2b

    jal paging_on
    li t0, 3
    sw t0, 0(s3)
    li s4, 0x40000000
    la s5, announced
    li s6, 1
2:  .rept 30
    div s7, s4, s6
    .endr
    ld t0, 0(s5)
    fence r, r
    ld t1, 0(s4)
    bgeu t1, t0, 3f
    END 37
3:  lw t0, 0(s3)
    bne t0, s6, 2b
    csrw satp, x0
    SBI SBI_HSM, 1
    END 34

# Sv39 with one gigapage over RAM, and the page 0x40000000 that `leaves` maps.
paging_on:
    la t0, leaves
    la t2, versions
    srli t2, t2, 2
    ori t2, t2, 0xcf
    sd t2, 0(t0)
    la t1, middle
    srli t0, t0, 2
    ori t0, t0, 1
    sd t0, 0(t1)
    la t2, root
    srli t1, t1, 2
    ori t1, t1, 1
    sd t1, 8(t2)
    li t1, 0x80000000 >> 2 | 0xcf
    sd t1, 16(t2)
    srli t2, t2, 12
    li t1, 8 << 60
    or t2, t2, t1
    csrw satp, t2
    sfence.vma
    ret

third:
    la t0, unexpected
    csrw stvec, t0
    la s3, quit
    sw a1, 0(s3)
    csrwi sie, 2
    csrci sip, 2
    li a0, 0                        # retentive
    SBI SBI_HSM, 3
    EXPECT 35, a0, 0
    csrci sip, 2
    li t0, 78
    sw t0, 0(s3)
    SBI SBI_HSM, 1
    END 36

# Adds 1 ROUNDS times to each counter, each in another way.
add_many:
    la t0, counters
    addi t3, t0, 8
    addi t4, t0, 16
    addi t5, t0, 24
    li t1, ROUNDS
    li t2, 1
1:  amoadd.w x0, t2, (t0)
    amoadd.d.aqrl x0, t2, (t3)
2:  lr.d.aq a2, (t4)
    addi a2, a2, 1
    sc.d.rl a3, a2, (t4)
    bnez a3, 2b
    # A lock by amoswap around a plain increment.
    la a4, lock
3:  amoswap.w.aq a2, t2, (a4)
    bnez a2, 3b
    lw a2, 0(t5)
    addi a2, a2, 1
    sw a2, 0(t5)
    amoswap.w.rl x0, x0, (a4)
    addi t1, t1, -1
    bnez t1, 1b
    ret

unexpected:
    END 98

    .align 3
counters: .zero 32
seen: .zero 16
lock: .word 0
ready: .word 0
quit: .word 0
    .align 3
    .option norvc
    .option norvc
patched:
    li a0, 0
    ret
    .align 3
announced: .dword 0
    .align 12
root: .zero 4096
middle: .zero 4096
leaves: .zero 4096
versions: .zero 8192
