#include "fuse/tree_requests.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ckptfs::fuse {

namespace {

/** All attributes of the tree are named so. The kernel asks for others at every write, say. */
constexpr std::string_view kXattrPrefix = "user.";
/** What one readdir is answered with. */
constexpr size_t kMaxListingBytes = 128 << 10;

}  // namespace

void TreeRequests::ask(fuse_req_t req, NodeId node, Question question, Questions::Reply reply) {
  auto place = context_.nodes.place(node);
  if (!place) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  question.path = std::move(place->path);
  context_.questions.ask(req, std::move(question), std::move(reply));
}

void TreeRequests::askAbout(fuse_req_t req, NodeId parent, std::string_view name, Question question,
                            Questions::Reply reply) {
  const auto place = context_.nodes.place(parent);
  if (!place) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  question.path = place->path == "/" ? "" : place->path;
  question.path.append("/").append(name);
  context_.questions.ask(req, std::move(question), std::move(reply));
}

void TreeRequests::askForEntry(fuse_req_t req, NodeId parent, std::string_view name,
                               Question question) {
  askAbout(req, parent, name, std::move(question),
           [this, parent, name = std::string(name)](Request& request, const Answer& answer) {
             const NodeStat stat = parseStat(answer.text);
             const fuse_req_t taken = context_.requests.take(request);
             if (taken == nullptr) return false;
             fuse_entry_param entry{};
             entry.ino = context_.nodes.enter(parent, name, stat.key);
             if (entry.ino == 0) return fuse_reply_err(taken, ENOMEM) == 0;
             entry.attr = stat.attributes;
             entry.attr_timeout = stat.attributesSeconds;
             entry.entry_timeout = stat.entrySeconds;
             if (fuse_reply_entry(taken, &entry) == 0) return true;
             // The kernel does not know of it, so it will not forget it.
             context_.nodes.forget(entry.ino, 1);
             return false;
           });
}

void TreeRequests::askForSuccess(fuse_req_t req, NodeId parent, std::string_view name,
                                 Question question) {
  askAbout(req, parent, name, std::move(question), [this](Request& request, const Answer&) {
    const fuse_req_t taken = context_.requests.take(request);
    return taken != nullptr && fuse_reply_err(taken, 0) == 0;
  });
}

void TreeRequests::lookup(fuse_req_t req, NodeId parent, std::string_view name) {
  askForEntry(req, parent, name, {.kind = "stat"});
}

void TreeRequests::makeDirectory(fuse_req_t req, NodeId parent, std::string_view name) {
  askForEntry(req, parent, name, {.kind = "makeDirectory", .limited = false});
}

void TreeRequests::removeDirectory(fuse_req_t req, NodeId parent, std::string_view name) {
  askForSuccess(req, parent, name, {.kind = "removeDirectory", .limited = false});
}

void TreeRequests::rename(fuse_req_t req, NodeId parent, std::string_view name) {
  askForSuccess(req, parent, name, {.kind = "rename"});
}

/** Asks for something that is answered with the attributes of the node. */
void TreeRequests::askForStat(fuse_req_t req, NodeId node, Question question) {
  ask(req, node, std::move(question), [this, node](Request& request, const Answer& answer) {
    const NodeStat stat = parseStat(answer.text);
    const auto place = context_.nodes.place(node);
    // Something else has its name now: the kernel looks the name up again.
    if (!place || place->key != stat.key) return context_.requests.fail(request, ESTALE);
    const fuse_req_t taken = context_.requests.take(request);
    return taken != nullptr &&
           fuse_reply_attr(taken, &stat.attributes, stat.attributesSeconds) == 0;
  });
}

void TreeRequests::getAttributes(fuse_req_t req, NodeId node) {
  askForStat(req, node, {.kind = "stat"});
}

void TreeRequests::truncate(fuse_req_t req, NodeId node, uint64_t bytes) {
  askForStat(req, node, {.kind = "truncate", .bytes = bytes});
}

void TreeRequests::readLink(fuse_req_t req, NodeId node) {
  ask(req, node, {.kind = "target"}, [this](Request& request, const Answer& answer) {
    const fuse_req_t taken = context_.requests.take(request);
    return taken != nullptr && fuse_reply_readlink(taken, answer.text.c_str()) == 0;
  });
}

void TreeRequests::capacity(fuse_req_t req) {
  ask(req, NodeTable::kRoot, {.kind = "capacity"}, [this](Request& request, const Answer& answer) {
    const struct statvfs capacity = parseCapacity(answer.text);
    const fuse_req_t taken = context_.requests.take(request);
    return taken != nullptr && fuse_reply_statfs(taken, &capacity) == 0;
  });
}

/** The convention of getxattr and listxattr: no room asks for the size, too little is ERANGE. */
bool TreeRequests::reply(Request& request, size_t size, std::string_view value) {
  const fuse_req_t taken = context_.requests.take(request);
  if (taken == nullptr) return false;
  if (size == 0) return fuse_reply_xattr(taken, value.size()) == 0;
  if (size < value.size()) return fuse_reply_err(taken, ERANGE) == 0;
  return fuse_reply_buf(taken, value.data(), value.size()) == 0;
}

void TreeRequests::getXattr(fuse_req_t req, NodeId node, std::string_view name, size_t size) {
  if (!name.starts_with(kXattrPrefix)) {
    fuse_reply_err(req, ENODATA);
    return;
  }
  ask(req, node, {.kind = "xattr", .name = std::string(name)},
      [this, size](Request& request, const Answer& answer) {
        return reply(request, size, answer.text);
      });
}

void TreeRequests::listXattrs(fuse_req_t req, NodeId node, size_t size) {
  ask(req, node, {.kind = "xattrs"}, [this, size](Request& request, const Answer& answer) {
    return reply(request, size, answer.text);
  });
}

void TreeRequests::open(fuse_req_t req, NodeId node, const fuse_file_info& file) {
  const bool writing = (file.flags & O_ACCMODE) != O_RDONLY;
  ask(req, node, {.kind = writing ? "openWritable" : "open"},
      [this, node, writing](Request& request, const Answer& answer) {
        const Opened opened = parseOpened(answer.text);
        if (writing && answer.source && !answer.source->now()->write)
          throw Error(Code::usage, request.path() + " takes no writes");
        const auto place = context_.nodes.place(node);
        if (!place || place->key != opened.key) {
          context_.requests.fail(request, ESTALE);
          return false;
        }
        const fuse_req_t taken = context_.requests.take(request);
        if (taken == nullptr) return false;
        fuse_file_info info{};
        info.fh = opened.handle;
        info.direct_io = opened.caching == Opened::Caching::none;
        info.keep_cache = opened.caching == Opened::Caching::kept ||
                          (opened.caching == Opened::Caching::checked &&
                           context_.nodes.sameVersion(node, opened.version));
        // Before the reply: the next request may come before it has returned.
        context_.files.add(std::make_shared<const OpenFile>(
            OpenFile{opened.handle, std::make_shared<const std::string>(request.path()),
                     answer.source, opened.bytes, writing, opened.polls}));
        if (fuse_reply_open(taken, &info) == 0) return true;
        // Nobody wants it any more, and nobody will release it.
        context_.files.remove(opened.handle);
        return false;
      });
}

void TreeRequests::openDirectory(fuse_req_t req, const fuse_file_info& file) {
  fuse_file_info info = file;
  {
    const std::lock_guard lock(lock_);
    info.fh = directories_.size() < kMaxDirectories ? ++lastDirectory_ : 0;
    if (info.fh != 0) directories_.emplace(info.fh, nullptr);
  }
  if (info.fh == 0)
    fuse_reply_err(req, ENFILE);
  else if (fuse_reply_open(req, &info) != 0) {
    const std::lock_guard lock(lock_);
    directories_.erase(info.fh);
  }
}

void TreeRequests::readDirectory(fuse_req_t req, NodeId node, uint64_t directory, uint64_t first,
                                 size_t size) {
  size = std::min(size, kMaxListingBytes);
  Listing listing;
  {
    const std::lock_guard lock(lock_);
    const auto found = directories_.find(directory);
    if (found != directories_.end() && first > 0) listing = found->second;
  }
  if (listing) {
    reply(req, listing, first, size);
    return;
  }
  ask(req, node, {.kind = "list"},
      [this, directory, first, size](Request& request, const Answer& answer) {
        const Listing fresh =
            std::make_shared<const std::vector<ListedEntry>>(parseList(answer.text));
        {
          const std::lock_guard lock(lock_);
          const auto found = directories_.find(directory);
          if (found != directories_.end()) found->second = fresh;
        }
        const fuse_req_t taken = context_.requests.take(request);
        return taken != nullptr && reply(taken, fresh, first, size);
      });
}

bool TreeRequests::reply(fuse_req_t req, const Listing& listing, uint64_t first, size_t size) {
  std::vector<char> buffer(size);
  size_t filled = 0;
  for (uint64_t i = first; i < listing->size(); ++i) {
    const ListedEntry& entry = (*listing)[i];
    const size_t left = size - filled;
    const size_t needed = fuse_add_direntry(req, buffer.data() + filled, left, entry.name.c_str(),
                                            &entry.attributes, off_t(i + 1));
    if (needed > left) break;
    filled += needed;
  }
  return fuse_reply_buf(req, buffer.data(), filled) == 0;
}

void TreeRequests::releaseDirectory(fuse_req_t req, uint64_t directory) {
  {
    const std::lock_guard lock(lock_);
    directories_.erase(directory);
  }
  fuse_reply_err(req, 0);
}

}  // namespace ckptfs::fuse
