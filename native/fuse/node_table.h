// What the kernel's node numbers stand for: names in directories, as the tree had them when they
// were looked up.
//
// A node is a parent, a name and a key. The key tells what is at a name now from what was there
// before: a checkpoint that was removed and taken again is another node, so that nothing that the
// kernel keeps of the old one is taken for the new one. The old node stays until the kernel forgets
// it, but has lost its name. Node numbers are not inode numbers, and are never used again.
//
// All calls from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace ckptfs::fuse {

using NodeId = uint64_t;

class NodeTable {
 public:
  static constexpr NodeId kRoot = 1;
  /** Some 200 bytes each. The kernel forgets what it does not use when it needs the memory. */
  static constexpr size_t kMaxNodes = 1 << 20;

  struct Place {
    std::string path;  // absolute; "/" is the root
    std::string key;
  };

  NodeTable();

  /** Where a node is, or was when it lost its name; nothing for a number that was never given. */
  std::optional<Place> place(NodeId node) const;
  /** The node for what is at a name now, looked up once more; 0 when there are too many. */
  NodeId enter(NodeId parent, std::string_view name, std::string_view key);
  /** The kernel takes back so many look-ups. */
  void forget(NodeId node, uint64_t lookups);

  /** The node at a path, if the kernel knows it. */
  std::optional<NodeId> at(std::string_view path) const;
  /** Notes of what version the bytes of a node are; false if the last ones were of another. */
  bool sameVersion(NodeId node, std::string_view version);

  size_t size() const;

 private:
  struct Node {
    NodeId parent;
    std::string name;
    std::string key;
    std::string version = {};
    uint64_t lookups = 0;
    uint64_t children = 0;  // nodes whose parent it is, nameless ones among them
  };
  static std::string edge(NodeId parent, std::string_view name);
  void dropUnused(NodeId node);

  mutable std::mutex lock_;  // guards all below
  std::unordered_map<NodeId, Node> nodes_;
  std::unordered_map<std::string, NodeId> named_;  // by edge()
  NodeId last_ = kRoot;
};

}  // namespace ckptfs::fuse
