// Requests that the tree answers: names, attributes, what a directory holds, opening.
//
// Each becomes a question to JavaScript and is answered on its thread; nothing here blocks. What a
// directory holds is asked once for each pass through it, so that a pass sees one state of it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fuse/answers.h"
#include "fuse/context.h"

namespace ckptfs::fuse {

class TreeRequests {
 public:
  /** Directories open at once. */
  static constexpr size_t kMaxDirectories = 4096;

  explicit TreeRequests(Context& context) : context_(context) {}

  void lookup(fuse_req_t req, NodeId parent, std::string_view name);
  /** Takes a checkpoint, and removes one: no limit of time. */
  void makeDirectory(fuse_req_t req, NodeId parent, std::string_view name);
  void removeDirectory(fuse_req_t req, NodeId parent, std::string_view name);
  /** Nothing is ever renamed: the tree says why not. */
  void rename(fuse_req_t req, NodeId parent, std::string_view name);
  void getAttributes(fuse_req_t req, NodeId node);
  void truncate(fuse_req_t req, NodeId node, uint64_t bytes);
  void readLink(fuse_req_t req, NodeId node);
  void capacity(fuse_req_t req);
  /** A `size` of 0 asks how many bytes there are. */
  void getXattr(fuse_req_t req, NodeId node, std::string_view name, size_t size);
  void listXattrs(fuse_req_t req, NodeId node, size_t size);
  void open(fuse_req_t req, NodeId node, const fuse_file_info& file);

  void openDirectory(fuse_req_t req, const fuse_file_info& file);
  /** From the entry numbered `first` on. */
  void readDirectory(fuse_req_t req, NodeId node, uint64_t directory, uint64_t first, size_t size);
  void releaseDirectory(fuse_req_t req, uint64_t directory);

 private:
  using Listing = std::shared_ptr<const std::vector<ListedEntry>>;

  void ask(fuse_req_t req, NodeId node, Question question, Questions::Reply reply);
  /** About a name in a directory. */
  void askAbout(fuse_req_t req, NodeId parent, std::string_view name, Question question,
                Questions::Reply reply);
  /** Asks for something that is answered with a node: the kernel enters it. */
  void askForEntry(fuse_req_t req, NodeId parent, std::string_view name, Question question);
  /** Asks for something that is answered with success alone. */
  void askForSuccess(fuse_req_t req, NodeId parent, std::string_view name, Question question);
  void askForStat(fuse_req_t req, NodeId node, Question question);
  bool reply(Request& request, size_t size, std::string_view value);
  static bool reply(fuse_req_t req, const Listing& listing, uint64_t first, size_t size);

  Context& context_;
  std::mutex lock_;  // guards the two below
  std::unordered_map<uint64_t, Listing> directories_;
  uint64_t lastDirectory_ = 0;
};

}  // namespace ckptfs::fuse
