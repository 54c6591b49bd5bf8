#include "io/checkpoint.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <thread>

#include "base/error.h"
#include "newest_whole.h"
#include "temporary.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

// A state of several dtypes and awkward sizes; `large` spans several checksums.
struct Model {
  std::vector<float> w = std::vector<float>(7 * 13);
  std::vector<double> moment = std::vector<double>(5);
  std::vector<std::uint16_t> half = std::vector<std::uint16_t>(3 * 4 * 5);
  std::vector<float> large = std::vector<float>(2'500'001);
  float scalar = 0.25f;
  explicit Model(int seed) {
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i) * 0.5f + static_cast<float>(seed);
    for (std::size_t i = 0; i < moment.size(); ++i) moment[i] = 1.0 / (static_cast<double>(i) + 3 + seed);
    for (std::size_t i = 0; i < half.size(); ++i) half[i] = static_cast<std::uint16_t>(i * 7 + 1);
    for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i % 8191);
  }
};

// What rank `rank` of `world` holds: w and moment and large split flat with padding, half by dimension 1 (several
// ranges), scalar on rank 0 only. `pack` keeps the packed elements of half alive.
std::vector<ShardEntry> entries_of(const Model& model, int world, int rank, std::vector<std::uint16_t>& pack) {
  std::vector<ShardEntry> entries;
  const auto flat = [&](const char* name, DType dtype, std::vector<std::int64_t> shape, const auto& values) {
    const auto range = flat_split(static_cast<std::int64_t>(values.size()), world, rank);
    entries.push_back({name, dtype, std::move(shape), {range}, values.data() + range.begin});
  };
  flat("w", DType::float32, {7, 13}, model.w);
  flat("moment", DType::float64, {5}, model.moment);
  flat("large", DType::float32, {2'500'001}, model.large);
  const auto columns = flat_split(4, world, rank);
  ShardEntry half{"half", DType::bfloat16, {3, 4, 5}, {}, nullptr};
  for (std::int64_t row = 0; row < 3; ++row) {
    const ElementRange range{(row * 4 + columns.begin) * 5, (row * 4 + columns.end) * 5};
    half.ranges.push_back(range);
    pack.insert(pack.end(), model.half.begin() + range.begin, model.half.begin() + range.end);
  }
  half.data = pack.data();
  entries.push_back(half);
  if (rank == 0) entries.push_back(ShardEntry::whole("scalar", DType::float32, {}, &model.scalar));
  return entries;
}

void save(const std::string& folder, std::int64_t step, int world, const Model& model, int keep = 0,
          const std::string& state = "{}") {
  CheckpointStore(folder, keep).begin(step);
  std::vector<std::string> fragments(static_cast<std::size_t>(world));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world; ++rank)
    ranks.emplace_back([&, rank] {
      std::vector<std::uint16_t> pack;
      const auto entries = entries_of(model, world, rank, pack);
      fragments[static_cast<std::size_t>(rank)] = CheckpointStore(folder, keep).write_shard(step, rank, entries);
    });
  for (auto& rank : ranks) rank.join();
  CheckpointStore(folder, keep).commit(step, fragments, state);
}

template <typename T>
std::vector<T> load(const Checkpoint& checkpoint, const char* name, DType dtype, std::vector<std::int64_t> shape,
                    ElementRange range) {
  std::vector<T> values(static_cast<std::size_t>(range.end - range.begin));
  checkpoint.read(name, dtype, shape, range.begin, range.end, values.data());
  return values;
}

// Reads everything as rank `rank` of `world` would, into a model whose other elements stay.
void load_part(const Checkpoint& checkpoint, int world, int rank, Model& model) {
  const auto flat = [&](const char* name, DType dtype, std::vector<std::int64_t> shape, auto& values) {
    const auto range = flat_split(static_cast<std::int64_t>(values.size()), world, rank);
    checkpoint.read(name, dtype, shape, range.begin, range.end, values.data() + range.begin);
  };
  flat("w", DType::float32, {7, 13}, model.w);
  flat("moment", DType::float64, {5}, model.moment);
  flat("large", DType::float32, {2'500'001}, model.large);
  flat("half", DType::bfloat16, {3, 4, 5}, model.half);
  if (rank == 0) checkpoint.read("scalar", DType::float32, {}, 0, 1, &model.scalar);
}

void check_equal(const Model& a, const Model& b) {
  CHECK(a.w == b.w);
  CHECK(a.moment == b.moment);
  CHECK(a.half == b.half);
  CHECK((a.large == b.large));
  CHECK(a.scalar == b.scalar);
}

Model blank() {
  Model model(0);
  std::fill(model.w.begin(), model.w.end(), -1.0f);
  std::fill(model.moment.begin(), model.moment.end(), -1.0);
  std::fill(model.half.begin(), model.half.end(), std::uint16_t{0});
  std::fill(model.large.begin(), model.large.end(), -1.0f);
  model.scalar = -1;
  return model;
}

std::string shard(const std::string& folder, const char* step, int rank) {
  return folder + "/" + step + "/rank-0000" + std::to_string(rank) + ".bin";
}

void flip_byte(const std::string& path, std::size_t offset) {
  std::string bytes = read_bytes(path);
  bytes.at(offset) = static_cast<char>(bytes[offset] ^ 1);
  write_bytes(path, bytes);
}

}  // namespace

TEST_CASE("a checkpoint of one rank goes to four, to three, to one, bit for bit") {
  TemporaryFolder folder;
  const Model model(3);
  save(folder.path(), 1, 1, model, 0, R"({"cursor":[1,2]})");
  int previous = 1;
  for (const int world : {4, 3, 7, 1}) {
    CAPTURE(previous, world);
    const Checkpoint checkpoint(list_checkpoints(folder.path())[0].path);
    CHECK(checkpoint.world() == previous);
    CHECK(checkpoint.state() == R"({"cursor":[1,2]})");
    CHECK(checkpoint.tensors().size() == 5);
    Model loaded = blank();
    for (int rank = 0; rank < world; ++rank) load_part(checkpoint, world, rank, loaded);
    check_equal(loaded, model);
    save(folder.path(), checkpoint.step() + 1, world, loaded, 0, checkpoint.state());
    previous = world;
  }
}

TEST_CASE("a flat split covers every element once, padding left out") {
  for (const std::int64_t count : {0, 1, 5, 91, 4096})
    for (const int parts : {1, 2, 3, 4, 7, 100}) {
      std::int64_t next = 0;
      for (int part = 0; part < parts; ++part) {
        const auto range = flat_split(count, parts, part);
        CHECK(range.begin == std::min(next, count));
        CHECK(range.end - range.begin <= (count + parts - 1) / parts);
        next = range.end;
      }
      CHECK(next == count);
    }
}

TEST_CASE("reading with another dtype, shape or name is refused") {
  TemporaryFolder folder;
  save(folder.path(), 1, 2, Model(0));
  const Checkpoint checkpoint(list_checkpoints(folder.path())[0].path);
  CHECK_THROWS_WITH(load<double>(checkpoint, "w", DType::float64, {7, 13}, {0, 1}),
                    Contains("'w' is float32 [7, 13] but this run has float64 [7, 13]"));
  CHECK_THROWS_WITH(load<float>(checkpoint, "w", DType::float32, {13, 7}, {0, 1}), Contains("[13, 7]"));
  CHECK_THROWS_WITH(load<float>(checkpoint, "w", DType::float32, {7}, {0, 1}), Contains("[7]"));
  CHECK_THROWS_WITH(load<float>(checkpoint, "v", DType::float32, {7}, {0, 1}), Contains("no tensor 'v'"));
}

TEST_CASE("keep_latest_k removes older whole checkpoints, after the new one is in place") {
  TemporaryFolder folder;
  const Model model(1);
  for (const int step : {10, 20, 30, 40}) save(folder.path(), step, 2, model, 2);
  const auto steps = [&] {
    std::vector<std::int64_t> all;
    for (const auto& location : list_checkpoints(folder.path())) all.push_back(location.step);
    return all;
  };
  CHECK(steps() == std::vector<std::int64_t>{40, 30});
  // A damaged one does not count among the kept.
  std::filesystem::remove(shard(folder.path(), "step-00000040", 1));
  save(folder.path(), 50, 2, model, 2);
  CHECK(steps() == std::vector<std::int64_t>{50, 40, 30});
  // A run resumed from before newer ones keeps what it has just written.
  save(folder.path(), 45, 2, model, 1);
  CHECK(steps() == std::vector<std::int64_t>{50, 45, 40});
}

TEST_CASE("a checkpoint of the same step is replaced") {
  TemporaryFolder folder;
  save(folder.path(), 5, 2, Model(1), 3, "first");
  save(folder.path(), 5, 3, Model(2), 3, "second");
  const auto newest = newest_whole(folder.path());
  REQUIRE(newest.checkpoint);
  CHECK(newest.checkpoint->state() == "second");
  CHECK(newest.checkpoint->world() == 3);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("damage is found, named, and skipped over") {
  TemporaryFolder folder;
  const Model model(1);
  for (const int step : {1, 2, 3, 4, 5, 6, 7}) save(folder.path(), step, 2, model);
  flip_byte(shard(folder.path(), "step-00000007", 1), 4'300'000);
  std::filesystem::resize_file(shard(folder.path(), "step-00000006", 0), 1000);
  std::filesystem::remove(shard(folder.path(), "step-00000005", 0));
  std::filesystem::remove(folder / "step-00000004/manifest.json");
  write_bytes(folder / "step-00000003/manifest.json", "{\"format\":");
  std::string manifest = read_bytes(folder / "step-00000002/manifest.json");
  const auto at = manifest.find("\"step\": 2");
  REQUIRE(at != std::string::npos);
  manifest[at + 8] = '1';
  write_bytes(folder / "step-00000002/manifest.json", manifest);
  const auto newest = newest_whole(folder.path());
  REQUIRE(newest.checkpoint);
  CHECK(newest.checkpoint->step() == 1);
  REQUIRE(newest.skipped.size() == 6);
  CHECK_THAT(newest.skipped[0].second, Contains("rank-00001.bin") && Contains("'large'") && Contains("corrupted"));
  CHECK_THAT(newest.skipped[1].second, Contains("rank-00000.bin has 1000 bytes"));
  CHECK_THAT(newest.skipped[2].second, Contains("rank-00000.bin") && Contains("No such file"));
  CHECK_THAT(newest.skipped[3].second, Contains("manifest.json") && Contains("No such file"));
  CHECK_THAT(newest.skipped[4].second, Contains("manifest.json") && Contains("not valid JSON"));
  CHECK_THAT(newest.skipped[5].second, Contains("manifest.json") && Contains("checksum"));
  CHECK(newest_whole(folder.path(), false).checkpoint->step() == 7);

  // Only a read that touches the damaged 4 MiB fails, and the parts of verify() together find it.
  const Checkpoint damaged(folder / "step-00000007");
  const auto range = flat_split(2'500'001, 2, 1);
  CHECK(load<float>(damaged, "large", DType::float32, {2'500'001}, {range.begin, range.begin + 9})[8] ==
        model.large[static_cast<std::size_t>(range.begin) + 8]);
  CHECK_THROWS_WITH(load<float>(damaged, "large", DType::float32, {2'500'001}, {range.end - 9, range.end}),
                    Contains("corrupted"));
  int failures = 0;
  for (int part = 0; part < 5; ++part) failures += !message_of([&] { damaged.verify(part, 5); }).empty();
  CHECK(failures == 1);
}

TEST_CASE("a folder of a foreign or future format is refused") {
  TemporaryFolder folder;
  save(folder.path(), 1, 1, Model(0));
  const std::string path = folder / "step-00000001/manifest.json";
  std::string text = read_bytes(path);
  const auto at = text.find("\"version\": 1");
  REQUIRE(at != std::string::npos);
  text[at + 11] = '9';
  write_bytes(path, text);
  CHECK_THROWS_WITH(Checkpoint(folder / "step-00000001"), Contains("version 9"));
  write_bytes(path, "{}");
  CHECK_THROWS_WITH(Checkpoint(folder / "step-00000001"), Contains("not a longhaul checkpoint"));
  write_bytes(path, "[]");
  CHECK_THROWS_AS(Checkpoint(folder / "step-00000001"), Error);
  CHECK(list_checkpoints(folder / "none").empty());
  CHECK_THROWS_WITH(list_checkpoints(path), Contains("Not a directory"));
}

TEST_CASE("commit refuses shards that leave holes, overlap or disagree") {
  TemporaryFolder folder;
  const std::vector<float> values(10);
  const auto commit = [&](std::vector<ShardEntry> first, std::vector<ShardEntry> second) {
    CheckpointStore store(folder.path(), 0);
    store.begin(1);
    const std::vector<std::string> fragments{store.write_shard(1, 0, first), store.write_shard(1, 1, second)};
    const std::string message = message_of([&] { store.commit(1, fragments, ""); });
    store.abandon(1);
    return message;
  };
  const auto entry = [&](std::int64_t begin, std::int64_t end, DType dtype = DType::float32, std::int64_t size = 10) {
    return ShardEntry{"t", dtype, {size}, {{begin, end}}, values.data()};
  };
  CHECK_THAT(commit({entry(0, 5)}, {entry(6, 10)}), Contains("no rank wrote element 5"));
  CHECK_THAT(commit({entry(0, 6)}, {entry(5, 10)}), Contains("[5, 10) of tensor 't'"));
  CHECK_THAT(commit({entry(0, 10)}, {entry(0, 10)}), Contains("another file"));
  CHECK_THAT(commit({entry(0, 5)}, {entry(5, 10, DType::bfloat16)}), Contains("bfloat16"));
  CHECK_THAT(commit({entry(0, 5)}, {entry(5, 10, DType::float32, 11)}), Contains("[11]"));
  CHECK_THROWS_AS(commit({entry(0, 11)}, {}), std::logic_error);
  // What a rank says it wrote must be there.
  CheckpointStore store(folder.path(), 0);
  store.begin(1);
  const std::vector<ShardEntry> whole{entry(0, 10)};
  const std::vector<std::string> fragments{store.write_shard(1, 0, whole)};
  std::filesystem::resize_file(folder / ".tmp-step-00000001/rank-00000.bin", 20);
  CHECK_THROWS_WITH(store.commit(1, fragments, ""), Contains("has 20 bytes but its rank wrote 64"));
  std::filesystem::remove(folder / ".tmp-step-00000001/rank-00000.bin");
  CHECK_THROWS_WITH(store.commit(1, fragments, ""), Contains("rank-00000.bin"));
  CHECK_THROWS_WITH(store.commit(1, std::vector<std::string>{"{}"}, ""), Contains("fragment of rank 0"));
  store.abandon(1);
  CHECK(list_checkpoints(folder.path()).empty());
  CHECK(commit({entry(0, 10)}, {}).empty());
  CHECK(list_checkpoints(folder.path()).size() == 1);
}

TEST_CASE("a full disk leaves the previous checkpoint intact") {
  TemporaryFolder folder;
  const Model model(4);
  save(folder.path(), 1, 1, model, 1);
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 1 << 20;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  CheckpointStore store(folder.path(), 1);
  const std::string message = message_of([&] {
    store.begin(2);
    std::vector<std::uint16_t> pack;
    store.write_shard(2, 0, entries_of(model, 1, 0, pack));
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(message, Contains("rank-00000.bin") && Contains("File too large"));
  store.abandon(2);
  const auto newest = newest_whole(folder.path());
  REQUIRE(newest.checkpoint);
  CHECK(newest.skipped.empty());
  Model loaded = blank();
  load_part(*newest.checkpoint, 1, 0, loaded);
  check_equal(loaded, model);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("killed between begin and commit, only a temporary folder is left, and the next save removes it") {
  TemporaryFolder folder;
  const Model model(4);
  save(folder.path(), 1, 1, model);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    CheckpointStore store(folder.path(), 1);
    store.begin(2);
    std::vector<std::uint16_t> pack;
    store.write_shard(2, 0, entries_of(model, 1, 0, pack));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  const std::string left = folder / ".tmp-step-00000002";
  CHECK(std::filesystem::exists(left + "/rank-00000.bin"));
  const auto newest = newest_whole(folder.path());
  REQUIRE(newest.checkpoint);
  CHECK(newest.checkpoint->step() == 1);
  CHECK(newest.skipped.empty());
  save(folder.path(), 3, 1, model);
  CHECK_FALSE(std::filesystem::exists(left));
  CHECK(list_checkpoints(folder.path()).size() == 2);
}

TEST_CASE("ranks as threads share one open checkpoint") {
  TemporaryFolder folder;
  const Model model(2);
  save(folder.path(), 1, 3, model);
  const Checkpoint checkpoint(folder / "step-00000001");
  Model loaded = blank();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) ranks.emplace_back([&, rank] { load_part(checkpoint, 4, rank, loaded); });
  for (auto& rank : ranks) rank.join();
  check_equal(loaded, model);
}
