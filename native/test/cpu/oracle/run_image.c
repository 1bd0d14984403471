/* Runs an image of random_program.h as a function and writes its result window to stdout.
   Build: riscv64-linux-gnu-gcc -O1 -static; run under qemu-riscv64. */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

enum { kImageBytes = 0x20000, kResults = 0x10800 };

static void call(void* entry) {
  /* The program may change any register but sp, which it does change: keep sp and gp, tp in memory.
   */
  static uint64_t saved[16];
  asm volatile(
      "la t0, %1\n sd sp, 0(t0)\n sd gp, 8(t0)\n sd tp, 16(t0)\n sd s0, 24(t0)\n sd s1, 32(t0)\n"
      "jalr %0\n"
      "la t0, %1\n ld sp, 0(t0)\n ld gp, 8(t0)\n ld tp, 16(t0)\n ld s0, 24(t0)\n ld s1, 32(t0)\n"
      :
      : "r"(entry), "S"(saved)
      : "ra", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
        "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "memory");
}

int main(int argc, char** argv) {
  FILE* file = argc == 2 ? fopen(argv[1], "rb") : NULL;
  uint8_t* image = mmap((void*)0x80000000, kImageBytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (file == NULL || image == MAP_FAILED || fread(image, 1, kImageBytes, file) != kImageBytes) {
    fprintf(stderr, "usage: run_image IMAGE\n");
    return 1;
  }
  asm volatile("fence.i" ::: "memory");
  call(image);
  return fwrite(image + kResults, 1, kImageBytes - kResults, stdout) != kImageBytes - kResults;
}
