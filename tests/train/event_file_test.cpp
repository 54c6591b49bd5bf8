// Event files, byte for byte what TensorBoard has read (tests/golden/tensorboard), and what goes into them.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "comm/launch.h"
#include "small_experiment.h"
#include "small_models.h"
#include "train/event_file.h"
#include "train/trainer.h"

namespace longhaul {
namespace {

using namespace testing;
namespace fs = std::filesystem;

std::string bytes_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::uint64_t little_endian(const std::string& bytes, std::size_t at, int count) {
  std::uint64_t value = 0;
  for (int i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
  return value;
}

// The bytes between lengths and checksums.
std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) {
    const std::size_t length = little_endian(file, at, 8);
    REQUIRE(at + 16 + length <= file.size());
    const std::string record = file.substr(at + 12, length);
    CHECK(event_record(record) == file.substr(at, 16 + length));
    records.push_back(record);
    at += 16 + length;
  }
  return records;
}

}  // namespace

TEST_CASE("an event file has the bytes that TensorBoard has read") {
  CHECK(crc32c("123456789") == 0xE3069283u);  // RFC 3720
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  CHECK(crc32c("") == 0);
  const fs::path folder = fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tensorboard";
  std::string events = event_record(version_event(1.7e9)) + event_record(start_event(1.7e9, 1));
  std::ifstream lines(folder / "metrics.jsonl");
  int count = 0;
  for (std::string text; std::getline(lines, text); ++count) {
    const auto line = nlohmann::ordered_json::parse(text);
    if (count == 4)  // the run goes on after step 2
      events += event_record(version_event(1.7e9 + 50)) + event_record(start_event(1.7e9 + 50, 3));
    events += event_record(scalar_event(line.at("time"), line.at("step"), event_scalars(line)));
  }
  CHECK(count == 6);
  CHECK(events == bytes_of(folder / "events.out.tfevents.golden"));
  // What TensorBoard read of it: of steps that were done twice the later ones.
  const auto read = nlohmann::json::parse(bytes_of(folder / "read.json"));
  CHECK(read.at("loss").size() == 4);
  CHECK(read.at("loss").at(2) == nlohmann::json::parse("[3, 4.25]"));
  CHECK(read.contains("validation_loss/books"));
  CHECK(read.contains("validation_loss_by_position/8"));
}

TEST_CASE("metrics.tensorboard writes every number of metrics.jsonl, a file a start", "[threads]") {
  const SmallExperiment small(small_llama());
  const fs::path run = small.folder() / "run";
  const std::vector<std::string> keys = {"job.folder=" + run.string(), "metrics.tensorboard=true",
                                         "data.validation_files=" + (small.folder() / "text.txt").string()};
  const auto start = [&](std::vector<std::string> more) {
    more.insert(more.begin(), keys.begin(), keys.end());
    const Experiment experiment = small.load(more);
    run_threads(2, [&](Communicator& world) { return train(world, experiment); });
  };
  start({});
  start({"training.steps=3"});
  std::vector<fs::path> files;
  for (const auto& item : fs::directory_iterator(run / "tensorboard")) files.push_back(item.path());
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() == 2);
  std::vector<std::string> expected;
  std::ifstream lines(run / "metrics.jsonl");
  for (std::string text; std::getline(lines, text);) {
    const auto line = nlohmann::ordered_json::parse(text);
    expected.push_back(scalar_event(line.at("time"), line.at("step"), event_scalars(line)));
  }
  REQUIRE(expected.size() == 3);
  std::vector<std::string> found;
  for (const fs::path& file : files) {
    CHECK(file.filename().string().starts_with("events.out.tfevents."));
    const auto records = records_of(bytes_of(file));
    REQUIRE(records.size() > 2);
    CHECK(records[0].find("brain.Event:2") != std::string::npos);
    found.insert(found.end(), records.begin() + 2, records.end());
  }
  CHECK(found == expected);
  CHECK(event_scalars(nlohmann::ordered_json::parse(R"({"step": 1, "loss": null, "skipped": "why", "time": 3})"))
            .empty());
}

}  // namespace longhaul
