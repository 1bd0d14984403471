#include "fuse/operations.h"

#include <cerrno>
#include <span>

#include "fuse/session.h"
#include "fuse/session_worker.h"

namespace ckptfs::fuse {

namespace {

/** Requests that the kernel makes on its own, reading ahead and for direct IO, at once. */
constexpr unsigned kMaxBackground = 64;

Session& sessionOf(fuse_req_t req) {
  return *static_cast<Session*>(fuse_req_userdata(req));
}
TreeRequests& treeOf(fuse_req_t req) {
  return sessionOf(req).tree();
}
ByteRequests& bytesOf(fuse_req_t req) {
  return sessionOf(req).bytes();
}

void init(void* userData, fuse_conn_info* connection) {
  // A truncation at open comes as a request of its own, and is refused there. Which bytes the
  // kernel may keep is said when a file is opened: it need not ask for attributes at each read.
  connection->want &= ~unsigned(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA);
  connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
  connection->max_write = kMaxPieceBytes;
  connection->max_read = kMaxPieceBytes;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground * 3 / 4;
  static_cast<Session*>(userData)->connected();
}

/** For what would change the tree in ways that it never does. */
template <class... Arguments>
void refuse(fuse_req_t req, Arguments...) {
  fuse_reply_err(req, EROFS);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  treeOf(req).lookup(req, parent, name);
}
void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t) {
  treeOf(req).makeDirectory(req, parent, name);
}
void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  treeOf(req).removeDirectory(req, parent, name);
}
void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t, const char*,
            unsigned) {
  treeOf(req).rename(req, parent, name);
}
void forget(fuse_req_t req, fuse_ino_t node, uint64_t lookups) {
  sessionOf(req).nodes().forget(node, lookups);
  fuse_reply_none(req);
}
void forgetMulti(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  for (const fuse_forget_data& one : std::span(forgets, count))
    sessionOf(req).nodes().forget(one.ino, one.nlookup);
  fuse_reply_none(req);
}
void getattr(fuse_req_t req, fuse_ino_t node, fuse_file_info*) {
  treeOf(req).getAttributes(req, node);
}
void setattr(fuse_req_t req, fuse_ino_t node, struct stat* attributes, int which, fuse_file_info*) {
  if ((which & FUSE_SET_ATTR_SIZE) == 0)
    fuse_reply_err(req, EROFS);
  else if (attributes->st_size < 0)
    fuse_reply_err(req, EINVAL);
  else
    treeOf(req).truncate(req, node, uint64_t(attributes->st_size));
}
void readlink(fuse_req_t req, fuse_ino_t node) {
  treeOf(req).readLink(req, node);
}
void open(fuse_req_t req, fuse_ino_t node, fuse_file_info* file) {
  treeOf(req).open(req, node, *file);
}
void opendir(fuse_req_t req, fuse_ino_t, fuse_file_info* file) {
  treeOf(req).openDirectory(req, *file);
}
void readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t first, fuse_file_info* file) {
  treeOf(req).readDirectory(req, node, file->fh, uint64_t(first), size);
}
void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* file) {
  treeOf(req).releaseDirectory(req, file->fh);
}
void statfs(fuse_req_t req, fuse_ino_t) {
  treeOf(req).capacity(req);
}
void getxattr(fuse_req_t req, fuse_ino_t node, const char* name, size_t size) {
  treeOf(req).getXattr(req, node, name, size);
}
void listxattr(fuse_req_t req, fuse_ino_t node, size_t size) {
  treeOf(req).listXattrs(req, node, size);
}

void read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* file) {
  bytesOf(req).read(req, file->fh, uint64_t(offset), size, SessionWorker::turn());
}
void write(fuse_req_t req, fuse_ino_t, const char* from, size_t size, off_t offset,
           fuse_file_info* file) {
  const std::span piece(reinterpret_cast<const std::byte*>(from), size);
  bytesOf(req).write(req, file->fh, uint64_t(offset), piece, SessionWorker::turn());
}
/** A write is in its place when it returns, so there is nothing to do when a file is closed. */
void flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  fuse_reply_err(req, 0);
}
void fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info* file) {
  bytesOf(req).sync(req, file->fh, SessionWorker::turn());
}
void lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* file) {
  bytesOf(req).seek(req, file->fh, uint64_t(offset), whence, SessionWorker::turn());
}
void fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length,
               fuse_file_info* file) {
  bytesOf(req).allocate(req, file->fh, mode, uint64_t(offset), uint64_t(length),
                        SessionWorker::turn());
}
void poll(fuse_req_t req, fuse_ino_t, fuse_file_info* file, fuse_pollhandle* waiting) {
  bytesOf(req).poll(req, file->fh, Poll(waiting));
}
void release(fuse_req_t req, fuse_ino_t, fuse_file_info* file) {
  bytesOf(req).release(req, file->fh);
}

fuse_lowlevel_ops makeOperations() {
  fuse_lowlevel_ops table{};
  table.init = init;
  table.lookup = lookup;
  table.mkdir = mkdir;
  table.rmdir = rmdir;
  table.rename = rename;
  table.forget = forget;
  table.forget_multi = forgetMulti;
  table.getattr = getattr;
  table.setattr = setattr;
  table.readlink = readlink;
  table.open = open;
  table.opendir = opendir;
  table.readdir = readdir;
  table.releasedir = releasedir;
  table.statfs = statfs;
  table.getxattr = getxattr;
  table.listxattr = listxattr;
  table.read = read;
  table.write = write;
  table.flush = flush;
  table.fsync = fsync;
  table.lseek = lseek;
  table.fallocate = fallocate;
  table.poll = poll;
  table.release = release;

  table.mknod = refuse;
  table.unlink = refuse;
  table.symlink = refuse;
  table.link = refuse;
  table.create = refuse;
  table.setxattr = refuse;
  table.removexattr = refuse;
  return table;
}

}  // namespace

const fuse_lowlevel_ops kOperations = makeOperations();

}  // namespace ckptfs::fuse
