#include "fuse/node_table.h"

#include <doctest/doctest.h>

using namespace ckptfs::fuse;

TEST_SUITE("node table") {
  TEST_CASE("a name that is looked up again is the same node, as long as its key is the same") {
    NodeTable nodes;
    const NodeId vms = nodes.enter(NodeTable::kRoot, "vms", "");
    const NodeId one = nodes.enter(vms, "one", "k1");
    CHECK(nodes.enter(vms, "one", "k1") == one);
    CHECK(nodes.place(one)->path == "/vms/one");
    CHECK(nodes.place(one)->key == "k1");
    CHECK(nodes.place(NodeTable::kRoot)->path == "/");
    CHECK(nodes.at("/vms/one") == one);

    const NodeId other = nodes.enter(vms, "one", "k2");
    CHECK(other != one);
    CHECK(nodes.at("/vms/one") == other);
    CHECK(nodes.place(one)->path == "/vms/one");  // the old one is remembered
    CHECK(nodes.place(one)->key == "k1");
  }

  TEST_CASE("what the kernel forgets goes, its parents last") {
    NodeTable nodes;
    const NodeId vms = nodes.enter(NodeTable::kRoot, "vms", "");
    const NodeId one = nodes.enter(vms, "one", "");
    nodes.enter(vms, "one", "");
    nodes.forget(vms, 1);
    CHECK(nodes.place(one)->path == "/vms/one");
    nodes.forget(one, 1);
    CHECK(nodes.size() == 3);
    nodes.forget(one, 1);
    CHECK(nodes.size() == 1);
    CHECK_FALSE(nodes.place(one));
    CHECK_FALSE(nodes.at("/vms"));
    CHECK(nodes.enter(NodeTable::kRoot, "vms", "") > one);  // numbers are not used again
  }

  TEST_CASE("a node that has lost its name leaves the name to its successor when it goes") {
    NodeTable nodes;
    const NodeId old = nodes.enter(NodeTable::kRoot, "a", "1");
    const NodeId fresh = nodes.enter(NodeTable::kRoot, "a", "2");
    nodes.forget(old, 1);
    CHECK(nodes.at("/a") == fresh);
  }

  TEST_CASE("numbers that were never given, and more than was looked up") {
    NodeTable nodes;
    CHECK(nodes.enter(77, "x", "") == 0);
    CHECK_FALSE(nodes.place(77));
    nodes.forget(77, 1);
    nodes.forget(NodeTable::kRoot, 100);
    const NodeId a = nodes.enter(NodeTable::kRoot, "a", "");
    nodes.forget(a, 1000);
    CHECK(nodes.size() == 1);
    CHECK_FALSE(nodes.sameVersion(a, "v"));
  }

  TEST_CASE("versions of bytes") {
    NodeTable nodes;
    const NodeId a = nodes.enter(NodeTable::kRoot, "a", "");
    CHECK_FALSE(nodes.sameVersion(a, "1"));
    CHECK(nodes.sameVersion(a, "1"));
    CHECK_FALSE(nodes.sameVersion(a, "2"));
    CHECK(nodes.sameVersion(a, "2"));
  }
}
