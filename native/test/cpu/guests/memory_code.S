# Self-modifying code and translation on one hart: fence.i, sfence.vma, instructions over a page end.
.include "test/cpu/guests/guest.inc"

    .globl _start
_start:
    la t0, trap_record
    csrw stvec, t0

    # A function that returns a constant, rewritten 300 times.
    la s1, function
    li s0, 0
1:  slli t0, s0, 20
    li t1, 0x00000513               # li a0, s0
    or t0, t0, t1
    sw t0, 0(s1)
    fence.i
    jalr s1
    beq a0, s0, 2f
    END 1
2:  addi s0, s0, 1
    li t0, 300
    blt s0, t0, 1b

    # An instruction whose halves lie in two pages, rewritten half by half.
    li s0, 0
    la s1, over_end
1:  slli t0, s0, 20
    li t1, 0x00000513
    or t0, t0, t1
    sh t0, 0(s1)
    srli t0, t0, 16
    sh t0, 2(s1)
    fence.i
    jalr s1
    beq a0, s0, 2f
    END 2
2:  addi s0, s0, 1
    li t0, 300
    blt s0, t0, 1b

    # Sv39 with one gigapage for the program and, from 0x40000000, 4 KiB pages to remap.
    la t0, root
    la t1, middle
    srli t1, t1, 2
    ori t1, t1, 1
    sd t1, 8(t0)
    li t1, 0x80000000 >> 2 | 0xcf
    sd t1, 16(t0)
    la t0, middle
    la t1, leaves
    srli t1, t1, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    la t0, root
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma

    # The same virtual code page, mapped to two functions in turn.
    li s0, 0
    li s1, 0x40000000
    la s2, leaves
1:  la t0, page_a
    andi t1, s0, 1
    slli t1, t1, 12
    add t0, t0, t1
    srli t0, t0, 2
    ori t0, t0, 0xcf
    sd t0, 0(s2)
    andi t1, s0, 2
    beqz t1, 2f
    sfence.vma s1, x0
    j 3f
2:  sfence.vma
3:  jalr s1
    andi t1, s0, 1
    addi t1, t1, 10
    beq a0, t1, 4f
    END 3
4:  ld t2, 8(s1)                    # data through the same page: 100 or 101
    addi t1, t1, 90
    beq t2, t1, 5f
    END 4
5:  addi s0, s0, 1
    li t0, 200
    blt s0, t0, 1b

    # A page that may only be executed is readable while MXR is set, and no longer: no sfence.vma.
    la t0, page_a
    srli t0, t0, 2
    ori t0, t0, 0xc9
    sd t0, 0(s2)
    sfence.vma s1, x0
    TRAPS 9, 13, 0x40000008, ld t0, 8(s1)
    li t1, 1 << 19
    csrs sstatus, t1
    ld t0, 8(s1)
    EXPECT 10, t0, 100
    csrc sstatus, t1
    TRAPS 11, 13, 0x40000008, ld t0, 8(s1)

    # Unmapped again: fetch, load and store page faults.
    sd x0, 0(s2)
    sfence.vma s1, x0
    li s10, -1
    la s8, 6f
    jr s1
6:  EXPECT 5, s10, 12
    EXPECT 5, s11, 0x40000000
    EXPECT 5, s9, 0x40000000
    TRAPS 6, 13, 0x40000010, ld t0, 16(s1)
    TRAPS 7, 15, 0x40000010, sd t0, 16(s1)
    addi t3, s1, 16
    TRAPS 8, 15, 0x40000010, amoadd.d t0, t0, (t3)
    END 0

TRAP_RECORDER

    .align 2
    .option norvc
function:
    li a0, 0
    ret

    .align 12
    .zero 4094
over_end:
    .word 0x00000513
    ret

    .align 12
page_a:
    li a0, 10
    ret
    .dword 100
    .align 12
page_b:
    li a0, 11
    ret
    .dword 101
    .align 12
root: .zero 4096
middle: .zero 4096
leaves: .zero 4096
