// Every single bit of a checkpoint, flipped: the checkpoint is found damaged, whichever file and place it is, and is
// whole again with the bit put back.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <iostream>

#include "base/error.h"
#include "io/checkpoint.h"
#include "temporary.h"

using namespace longhaul;
using namespace longhaul_test;

namespace {

// Two tensors on two ranks; files of a few hundred bytes, so that all bits can be tried. Whole lines of 64 bytes: the
// zeros that fill an entry's last line up are never read, and not verified.
void save_small(const std::string& folder) {
  std::vector<float> w(8 * 8);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i) * 0.37f;
  const std::vector<double> moment{1.5, -2.25, 1e300, 0, 1, 2, 3, 4};
  CheckpointStore store(folder, 0);
  store.begin(1);
  std::vector<std::string> fragments;
  for (int rank = 0; rank < 2; ++rank) {
    const ElementRange range = flat_split(static_cast<std::int64_t>(w.size()), 2, rank);
    std::vector<ShardEntry> entries{{"w", DType::float32, {8, 8}, {range}, w.data() + range.begin}};
    if (rank == 1) entries.push_back(ShardEntry::whole("moment", DType::float64, {8}, moment.data()));
    fragments.push_back(store.write_shard(1, rank, entries));
  }
  store.commit(1, fragments, R"({"cursor": [1, 2]})");
}

// What opening and verifying says; empty: whole.
std::string damage(const std::string& path) {
  try {
    Checkpoint(path).verify();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("every flipped bit of a checkpoint is damage") {
  TemporaryFolder folder;
  save_small(folder.path());
  const std::string path = list_checkpoints(folder.path()).at(0).path;
  REQUIRE(damage(path).empty());
  std::int64_t flips = 0;
  std::vector<std::string> unnoticed;
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    const int descriptor = ::open(file.path().c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(descriptor >= 0);
    const auto size = static_cast<std::int64_t>(file.file_size());
    for (std::int64_t byte = 0; byte < size; ++byte)
      for (int bit = 0; bit < 8; ++bit) {
        unsigned char value = 0;
        REQUIRE(::pread(descriptor, &value, 1, byte) == 1);
        const auto flipped = static_cast<unsigned char>(value ^ (1 << bit));
        REQUIRE(::pwrite(descriptor, &flipped, 1, byte) == 1);
        if (damage(path).empty())
          unnoticed.push_back(file.path().filename().string() + " byte " + std::to_string(byte) + " bit " +
                              std::to_string(bit));
        REQUIRE(::pwrite(descriptor, &value, 1, byte) == 1);
        ++flips;
      }
    ::close(descriptor);
  }
  CHECK(unnoticed == std::vector<std::string>{});
  CHECK(damage(path).empty());
  CHECK(flips > 8 * (8 * 8 * 4 + 8 * 8));  // the manifest's bits besides
  std::cout << flips << " bits of a checkpoint flipped, " << unnoticed.size() << " unnoticed\n";
}
