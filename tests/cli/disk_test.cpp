// A disk that fills, and a limit on file sizes, at the checkpoint and at the export: the run ends with the path and the
// reason, and what was written before is whole.
#include "program.h"
#include "small_disk.h"

using namespace longhaul::testing;

namespace {

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& item : fs::recursive_directory_iterator(folder))
    if (item.is_regular_file()) files[fs::relative(item.path(), folder).string()] = read_file(item.path());
  return files;
}

}  // namespace

TEST_CASE("a file too large at the checkpoint") {
  const Workplace place;
  const fs::path run = place / "run";
  for (const std::string ranks : {"1", "2"}) {
    fs::remove_all(run);
    const std::vector<std::string> common = {"--ranks", ranks, "job.folder=" + run.string()};
    auto six = common;
    six.push_back("training.steps=6");
    check_end(run_train(place, six), 0, {});
    const auto before = files_of(run / "checkpoints");
    REQUIRE(before.size() >= 4);
    check_end(run_train(place, common, {}, 20000), 1,
              {"resuming from step 6", (run / "checkpoints/.tmp-step-00000009/rank-0000").string(), "File too large"});
    CHECK(files_of(run / "checkpoints") == before);
    CHECK(checkpoints_of(run) == std::vector<std::string>{"step-00000003", "step-00000006"});
    check_end(run_train(place, common), 0, {"resuming from step 6"});
    CHECK(losses_of(run).size() == 12);
  }
}

TEST_CASE("a file too large at the export") {
  const Workplace place;
  const fs::path run = place / "run";
  // Four ranks share the checkpoint; the export is one file.
  const std::vector<std::string> arguments = {
      "--ranks", "4", "parallelism.zero_stage=3", "job.folder=" + run.string(),
      "model.config=" + place.model("wide.json", {{"intermediate_size", 512}}).string()};
  const std::size_t limit = 300000;
  check_end(run_train(place, arguments, {}, 210000), 1, {(run / "export").string(), "File too large"});
  CHECK(checkpoints_of(run) == std::vector<std::string>{"step-00000009", "step-00000012"});
  CHECK(!fs::exists(run / "export/model.safetensors"));
  check_end(run_train(place, arguments, {}, limit), 0, {"resuming from step 12", "exported"});
  CHECK(fs::file_size(run / "export/model.safetensors") > 210000);
}

TEST_CASE("a full disk") {
  const Workplace place;
  SmallDisk disk(place / "disk");
  if (!disk.mounted()) {
    WARN("not tested, no tmpfs can be mounted here: " << disk.reason());
    return;
  }
  const fs::path run = place / "disk/run";
  const std::vector<std::string> common = {"--ranks",
                                           "2",
                                           "training.steps=30",
                                           "checkpoint.interval=1",
                                           "checkpoint.keep_latest_k=0",
                                           "lr_scheduler.decay_type=constant"};
  auto full = common, whole = common;
  full.push_back("job.folder=" + run.string());
  whole.push_back("job.folder=" + (place / "whole").string());
  check_end(run_train(place, full), 1, {(run / "checkpoints").string(), "No space left on device"});
  const auto kept = checkpoints_of(run);
  REQUIRE(!kept.empty());
  CHECK(kept.size() < 30);
  CHECK(kept.back() == "step-" + std::string(6, '0') + (kept.size() < 10 ? "0" : "") + std::to_string(kept.size()));
  for (const auto& name : kept) CHECK(!name.starts_with(".tmp"));
  // The same again while the disk is full, then with room.
  check_end(run_train(place, full), 1, {"No space left on device"});
  CHECK(checkpoints_of(run) == kept);
  disk.resize("32m");
  check_end(run_train(place, full), 0, {"resuming from step " + std::to_string(kept.size())});
  check_end(run_train(place, whole), 0, {});
  CHECK(losses_of(run) == losses_of(place / "whole"));
}
