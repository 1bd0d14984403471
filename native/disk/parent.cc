#include "disk/parent.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"
#include "base/write_journal.h"
#include "disk/disk.h"

namespace ckptfs {

Parent::Parent(const std::string& path, Access access)
    : file_("disk", path,
            access == Access::direct   ? File::Access::write
            : access == Access::commit ? File::Access::readFirst
                                       : File::Access::read),
      bytes_(file_.bytes()),
      writer_(access == Access::direct ? Writer::guest : Writer::none),
      identity_(look()) {
  if (bytes_ == 0 || bytes_ % Disk::kSectorBytes != 0)
    throw Error(Code::usage, file_.name() + " has " + std::to_string(bytes_) +
                                 " bytes, which is not a whole number of 512-byte sectors; "
                                 "is it a raw disk image? truncate can extend it");
}

ParentIdentity Parent::look() const {
  // What comes of it changes its time, which is set in the end.
  if (file_.arrival() != nullptr) return {file_.bytes(), file_.arrival()->modifiedNs()};
  struct stat status;
  if (fstat(file_.fd(), &status) != 0) throwErrno(errno, "cannot examine " + file_.name());
  const uint64_t mtimeNs =
      S_ISREG(status.st_mode)
          ? uint64_t(status.st_mtim.tv_sec) * 1'000'000'000 + uint64_t(status.st_mtim.tv_nsec)
          : 0;
  return {file_.bytes(), mtimeNs};
}

ParentIdentity Parent::identity() const {
  const std::lock_guard lock(mutex_);
  return writer_ == Writer::none ? identity_ : look();
}

void Parent::require(const ParentIdentity& expected) const {
  const ParentIdentity found = identity();
  if (found == expected) return;
  const std::string change = found.bytes != expected.bytes
                                 ? "it had " + std::to_string(expected.bytes) + " bytes and has " +
                                       std::to_string(found.bytes)
                                 : "it was written to";
  throw Error(Code::damaged, "parent disk " + path() + " changed since the checkpoint was taken (" +
                                 change +
                                 "); restore the original file, with its modification time");
}

Parent::Run Parent::run(uint64_t offset, uint64_t length) const {
  // A hole may be what has not arrived.
  if (file_.arrival() != nullptr && !file_.arrival()->complete()) return {length, false};
  const uint64_t end = offset + length;
  const off_t data = ::lseek(file_.fd(), off_t(offset), SEEK_DATA);
  // ENXIO: a hole up to the end. Any other answer is of a device or a filesystem that knows none.
  if (data < 0) return {length, errno == ENXIO};
  if (uint64_t(data) > offset) return {std::min(uint64_t(data), end) - offset, true};
  const off_t hole = ::lseek(file_.fd(), off_t(offset), SEEK_HOLE);
  return {hole < 0 ? length : std::min(uint64_t(hole), end) - offset, false};
}

void Parent::flush() {
  const std::lock_guard lock(mutex_);
  if (writer_ == Writer::guest) file_.sync();
}

void Parent::zero(uint64_t offset, uint64_t length, bool unmap) {
  if (length == 0) return;
  file_.requireSound();
  const int mode = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  if (::fallocate(file_.fd(), mode, off_t(offset), off_t(length)) == 0)
    return WriteJournal::zeroed(file_.fd(), offset, length);
  // Whatever the reason (a filesystem that cannot, larger sectors), zeros can be written.
  static constexpr std::array<std::byte, 65536> kZeros = {};
  while (length > 0) {
    const uint64_t piece = std::min<uint64_t>(length, kZeros.size());
    file_.write(offset, std::span(kZeros).first(piece));
    offset += piece;
    length -= piece;
  }
}

void Parent::own() {
  const std::lock_guard lock(mutex_);
  if (writer_ != Writer::none) return;
  file_.own();
  writer_ = Writer::commit;
}

void Parent::freeze() {
  const std::lock_guard lock(mutex_);
  if (writer_ == Writer::none) return;
  file_.syncWithTimes();
  identity_ = look();
  file_.share();
  writer_ = Writer::none;
}

}  // namespace ckptfs
