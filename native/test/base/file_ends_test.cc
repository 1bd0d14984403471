#include "base/file_ends.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"

using namespace ckptfs;

TEST_CASE("the ends of a file, or all of one that has no middle") {
  std::string directory = "/tmp/ckptfs-base-XXXXXX";
  REQUIRE(mkdtemp(directory.data()) != nullptr);
  const std::string path = directory + "/file";
  const auto read = [&](const std::string& contents) {
    std::ofstream(path) << contents;
    const auto ends = readFileEnds(path, 4, 3);
    REQUIRE(ends);
    CHECK(ends->modifiedMs > 1.7e12);
    return ends->text;
  };
  CHECK(read("") == "");
  CHECK(read("abcdefg") == "abcdefg");
  CHECK(read("abcdefgh") == "abcdfgh");
  CHECK(read(std::string(100'000, 'x') + "yz") == "xxxxxyz");
  CHECK_FALSE(readFileEnds(directory + "/none", 4, 3));
  CHECK_FALSE(readFileEnds(path + "/none", 4, 3));
  CHECK_THROWS_AS(readFileEnds(directory, 4, 3), Error);
  std::filesystem::remove_all(directory);
}
