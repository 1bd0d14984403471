// PID 1 of the guest: mounts, loads the modules, mounts the disk, does what ckptfs.mode= says and
// powers off.
//
//   poweroff  at once, before any module is loaded: the shortest boot
//   writer    the self-checking writer of writer.c, with its options
//   files     files that are synced and renamed for ever, of files.c
//   memory    the memory workload of memory.c, without modules and disk
//   idle      prints a line every second, for ever
//   shell     busybox sh on the console (the default)
//
// It powers off when the mode ended well. After a failure it restarts instead, which the host tells
// apart.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define DISK_DEVICE "/dev/vda"

// Without them the disk has no driver. In the order in which they need each other.
static const char* const kModules[] = {"virtio_mmio", "virtio_blk", "crc16", "crc32c_generic",
                                       "mbcache",     "jbd2",       "ext4"};

static char commandLine[4096];

void say(const char* format, ...) {
  char line[256] = "ckptfs-guest: ";
  size_t length = strlen(line);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line + length, sizeof line - length - 1, format, arguments);
  va_end(arguments);
  strcat(line, "\n");
  if (write(STDOUT_FILENO, line, strlen(line)) < 0) _exit(1);
}

static const char* optionText(const char* name) {
  char key[64];
  snprintf(key, sizeof key, "ckptfs.%s=", name);
  const char* at = strstr(commandLine, key);
  return at ? at + strlen(key) : NULL;
}

uint64_t option(const char* name, uint64_t otherwise) {
  const char* text = optionText(name);
  return text ? strtoull(text, NULL, 10) : otherwise;
}

static int modeIs(const char* mode) {
  const char* text = optionText("mode");
  return text && strncmp(text, mode, strlen(mode)) == 0;
}

static void readCommandLine(void) {
  int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, commandLine, sizeof commandLine - 1) < 0) say("no command line");
  if (file >= 0) close(file);
}

static void mountPseudo(const char* type, const char* directory) {
  mkdir(directory, 0755);
  if (mount(type, directory, type, 0, NULL) < 0) say("mount %s: %s", directory, strerror(errno));
}

static void loadModules(void) {
  for (unsigned i = 0; i < sizeof kModules / sizeof *kModules; i++) {
    char path[64];
    snprintf(path, sizeof path, "/modules/%s.ko", kModules[i]);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;  // Built into the kernel.
    if (syscall(SYS_finit_module, file, "", 0) < 0 && errno != EEXIST) {
      say("module %s: %s", kModules[i], strerror(errno));
    }
    close(file);
  }
}

static int mountDisk(void) {
  return mount(DISK_DEVICE, DISK_DIRECTORY, "ext4", MS_NOATIME, NULL);
}

int remountDisk(void) {
  if (umount(DISK_DIRECTORY) < 0) return -1;
  return mountDisk();
}

static _Noreturn void idle(void) {
  for (uint64_t second = 0;; second++) {
    say("tick %llu", (unsigned long long)second);
    sleep(1);
  }
}

// The shell gets the console as its controlling terminal, so that Ctrl-C works there.
static int shell(void) {
  pid_t child = fork();
  if (child == 0) {
    setsid();
    int console = open("/dev/console", O_RDWR);
    for (int i = 0; console >= 0 && i < 3; i++) dup2(console, i);
    char* const arguments[] = {"sh", NULL};
    char* const environment[] = {"PATH=/bin:/sbin", "HOME=/", "TERM=vt100", NULL};
    execve("/bin/busybox", arguments, environment);
    say("no busybox: %s", strerror(errno));
    _exit(1);
  }
  int status = 0;
  while (wait(&status) != child && errno != ECHILD) {
  }
  return 0;
}

static int runMode(void) {
  if (modeIs("poweroff")) return 0;
  if (modeIs("memory")) return runMemory();
  loadModules();
  mkdir(DISK_DIRECTORY, 0755);
  if (mountDisk() == 0) {
    say("disk mounted");
  } else {
    say("no disk: %s", strerror(errno));
  }
  if (modeIs("writer")) return runWriter();
  if (modeIs("files")) return runFiles();
  if (modeIs("idle")) idle();
  return shell();
}

int main(void) {
  say("init");
  mountPseudo("proc", "/proc");
  mountPseudo("sysfs", "/sys");
  mountPseudo("devtmpfs", "/dev");
  readCommandLine();
  int failed = runMode();
  umount(DISK_DIRECTORY);
  sync();
  say("%s", failed ? "restarting" : "powering off");
  reboot(failed ? RB_AUTOBOOT : RB_POWER_OFF);
  return 1;
}
