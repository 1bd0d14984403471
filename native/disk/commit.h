// What redo logs hold, written to the parent below them.
//
// The logs hide all of it from readers until the commit is complete, so it may be broken off at any
// moment and begun again.
#pragma once

#include <cstddef>
#include <string>

#include "base/progress.h"
#include "disk/layers.h"

namespace ckptfs {

struct Commit {
  /** How many of the oldest logs of a disk; all of them are sealed. */
  size_t logs = 0;
  /** A copy of the parent to commit into, which becomes the parent; empty: the parent itself. */
  std::string into = {};
  /** An earlier commit of them was broken off: what it has written is not written again. */
  bool again = false;
};

/** Writes what all logs of `layers`, which are merged, hold to `into`; progress is in bytes of it.
 *  Ends without a sync. Throws Error: cancelled, damaged, io, noSpace. */
void commitLayers(const Layers& layers, Parent& into, bool again, Progress& progress);

}  // namespace ckptfs
