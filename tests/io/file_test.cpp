#include "io/file.h"

#include <fcntl.h>

#include <catch2/catch.hpp>

#include "base/error.h"
#include "io/ranges.h"
#include "temporary.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

TEST_CASE("a mapped file shows its bytes and refuses what lies beyond them") {
  TemporaryFolder folder;
  write_bytes(folder / "a", "hello");
  write_bytes(folder / "empty", "");
  MappedFile file(folder / "a");
  CHECK(file.size() == 5);
  CHECK(std::memcmp(file.at(1, 4, "tail"), "ello", 4) == 0);
  CHECK_THROWS_WITH(file.at(3, 3, "the header"),
                    Contains("the header needs 3 bytes at byte 3") && Contains("truncated"));
  CHECK_THROWS_AS(file.at(-1, 1, "x"), Error);
  CHECK_THROWS_AS(file.at(1, std::numeric_limits<std::int64_t>::max(), "x"), Error);
  CHECK(MappedFile(folder / "empty").size() == 0);
  MappedFile moved(std::move(file));
  CHECK(moved.size() == 5);
  CHECK_THROWS_WITH(MappedFile(folder / "none"), Contains("none") && Contains("No such file"));
  CHECK_THROWS_WITH(MappedFile(folder.path()), Contains("not a regular file"));
}

TEST_CASE("an atomic file appears whole or not at all") {
  TemporaryFolder folder;
  const std::string path = folder / "f";
  write_bytes(path, "old");
  {
    AtomicFile file(path, 10);
    file.write_at(5, "world", 5);
    CHECK(read_bytes(path) == "old");
  }
  CHECK(read_bytes(path) == "old");
  CHECK_FALSE(std::filesystem::exists(path + ".partial"));
  {
    AtomicFile file(path, 10);
    file.write_at(5, "world", 5);
    file.write_at(0, "hello", 5);
    file.commit();
  }
  CHECK(read_bytes(path) == "helloworld");
  CHECK_FALSE(std::filesystem::exists(path + ".partial"));
  write_text_atomically(path, "text");
  CHECK(read_text(path, 4) == "text");
  CHECK_THROWS_WITH(read_text(path, 3), Contains("at most 3"));
  CHECK_THROWS_WITH(AtomicFile(folder / "no/such"), Contains("No such file"));
}

TEST_CASE("a full disk is named with path and offset") {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (full < 0) return;  // not every system has it; the checkpoint tests force the same error by a file size limit
  const std::string message = message_of([&] { write_fully(full, "/dev/full", 7, "abc", 3); });
  ::close(full);
  CHECK_THAT(message, Contains("/dev/full") && Contains("byte 7") && Contains("No space left"));
}

TEST_CASE("range sets merge, and know overlap and cover") {
  RangeSet set;
  set.add(10, 20);
  set.add(30, 40);
  CHECK(set.covers(10, 20));
  CHECK_FALSE(set.covers(10, 21));
  CHECK(set.overlaps(19, 30));
  CHECK_FALSE(set.overlaps(20, 30));
  CHECK(set.first_missing(10) == 20);
  CHECK(set.first_missing(5) == 5);
  set.add(20, 30);
  CHECK(set.covers(10, 40));
  set.add(5, 5);
  CHECK_FALSE(set.overlaps(0, 10));
  set.add(0, 50);
  CHECK(set.covers(0, 50));
  CHECK(set.first_missing(0) == 50);
}
