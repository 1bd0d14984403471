# Writes to its disk and reads back, with a request in flight for each slot, for ever, and checks
# all that it gets: a0 = hart id, one hart.
#
# Slots share what they can: eight of them lie in two groups of 4 KiB on the disk, and all their
# buffers in one memory block, which the hart itself writes to all the time. A request that is
# returned twice, never, early or with other data ends the guest with a reason or stops the counting.
.include "test/cpu/guests/guest.inc"

.equ VIRTIO, 0x10001000
.equ SLOTS, 8
.equ BYTES, 1024                    # of one request
.equ DESCRIPTORS, 0x10000
.equ AVAILABLE, 0x11000
.equ USED, 0x12000
.equ HEADERS, 0x13000               # per slot, 32 bytes: header, status
.equ STATES, 0x14000                # per slot, 32 bytes: value, 0 writes or 1 reads
.equ DATA, 0x20000
.equ COUNTERS, 0x27000              # rounds, requests returned

    .globl _start
_start:
    la s0, _start
    li s1, VIRTIO
    li t0, DESCRIPTORS
    add s2, s0, t0
    li t0, AVAILABLE
    add s3, s0, t0
    li t0, USED
    add s4, s0, t0
    li t0, HEADERS
    add s5, s0, t0
    li t0, STATES
    add s6, s0, t0
    li t0, DATA
    add s7, s0, t0
    li t0, COUNTERS
    add s8, s0, t0
    li s9, 0                        # used elements seen
    li s10, 0                       # chains made available

    sw zero, 0x70(s1)
    li t0, 3                        # acknowledge, driver
    sw t0, 0x70(s1)
    sw zero, 0x24(s1)
    li t0, 0x200                    # flush: writes need not be durable at once
    sw t0, 0x20(s1)
    li t0, 1
    sw t0, 0x24(s1)
    sw t0, 0x20(s1)                 # version 1
    li t0, 11                       # features are settled
    sw t0, 0x70(s1)
    lw t1, 0x70(s1)
    beq t0, t1, 1f
    END 1
1:  sw zero, 0x30(s1)
    li t0, 32
    sw t0, 0x38(s1)
    sw s2, 0x80(s1)
    srli t0, s2, 32
    sw t0, 0x84(s1)
    sw s3, 0x90(s1)
    srli t0, s3, 32
    sw t0, 0x94(s1)
    sw s4, 0xa0(s1)
    srli t0, s4, 32
    sw t0, 0xa4(s1)
    li t0, 1
    sw t0, 0x44(s1)
    li t0, 15                       # driver ok
    sw t0, 0x70(s1)

    li a0, 0
2:  slli a1, a0, 32
    slli t0, a0, 5
    add t0, t0, s6
    sd a1, 0(t0)
    call fill
    call issue
    addi a0, a0, 1
    li t0, SLOTS
    bltu a0, t0, 2b

loop:
    ld t0, 0(s8)
    addi t0, t0, 1
    sd t0, 0(s8)
    fence
    lhu t0, 2(s4)
    slli t1, s9, 48
    srli t1, t1, 48
    beq t0, t1, loop
    andi t1, s9, 31
    slli t1, t1, 3
    add t1, t1, s4
    lwu a0, 4(t1)
    addi s9, s9, 1
    ld t0, 8(s8)
    addi t0, t0, 1
    sd t0, 8(s8)
    lw t0, 0x60(s1)
    sw t0, 0x64(s1)
    li t0, 3
    remu t1, a0, t0
    divu a0, a0, t0
    beqz t1, 1f
    END 2
1:  slli t0, a0, 5
    add t1, s5, t0
    lbu t2, 16(t1)
    beqz t2, 1f
    END 3
1:  add s11, s6, t0
    ld t0, 8(s11)
    bnez t0, has_read
    li t0, 1
    sd t0, 8(s11)
    li a1, -1                       # spoils the buffer
    call fill
    call issue
    j loop
has_read:
    ld a1, 0(s11)
    slli t0, a0, 10
    add t0, t0, s7
    addi t1, t0, BYTES
1:  ld t2, 0(t0)
    beq t2, a1, 2f
    END 4
2:  addi t0, t0, 8
    bltu t0, t1, 1b
    addi a1, a1, 1
    sd a1, 0(s11)
    sd zero, 8(s11)
    call fill
    call issue
    j loop

# Fills the buffer of slot a0 with words a1.
fill:
    slli t0, a0, 10
    add t0, t0, s7
    addi t1, t0, BYTES
1:  sd a1, 0(t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    ret

# Makes the request of slot a0 available, a write or a read as its state says.
issue:
    slli t0, a0, 5
    add t1, s5, t0
    add t2, s6, t0
    ld t3, 8(t2)
    xori t4, t3, 1
    sd t4, 0(t1)                    # 1: out, 0: in
    slli t4, a0, 1
    sd t4, 8(t1)
    li t4, 0xee
    sb t4, 16(t1)
    li t4, 48                       # three descriptors a slot
    mul t4, a0, t4
    add t4, t4, s2
    slli t6, a0, 1
    add t6, t6, a0
    sd t1, 0(t4)
    li t5, 16
    sw t5, 8(t4)
    li t5, 1
    sh t5, 12(t4)
    addi t5, t6, 1
    sh t5, 14(t4)
    slli t5, a0, 10
    add t5, t5, s7
    sd t5, 16(t4)
    li t5, BYTES
    sw t5, 24(t4)
    slli t5, t3, 1
    ori t5, t5, 1
    sh t5, 28(t4)
    addi t5, t6, 2
    sh t5, 30(t4)
    addi t5, t1, 16
    sd t5, 32(t4)
    li t5, 1
    sw t5, 40(t4)
    li t5, 2
    sh t5, 44(t4)
    sh zero, 46(t4)
    andi t5, s10, 31
    slli t5, t5, 1
    add t5, t5, s3
    sh t6, 4(t5)
    addi s10, s10, 1
    fence
    sh s10, 2(s3)
    fence
    sw zero, 0x50(s1)
    ret
