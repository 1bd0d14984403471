// The self-checking writer. One worker process for each CPU goes over its own memory again and
// again: it checks that every page still holds what the round before wrote, writes the page for
// this round, and appends a record to its journal on the disk with fsync after every RECORD_PAGES
// pages. At the end the memory is checked once more, the disk is mounted anew, and every journal is
// checked record by record.
//
// Everything written follows from seed, worker, round and page, so the final sum depends on the
// options alone: neither on time nor on whether the guest was checkpointed, killed and restored on
// the way.
//
//   ckptfs.rounds=N (20)  ckptfs.mib=N (16, of all workers)  ckptfs.workers=N (number of CPUs)
//   ckptfs.seed=N (1)
//
// Lines: "round R journal S" once every worker has finished round R (S records in all), then
// "PASS rounds=R journal=S sum=HEX" or "FAIL why".
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

enum {
  PAGE_BYTES = 4096,
  PAGE_WORDS = PAGE_BYTES / 8,
  RECORD_PAGES = 256,  // A record per MiB.
  RECORD_BYTES = 64,
  MAX_WORKERS = 8,
};

// What a worker tells its parent through a pipe: a round is done, or, with round 0, its final sum.
struct Report {
  uint32_t worker;
  uint32_t round;
  uint64_t sum;
};

struct Worker {
  uint64_t seed;
  uint32_t number;
  uint64_t rounds;
  uint64_t pages;
  uint64_t* memory;
  int journal;
  uint64_t records;
};

static uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ x >> 32;
}

static uint64_t combine(uint64_t sum, uint64_t value) {
  return mix(sum * 3 + value);
}

static uint64_t pageSeed(const struct Worker* worker, uint64_t round, uint64_t page) {
  return combine(combine(combine(worker->seed, worker->number), round), page) | 1;
}

static uint64_t nextWord(uint64_t x) {
  x ^= x << 13;
  x ^= x >> 7;
  return x ^ x << 17;
}

static void fillPage(uint64_t* page, uint64_t x) {
  for (int i = 0; i < PAGE_WORDS; i++) page[i] = x = nextWord(x);
}

static void checkPage(const struct Worker* worker, uint64_t round, uint64_t page) {
  const uint64_t* words = worker->memory + page * PAGE_WORDS;
  uint64_t x = pageSeed(worker, round, page);
  for (int i = 0; i < PAGE_WORDS; i++) {
    x = nextWord(x);
    if (words[i] == x) continue;
    say("FAIL worker %u: word %d of page %llu is %016llx after round %llu, not %016llx",
        worker->number, i, (unsigned long long)page, (unsigned long long)words[i],
        (unsigned long long)round, (unsigned long long)x);
    _exit(1);
  }
}

static void journalPath(char* path, size_t bytes, uint32_t worker) {
  snprintf(path, bytes, DISK_DIRECTORY "/journal.%u", worker);
}

// A record is a line of text of 64 bytes: sequence, worker, round, sum of the pages, check of all
// before it.
static void formatRecord(char* record, const struct Worker* worker, uint64_t sequence,
                         uint64_t round, uint64_t sum) {
  uint64_t check = combine(combine(combine(combine(0, sequence), worker->number), round), sum);
  char line[RECORD_BYTES + 1];
  snprintf(line, sizeof line, "%010llu %02u %010llu %016llx %016llx    ",
           (unsigned long long)sequence, worker->number, (unsigned long long)round,
           (unsigned long long)sum, (unsigned long long)check);
  memset(record, ' ', RECORD_BYTES);
  memcpy(record, line, strlen(line));
  record[RECORD_BYTES - 1] = '\n';
}

static void appendRecord(struct Worker* worker, uint64_t round, uint64_t sum) {
  char record[RECORD_BYTES];
  formatRecord(record, worker, ++worker->records, round, sum);
  struct stat status;
  if (write(worker->journal, record, RECORD_BYTES) != RECORD_BYTES || fsync(worker->journal) < 0 ||
      fstat(worker->journal, &status) < 0) {
    say("FAIL worker %u: journal record %llu: %m", worker->number,
        (unsigned long long)worker->records);
    _exit(1);
  }
  if ((uint64_t)status.st_size != worker->records * RECORD_BYTES) {
    say("FAIL worker %u: journal has %lld bytes after record %llu", worker->number,
        (long long)status.st_size, (unsigned long long)worker->records);
    _exit(1);
  }
}

static void writeRound(struct Worker* worker, uint64_t round) {
  uint64_t sum = 0;
  for (uint64_t page = 0; page < worker->pages; page++) {
    if (round > 1) checkPage(worker, round - 1, page);
    uint64_t seed = pageSeed(worker, round, page);
    fillPage(worker->memory + page * PAGE_WORDS, seed);
    sum = combine(sum, seed);
    if ((page + 1) % RECORD_PAGES == 0 || page + 1 == worker->pages)
      appendRecord(worker, round, sum);
  }
}

// Compares a journal with what it must hold, record by record. 0 or 1; adds its sums to `total`.
static int checkRecords(const struct Worker* worker, FILE* journal, uint64_t* total) {
  uint64_t sequence = 0;
  for (uint64_t round = 1; round <= worker->rounds; round++) {
    uint64_t sum = 0;
    for (uint64_t page = 0; page < worker->pages; page++) {
      sum = combine(sum, pageSeed(worker, round, page));
      if ((page + 1) % RECORD_PAGES != 0 && page + 1 != worker->pages) continue;
      char expected[RECORD_BYTES];
      char found[RECORD_BYTES];
      formatRecord(expected, worker, ++sequence, round, sum);
      if (fread(found, RECORD_BYTES, 1, journal) != 1 ||
          memcmp(expected, found, RECORD_BYTES) != 0) {
        say("FAIL worker %u: journal record %llu is missing or wrong", worker->number,
            (unsigned long long)sequence);
        return 1;
      }
      *total = combine(*total, sum);
    }
  }
  if (fgetc(journal) == EOF) return 0;
  say("FAIL worker %u: journal goes on after record %llu", worker->number,
      (unsigned long long)sequence);
  return 1;
}

static int checkJournal(const struct Worker* worker, uint64_t* total) {
  char path[64];
  journalPath(path, sizeof path, worker->number);
  FILE* journal = fopen(path, "r");
  if (!journal) {
    say("FAIL worker %u: journal: %m", worker->number);
    return 1;
  }
  int failed = checkRecords(worker, journal, total);
  fclose(journal);
  return failed;
}

static void sendReport(int pipe, uint32_t worker, uint32_t round, uint64_t sum) {
  struct Report report = {worker, round, sum};
  if (write(pipe, &report, sizeof report) != sizeof report) _exit(1);
}

static void work(struct Worker* worker, int reports) {
  char path[64];
  journalPath(path, sizeof path, worker->number);
  worker->journal = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  worker->memory = mmap(NULL, worker->pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (worker->journal < 0 || worker->memory == MAP_FAILED) {
    say("FAIL worker %u: cannot start: %m", worker->number);
    _exit(1);
  }
  for (uint64_t round = 1; round <= worker->rounds; round++) {
    writeRound(worker, round);
    sendReport(reports, worker->number, (uint32_t)round, 0);
  }
  uint64_t sum = 0;
  for (uint64_t page = 0; page < worker->pages; page++) {
    checkPage(worker, worker->rounds, page);
    sum = combine(sum, worker->memory[page * PAGE_WORDS + PAGE_WORDS - 1]);
  }
  sendReport(reports, worker->number, 0, sum);
  _exit(0);
}

int runWriter(void) {
  uint64_t workers = option("workers", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
  uint64_t rounds = option("rounds", 20);
  uint64_t bytes = option("mib", 16) << 20;
  if (workers < 1 || workers > MAX_WORKERS || rounds < 1 || bytes / workers < PAGE_BYTES) {
    say("FAIL options: workers 1 to %d, rounds and mib at least 1", MAX_WORKERS);
    return 1;
  }
  struct Worker worker = {
      .seed = option("seed", 1), .rounds = rounds, .pages = bytes / workers / PAGE_BYTES};
  uint64_t recordsPerRound = (worker.pages + RECORD_PAGES - 1) / RECORD_PAGES * workers;
  int pipes[2];
  if (pipe(pipes) < 0) return 1;
  say("writer workers=%llu mib=%llu rounds=%llu", (unsigned long long)workers,
      (unsigned long long)(bytes >> 20), (unsigned long long)rounds);
  for (worker.number = 0; worker.number < workers; worker.number++) {
    if (fork() == 0) work(&worker, pipes[1]);
  }
  close(pipes[1]);

  uint64_t done[MAX_WORKERS] = {0};
  uint64_t sums[MAX_WORKERS] = {0};
  uint64_t finished = 0;
  uint64_t printed = 0;
  struct Report report;
  while (read(pipes[0], &report, sizeof report) == sizeof report) {
    if (report.round == 0) {
      sums[report.worker] = report.sum;
      finished++;
      continue;
    }
    done[report.worker] = report.round;
    uint64_t slowest = rounds;
    for (uint64_t i = 0; i < workers; i++) slowest = done[i] < slowest ? done[i] : slowest;
    for (; printed < slowest; printed++) {
      say("round %llu journal %llu", (unsigned long long)printed + 1,
          (unsigned long long)((printed + 1) * recordsPerRound));
    }
  }
  while (wait(NULL) > 0) {
  }
  if (finished != workers) {
    say("FAIL %llu of %llu workers ended early", (unsigned long long)(workers - finished),
        (unsigned long long)workers);
    return 1;
  }
  if (remountDisk() < 0) {
    say("FAIL disk does not mount again: %m");
    return 1;
  }
  uint64_t sum = 0;
  for (worker.number = 0; worker.number < workers; worker.number++) {
    sum = combine(sum, sums[worker.number]);
    if (checkJournal(&worker, &sum)) return 1;
  }
  say("PASS rounds=%llu journal=%llu sum=%016llx", (unsigned long long)rounds,
      (unsigned long long)(rounds * recordsPerRound), (unsigned long long)sum);
  return 0;
}
