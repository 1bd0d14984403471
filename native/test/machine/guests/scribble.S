# Writes all over RAM on every hart, for ever, and checks what it finds: a0 = hart id, a1 = bytes of
# RAM (a power of two), which hart 0 hands to hart 1.
#
# A word of RAM is zero or holds its own address in its lower half, so that a block which comes back
# at a wrong place shows. Each hart counts its rounds in a register and in RAM, so that registers
# and memory of different moments show. What goes wrong ends the guest with a reason.
#
# Hart 0 echoes its console; `q` powers the guest off, `r` resets it.
.include "test/cpu/guests/guest.inc"

.equ TICKS, 5000                    # 0.5 ms between timer interrupts
.equ RECORDS, 0x10000               # per hart, 64 bytes: rounds, interrupts
.equ SCRIBBLED, 0x100000            # RAM from here on is written to
.equ UART, 0x10000000

    .globl _start
_start:
    mv s0, a0
    addi s1, a1, -1
    la s5, _start
    bnez s0, hart
    mv a2, a1
    li a0, 1
    la a1, second
    SBI SBI_HSM, 0                  # fails where there is one hart
    j hart
second:                             # a0 = hart id, a1 = RAM bytes
    mv s0, a0
    addi s1, a1, -1
    la s5, _start
hart:
    addi s2, s0, 0x5a5              # the seed
    li t0, RECORDS
    add s4, s5, t0
    slli t0, s0, 6
    add s4, s4, t0
    li s3, 0
    li s6, UART
    li s7, SCRIBBLED
    la t0, interrupt
    csrw stvec, t0
    li t0, 0x20                     # supervisor timer
    csrw sie, t0
    call set_timer
    csrsi sstatus, SSTATUS_SIE

round:
    slli t0, s2, 13                 # xorshift64
    xor s2, s2, t0
    srli t0, s2, 7
    xor s2, s2, t0
    slli t0, s2, 17
    xor s2, s2, t0
    and t0, s2, s1
    andi t0, t0, -8
    bltu t0, s7, counted
    add t0, t0, s5
    ld t1, 0(t0)
    beqz t1, write
    sext.w t1, t1
    sext.w t2, t0
    beq t1, t2, write
    END 1
write:
    slli t1, s3, 32
    slli t2, t0, 32
    srli t2, t2, 32
    or t1, t1, t2
    sd t1, 0(t0)
counted:
    ld t1, 0(s4)
    beq t1, s3, 1f
    END 2
1:  addi s3, s3, 1
    sd s3, 0(s4)
    andi t1, s3, 255
    bnez t1, round
    slli t1, s3, 48                 # every 65,536 rounds
    bnez t1, 2f
    wfi
2:  bnez s0, round
    lbu t1, 5(s6)
    andi t1, t1, 1
    beqz t1, round
    lbu t1, 0(s6)
    sb t1, 0(s6)
    li t2, 'q'
    bne t1, t2, 3f
    END 0
3:  li t2, 'r'
    bne t1, t2, round
    li a0, 1
    li a1, 0
    SBI SBI_SRST, 0

# Uses registers of its own; s8 to s11 and a0 to a7 are nobody else's.
    .align 2
interrupt:
    csrr s8, scause
    li s9, 0x8000000000000005
    beq s8, s9, 1f
    END 3
1:  ld s10, 8(s4)
    addi s10, s10, 1
    sd s10, 8(s4)
    mv s11, ra
    call set_timer
    mv ra, s11
    sret

set_timer:
    rdtime a0
    li s9, TICKS
    add a0, a0, s9
    SBI SBI_TIME, 0
    ret
