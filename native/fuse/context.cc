#include "fuse/context.h"

#include <cerrno>
#include <utility>

namespace ckptfs::fuse {

Context::Context(Setup givenSetup, std::unique_ptr<Owner> givenOwner)
    : setup(std::move(givenSetup)),
      owner(std::move(givenOwner)),
      requests(setup.requestLimit),
      questions(requests, *owner) {}

void Context::fail(Request& request, const Error& error) {
  const auto found = setup.errnos.find(codeName(error.code()));
  const int err = found == setup.errnos.end() ? EIO : found->second;
  requests.fail(request, err);
  // Also what was answered with ETIMEDOUT long ago: now it can be said why.
  owner->failed(request.path(), error.what(), err);
}

}  // namespace ckptfs::fuse
