// Faults outside guest memory keep the meaning that the previously installed handler gave them.
#include "memory/fault_handler.h"

#include <doctest/doctest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "base/error.h"

using namespace ckptfs;

namespace {

class Nothing final : public FaultSink {
 public:
  bool onFault(uint64_t, FaultKind) noexcept override { return false; }
};

sigjmp_buf landing;
volatile sig_atomic_t calls = 0;
void* volatile seenAddress = nullptr;

void simpleHandler(int) {
  calls = calls + 1;
  siglongjmp(landing, 1);
}
void infoHandler(int, siginfo_t* info, void*) {
  calls = calls + 1;
  seenAddress = info->si_addr;
  siglongjmp(landing, 1);
}

void touchAndLand(std::byte* page) {
  if (sigsetjmp(landing, 1) == 0) *reinterpret_cast<volatile char*>(page) = 1;
}

/** Installs an action for SIGSEGV and puts the earlier one back at the end. */
class Installed {
 public:
  explicit Installed(const struct sigaction& action) { sigaction(SIGSEGV, &action, &before_); }
  ~Installed() { sigaction(SIGSEGV, &before_, nullptr); }
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;

 private:
  struct sigaction before_ = {};
};

/** A page that no access is allowed to. */
class ForbiddenPage {
 public:
  ForbiddenPage()
      : page(static_cast<std::byte*>(
            mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~ForbiddenPage() { munmap(page, 4096); }
  ForbiddenPage(const ForbiddenPage&) = delete;
  ForbiddenPage& operator=(const ForbiddenPage&) = delete;
  void touch() { *reinterpret_cast<volatile char*>(page) = 1; }
  std::byte* const page;
};

// A handler that was installed after ours and passes on to it.
struct sigaction inner = {};
void passOn(int number, siginfo_t* info, void* context) {
  inner.sa_sigaction(number, info, context);
}

/** Runs `body` in a child process; its wait status. */
template <class Body>
int inChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE(
    "fault handler: a foreign fault reaches a handler of either kind, and the sink's refusal too") {
  Nothing sink;
  ForbiddenPage foreign, owned;
  for (const bool withInfo : {false, true}) {
    struct sigaction action = {};
    if (withInfo) {
      action.sa_sigaction = infoHandler;
      action.sa_flags = SA_SIGINFO;
    } else {
      action.sa_handler = simpleHandler;
    }
    const Installed installed(action);
    const FaultRegistration registration(SIGSEGV, owned.page, 4096, &sink);
    for (ForbiddenPage* page : {&foreign, &owned}) {
      calls = 0;
      seenAddress = nullptr;
      touchAndLand(page->page);
      CHECK(calls == 1);
      if (withInfo) CHECK(seenAddress == page->page);
    }
  }
}

TEST_CASE("fault handler: default and ignore") {
  Nothing sink;
  ForbiddenPage foreign, owned;
  for (const auto disposition : {SIG_DFL, SIG_IGN}) {
    struct sigaction action = {};
    action.sa_handler = disposition;
    const Installed installed(action);
    const FaultRegistration registration(SIGSEGV, owned.page, 4096, &sink);
    const int fault = inChild([&] { foreign.touch(); });
    CHECK(WIFSIGNALED(fault));
    CHECK(WTERMSIG(fault) == SIGSEGV);
    const int sent = inChild([&] { kill(getpid(), SIGSEGV); });
    if (disposition == SIG_IGN)
      CHECK(sent == 0);
    else
      CHECK((WIFSIGNALED(sent) && WTERMSIG(sent) == SIGSEGV));
  }
}

TEST_CASE("fault handler: a ring of handlers ends in the default") {
  Nothing sink;
  ForbiddenPage foreign, owned;
  const FaultRegistration first(SIGSEGV, owned.page, 4096, &sink);
  sigaction(SIGSEGV, nullptr, &inner);
  struct sigaction action = {};
  action.sa_sigaction = passOn;
  action.sa_flags = SA_SIGINFO;
  const Installed installed(action);
  const FaultRegistration second(SIGSEGV, owned.page, 4096, &sink);  // ours again, on top of passOn
  const int fault = inChild([&] { foreign.touch(); });
  CHECK((WIFSIGNALED(fault) && WTERMSIG(fault) == SIGSEGV));
}

TEST_CASE("fault handler: the table of ranges is bounded and reused") {
  Nothing sink;
  ForbiddenPage page;
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<FaultRegistration>> all;
    for (size_t i = 0; i < kMaxFaultRanges; ++i)
      all.push_back(std::make_unique<FaultRegistration>(SIGSEGV, page.page, 4096, &sink));
    CHECK_THROWS_AS(FaultRegistration(SIGSEGV, page.page, 4096, &sink), Error);
  }
}
