// A load for kills: files that are replaced by new versions, each synced and renamed, for ever.
//
// One worker process for each CPU has a directory with SLOTS files. It writes the next version of
// one under another name, syncs that, renames it over the last version, syncs the directory, and
// only then says so. In between it writes and removes files that nobody syncs. What a version holds
// follows from worker, slot and version alone; its first word is its number. Before it begins it
// reads what an earlier run has left, checks it, and goes on from there.
//
// Lines: "kept W S V" for each file that it found, "durable W S V", or "FAIL why".
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

enum { SLOTS = 8, MAX_WORDS = 32768 };

static uint32_t worker;
static uint32_t words[MAX_WORDS];
static uint32_t found[MAX_WORDS + 1];

static _Noreturn void fail(const char* what) {
  say("FAIL worker %u: %s: %s", worker, what, strerror(errno));
  _exit(1);
}

static void check(int ok, const char* what) {
  if (!ok) fail(what);
}

// Fills `words` with a version; how many bytes it has.
static ssize_t makeVersion(uint32_t slot, uint32_t version) {
  uint32_t x = (worker * SLOTS + slot + 1) * 2654435761u ^ version * 2246822519u;
  x = (x ^ x >> 15) | 1;
  size_t count = 1 + x % MAX_WORDS;
  words[0] = version;
  for (size_t i = 1; i < count; i++) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return (ssize_t)(count * sizeof *words);
}

static int create(const char* name) {
  int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  check(file >= 0, name);
  return file;
}

static void replaceSlot(int directory, uint32_t slot, uint32_t version) {
  char name[16];
  snprintf(name, sizeof name, "%u", slot);
  ssize_t bytes = makeVersion(slot, version);
  int file = create("new");
  check(write(file, words, (size_t)bytes) == bytes, "write");
  check(fsync(file) == 0, "fsync");
  close(file);
  check(rename("new", name) == 0, "rename");
  check(fsync(directory) == 0, "fsync of the directory");
  say("durable %u %u %u", worker, slot, version);
}

static void makeNoise(uint32_t number) {
  char name[16];
  snprintf(name, sizeof name, "noise.%u", number % 4);
  unlink(name);
  int file = create("noise");
  check(write(file, words, sizeof words / 2) == sizeof words / 2, "write of noise");
  close(file);
  check(rename("noise", name) == 0, "rename of noise");
}

// The version that an earlier run has left; 0 if there is none.
static uint32_t readSlot(uint32_t slot) {
  char name[16];
  snprintf(name, sizeof name, "%u", slot);
  int file = open(name, O_RDONLY | O_CLOEXEC);
  if (file < 0 && errno == ENOENT) return 0;
  check(file >= 0, name);
  ssize_t bytes = read(file, found, sizeof found);
  check(bytes >= (ssize_t)sizeof *found, "read");
  close(file);
  if (bytes != makeVersion(slot, found[0]) || memcmp(found, words, (size_t)bytes) != 0) {
    errno = EILSEQ;
    fail(name);
  }
  say("kept %u %u %u", worker, slot, found[0]);
  return found[0];
}

static _Noreturn void work(void) {
  char path[32];
  snprintf(path, sizeof path, DISK_DIRECTORY "/%u", worker);
  check(mkdir(path, 0755) == 0 || errno == EEXIST, "mkdir");
  check(chdir(path) == 0, "chdir");
  sync();  // the directory's own name
  int directory = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  check(directory >= 0, "open of the directory");
  uint32_t versions[SLOTS];
  for (uint32_t slot = 0; slot < SLOTS; slot++) versions[slot] = readSlot(slot);
  for (uint32_t number = 0;; number++) {
    uint32_t slot = number % SLOTS;
    replaceSlot(directory, slot, ++versions[slot]);
    makeNoise(number);
  }
}

int runFiles(void) {
  // The VM has no clock, so it is 1970: e2fsck takes so early a time of deletion for damage once a
  // host with a clock has mounted the filesystem.
  const struct timespec date = {.tv_sec = 1767225600};
  clock_settime(CLOCK_REALTIME, &date);
  long workers = sysconf(_SC_NPROCESSORS_ONLN);
  for (worker = 0; worker < (uint32_t)workers; worker++) {
    if (fork() == 0) work();
  }
  wait(NULL);  // only a failure ends one
  return 1;
}
