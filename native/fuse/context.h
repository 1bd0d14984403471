// What the parts of one session share. Lives as long as any of its threads.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "fuse/crew.h"
#include "fuse/node_table.h"
#include "fuse/open_files.h"
#include "fuse/pollers.h"
#include "fuse/question.h"
#include "fuse/questions.h"
#include "fuse/request.h"

namespace ckptfs::fuse {

/** The most that one read or write moves: the kernel's own limit (256 pages). */
constexpr size_t kMaxPieceBytes = 1 << 20;

struct Setup {
  std::vector<std::string> options;  // of the mount, as libfuse and the kernel know them
  std::chrono::milliseconds requestLimit;
  std::map<std::string, int> errnos;  // by codeName(); what is not there is EIO
};

struct Context {
  Context(Setup givenSetup, std::unique_ptr<Owner> givenOwner);

  /** Answers a request that failed, and tells the owner; nothing if it was answered before. */
  void fail(Request& request, const Error& error);

  const Setup setup;
  const std::unique_ptr<Owner> owner;
  Requests requests;
  Questions questions;
  NodeTable nodes;
  OpenFiles files;
  Pollers pollers;
  std::shared_ptr<Crew> crew;  // set before the first request, and never again
};

}  // namespace ckptfs::fuse
