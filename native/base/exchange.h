// Exchange of two directories under each other's names.
#pragma once

#include <string>

namespace ckptfs {

/** Lets two directories of one filesystem change names, at once: whoever looks sees the one or the
 *  other, and so does a crash. Throws Error: notFound, io, unsupported where the filesystem
 *  cannot. Durable once the directories that they are in have been synced. */
void exchangeDirectories(const std::string& one, const std::string& other);

}  // namespace ckptfs
