// What the parts of the Linux guest program share. It is /init of the initramfs, and stays PID 1.
//
// Every line it prints starts with "ckptfs-guest: ", one write() each, so that lines of several
// processes do not mix. Options stand on the kernel command line as `ckptfs.NAME=VALUE`.
#pragma once
#include <stdint.h>

#define DISK_DIRECTORY "/disk"

// Prints one line, formatted like printf, behind the prefix.
__attribute__((format(printf, 1, 2))) void say(const char* format, ...);

// Value of ckptfs.`name`: as a number, or `otherwise` when it is not given.
uint64_t option(const char* name, uint64_t otherwise);

// Unmounts the disk and mounts it again, so that what is then read comes from the device. 0 or -1.
int remountDisk(void);

// The self-checking writer (writer.c): 0 when everything that it found was right.
int runWriter(void);

// The load of files that are synced and renamed (files.c): for ever, or 1 when it failed.
int runFiles(void);

// The memory workload of the benchmarks (memory.c): for ever, or 1 when it cannot start.
int runMemory(void);
