// Files that shrink, wait, lie in circles or belong to runs that died.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/system_error.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "io/file.h"
#include "newest_whole.h"
#include "temporary.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;
namespace fs = std::filesystem;

TEST_CASE("a file is read by offset, and says when it is shorter than it was") {
  TemporaryFolder folder;
  write_bytes(folder / "a", "0123456789");
  const ReadFile file(folder / "a");
  char bytes[4] = {};
  file.read_at(3, bytes, 4, "x");
  CHECK(std::string(bytes, 4) == "3456");
  CHECK_THROWS_WITH(file.read_at(8, bytes, 4, "the header"), Contains("the header needs 4 bytes at byte 8"));
  fs::resize_file(folder / "a", 5);
  CHECK_THROWS_WITH(file.read_at(3, bytes, 4, "the header"),
                    Contains("the header needs 2 more bytes at byte 5") && Contains("shortened"));
}

TEST_CASE("pipes and circles of links are refused at once") {
  TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_WITH(ReadFile(folder / "pipe"), Contains("pipe") && Contains("not a regular file"));
  CHECK_THROWS_WITH(MappedFile(folder / "pipe"), Contains("not a regular file"));
  fs::create_symlink(folder / "b", folder / "a");
  fs::create_symlink(folder / "a", folder / "b");
  CHECK_THROWS_AS(ReadFile(folder / "a"), SystemError);
  CHECK_THROWS_AS(ReadFile(folder / std::string(5000, 'n')), SystemError);
  CHECK_THROWS_AS(make_folders(folder / "a/b"), SystemError);
  CHECK_THROWS_AS(list_checkpoints(folder / "a"), SystemError);
}

TEST_CASE("a mapped file that shrinks, changes, is replaced or goes is told apart") {
  TemporaryFolder folder;
  const std::string path = folder / "data.bin";
  const auto problem = [&](auto&& change) {
    write_bytes(path, std::string(100, 'x'));
    const MappedFile file(path);
    file.require_unchanged();
    change();
    return message_of([&] { file.require_unchanged(); });
  };
  CHECK_THAT(problem([&] { fs::resize_file(path, 50); }), Contains("data.bin has 50 bytes") && Contains("shortened"));
  CHECK_THAT(problem([&] { write_bytes(path, std::string(101, 'x')); }), Contains("101") && Contains("added"));
  CHECK_THAT(problem([&] { fs::remove(path); }), Contains("data.bin is gone"));
  CHECK_THAT(problem([&] {
               write_bytes(folder / "other", std::string(100, 'y'));
               fs::rename(folder / "other", path);
             }),
             Contains("another file now"));
  CHECK_THAT(problem([&] {
               const timespec times[2] = {{1, 0}, {1, 0}};
               REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
             }),
             Contains("was changed"));
}

TEST_CASE("a page of a mapping that cannot be read ends the process with the file's name") {
  TemporaryFolder folder;
  const std::string path = folder / "data.bin", said = folder / "said";
  write_bytes(path, std::string(3 * 4096, 'x'));
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int out = ::open(said.c_str(), O_WRONLY | O_CREAT, 0600);
    ::dup2(out, 2);
    report_unreadable_mappings();
    const MappedFile first(path), file(path);
    fs::resize_file(path, 4096);
    volatile const std::byte* place = file.data() + 2 * 4096 + 5;
    ::_exit(*place == std::byte{1} ? 2 : 3);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK_THAT(read_bytes(said), Contains("longhaul: cannot read " + path + " at byte 8197") && Contains("shortened"));
}

TEST_CASE("lines are appended whole, and those that the disk refused come later") {
  TemporaryFolder folder;
  const std::string path = folder / "lines";
  write_bytes(path, "zero\n");
  {
    LineFile lines(path);
    CHECK(lines.append("one").empty());
    lines.finish();
  }
  CHECK(read_bytes(path) == "zero\none\n");
  if (::access("/dev/full", W_OK) != 0) return;
  LineFile full("/dev/full");
  CHECK_THAT(full.append("a"), Contains("No space left"));
  CHECK_THAT(full.append("b"), Contains("No space left"));
  CHECK_THROWS_AS(full.finish(), SystemError);
}

TEST_CASE("folders are made with what is above them, and leftovers of dead runs go") {
  TemporaryFolder folder;
  CHECK(make_folders(folder / "a/b/c"));
  CHECK_FALSE(make_folders(folder / "a/b/c"));
  CHECK_FALSE(make_folders(folder / "a/b/c/"));
  write_bytes(folder / "file", "");
  CHECK_THROWS_WITH(make_folders(folder / "file"), Contains("file") && Contains("Not a directory"));
  CHECK_THROWS_AS(make_folders(folder / "file/below"), SystemError);
  fs::create_directories(folder / "a/.tmp-step-00000003/deep");
  write_bytes(folder / "a/x.partial", "half");
  write_bytes(folder / "a/partial", "whole");
  remove_leftovers(folder / "a");
  remove_leftovers(folder / "not there");
  CHECK_FALSE(fs::exists(folder / "a/.tmp-step-00000003"));
  CHECK_FALSE(fs::exists(folder / "a/x.partial"));
  CHECK(fs::exists(folder / "a/partial"));
  CHECK(fs::exists(folder / "a/b/c"));
}

TEST_CASE("a replacement that was interrupted between its two steps is finished") {
  TemporaryFolder folder;
  const auto make = [&](const std::string& name, const std::string& manifest) {
    fs::create_directories(folder / name);
    if (!manifest.empty()) write_bytes(folder / (name + "/manifest.json"), manifest);
  };
  make(".tmp-step-00000003", "new");
  make(".tmp-step-00000003-replaced", "old");
  make(".tmp-step-00000005", "");  // died before its manifest
  make(".tmp-step-00000005-replaced", "old");
  make(".tmp-step-00000007-replaced", "old");
  make("step-00000007", "new");
  finish_interrupted_replacements(folder.path());
  CHECK(read_bytes(folder / "step-00000003/manifest.json") == "new");
  CHECK(read_bytes(folder / "step-00000005/manifest.json") == "old");
  CHECK(read_bytes(folder / "step-00000007/manifest.json") == "new");
}

TEST_CASE("a checkpoint of a newer format is refused, not passed over") {
  TemporaryFolder folder;
  const float w = 1;
  CheckpointStore store(folder.path(), 0);
  for (const std::int64_t step : {1, 2}) {
    store.begin(step);
    const ShardEntry entry = ShardEntry::whole("w", DType::float32, {}, &w);
    const std::string fragment = store.write_shard(step, 0, {&entry, 1});
    store.commit(step, {&fragment, 1}, "{}");
  }
  const std::string manifest = folder / "step-00000002/manifest.json", text = read_bytes(manifest);
  auto json = nlohmann::json::parse(text);
  json["version"] = 2;
  const auto refused = [&] {
    CHECK_THROWS_AS(newest_whole(folder.path()), NewerFormat);
    CHECK_THROWS_WITH(newest_whole(folder.path()),
                      Contains("step-00000002/manifest.json") && Contains("version 2") && Contains("newer longhaul"));
  };
  write_bytes(manifest, json.dump());
  refused();
  json["xxh3"] = "a checksum of another kind";
  write_bytes(manifest, json.dump());
  refused();
  json["version"] = 0;
  write_bytes(manifest, json.dump());
  CHECK(newest_whole(folder.path()).checkpoint->step() == 1);
}

TEST_CASE("what is missing of a checkpoint is damage; what the system refuses is not") {
  TemporaryFolder folder;
  const float w = 1;
  CheckpointStore store(folder.path(), 0);
  store.begin(4);
  const ShardEntry entry = ShardEntry::whole("w", DType::float32, {}, &w);
  const std::string fragment = store.write_shard(4, 0, {&entry, 1});
  store.commit(4, {&fragment, 1}, "{}");
  const auto skipped = [&] { return newest_whole(folder.path()).skipped.at(0).second; };
  const std::string rank = folder / "step-00000004/rank-00000.bin", manifest = folder / "step-00000004/manifest.json";
  fs::rename(rank, folder / "kept");
  CHECK_THAT(skipped(), Contains("rank-00000.bin is missing"));
  REQUIRE(::mkfifo(rank.c_str(), 0600) == 0);
  CHECK_THAT(skipped(), Contains("rank-00000.bin is not a regular file"));
  fs::remove(rank);
  fs::create_symlink(rank, rank);
  CHECK_THROWS_AS(newest_whole(folder.path()), SystemError);
  fs::remove(rank);
  fs::rename(folder / "kept", rank);
  CHECK(newest_whole(folder.path()).checkpoint);
  fs::remove(manifest);
  CHECK_THAT(skipped(), Contains("manifest.json is missing"));
  write_bytes(manifest, std::string(200'000, '['));
  CHECK_THAT(skipped(), Contains("manifest.json:1: nested deeper than 64"));
}
