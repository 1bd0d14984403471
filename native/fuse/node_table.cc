#include "fuse/node_table.h"

#include <algorithm>
#include <vector>

namespace ckptfs::fuse {

NodeTable::NodeTable() {
  // The root is looked up by nobody and forgotten by nobody.
  nodes_.emplace(kRoot, Node{.parent = 0, .name = {}, .key = {}, .lookups = 1});
}

std::string NodeTable::edge(NodeId parent, std::string_view name) {
  return std::to_string(parent).append("/").append(name);
}

std::optional<NodeTable::Place> NodeTable::place(NodeId node) const {
  const std::lock_guard lock(lock_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return std::nullopt;
  if (node == kRoot) return Place{"/", ""};
  // A node keeps its parent in the table, and comes after it: this ends at the root.
  std::vector<std::string_view> names;
  for (const Node* at = &found->second; at->parent != 0; at = &nodes_.at(at->parent))
    names.push_back(at->name);
  std::string path;
  for (auto name = names.rbegin(); name != names.rend(); ++name) path.append("/").append(*name);
  return Place{std::move(path), found->second.key};
}

NodeId NodeTable::enter(NodeId parent, std::string_view name, std::string_view key) {
  const std::lock_guard lock(lock_);
  if (!nodes_.contains(parent)) return 0;
  const std::string at = edge(parent, name);
  const auto known = named_.find(at);
  if (known != named_.end()) {
    Node& node = nodes_.at(known->second);
    if (node.key == key) {
      ++node.lookups;
      return known->second;
    }
    named_.erase(known);
  }
  if (nodes_.size() >= kMaxNodes) return 0;
  const NodeId fresh = ++last_;
  nodes_.emplace(
      fresh,
      Node{.parent = parent, .name = std::string(name), .key = std::string(key), .lookups = 1});
  ++nodes_.at(parent).children;
  named_.emplace(at, fresh);
  return fresh;
}

void NodeTable::forget(NodeId node, uint64_t lookups) {
  const std::lock_guard lock(lock_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || node == kRoot) return;
  found->second.lookups -= std::min(found->second.lookups, lookups);
  dropUnused(node);
}

/** Its parents, too, as far as nothing else needs them. */
void NodeTable::dropUnused(NodeId node) {
  while (node != kRoot) {
    const auto found = nodes_.find(node);
    if (found->second.lookups > 0 || found->second.children > 0) return;
    const NodeId parent = found->second.parent;
    const auto named = named_.find(edge(parent, found->second.name));
    if (named != named_.end() && named->second == node) named_.erase(named);
    nodes_.erase(found);
    --nodes_.at(parent).children;
    node = parent;
  }
}

std::optional<NodeId> NodeTable::at(std::string_view path) const {
  const std::lock_guard lock(lock_);
  NodeId node = kRoot;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path = slash == path.npos ? std::string_view{} : path.substr(slash + 1);
    if (name.empty()) continue;
    const auto child = named_.find(edge(node, name));
    if (child == named_.end()) return std::nullopt;
    node = child->second;
  }
  return node;
}

bool NodeTable::sameVersion(NodeId node, std::string_view version) {
  const std::lock_guard lock(lock_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return false;
  const bool same = found->second.version == version;
  found->second.version = version;
  return same;
}

size_t NodeTable::size() const {
  const std::lock_guard lock(lock_);
  return nodes_.size();
}

}  // namespace ckptfs::fuse
