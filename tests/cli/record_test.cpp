// The run folder's own account of its starts, and what --version says.
#include <csignal>

#include "program.h"

using namespace longhaul::testing;

namespace {

nlohmann::json starts_of(const fs::path& run) {
  return nlohmann::json::parse(read_file(run / "run.json")).at("starts");
}

}  // namespace

TEST_CASE("run.json and log.txt say with what each start ran and how it ended", "[threads]") {
  const Workplace place;
  const fs::path run = place / "run";
  const std::string folder = "job.folder=" + run.string();
  check_end(run_train(place, {folder, "training.steps=4", "--ranks", "2"}, {"SLURM_JOB_ID=9"}), 0, {});
  auto starts = starts_of(run);
  REQUIRE(starts.size() == 1);
  const auto& first = starts[0];
  CHECK(first["outcome"] == "finished");
  CHECK(first["from_step"] == 0);
  CHECK(first["to_step"] == 4);
  CHECK(first["ranks"] == 2);
  CHECK(first["transport"] == "threads");
  CHECK(first["job"] == "9");
  CHECK(first["hosts"].size() == 1);
  CHECK(first["hosts"][0]["ranks"] == nlohmann::json({0, 1}));
  CHECK(first["hosts"][0]["cpu"].get<std::string>().size() > 3);
  CHECK(first["end"].get<std::string>() >= first["start"].get<std::string>());
  CHECK(first["decisions"].dump().find("parallelism: ") != std::string::npos);
  CHECK(first["decisions"].dump().find("matrix products: ") != std::string::npos);
  for (const char* key : {"version", "commit", "compiler", "build", "back_ends", "instruction_set"})
    CHECK(first[key].get<std::string>().size() > 2);
  CHECK(first["libraries"].size() >= 1);

  // Resumed with another value: a warning, in both files.
  check_end(run_train(place, {folder, "training.steps=6", "optimizer.lr=1e-3", "training.time_limit=0"}), 85, {});
  // A failure.
  check_end(run_train(place, {folder, "training.steps=6", "optimizer.lr=1e-3", "data.files=/nowhere.txt"}), 1, {});
  // Killed: it cannot say so itself, the next start does.
  {
    Program program(place / "log", train_command(place, {folder, "training.steps=100000000", "optimizer.lr=1e-3"}));
    while (program.running() && lines_of(run / "metrics.jsonl") < 20)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(starts_of(run).back()["outcome"] == "running");
  check_end(run_train(place, {folder, "training.steps=100000000", "training.time_limit=0", "optimizer.lr=1e-3"}), 85,
            {});
  starts = starts_of(run);
  REQUIRE(starts.size() == 5);
  CHECK(starts[1]["outcome"] == "stopped");
  CHECK(starts[1]["from_step"] == 4);
  CHECK(starts[1]["reason"] == "training.time_limit of 0 minutes");
  CHECK(starts[1]["warnings"].dump().find("optimizer.lr 0.001 (was 0.01)") != std::string::npos);
  CHECK(starts[2]["outcome"] == "failed");
  CHECK(starts[2]["reason"].get<std::string>().find("/nowhere.txt") != std::string::npos);
  CHECK(starts[3]["outcome"] == "unknown: killed, or its machine failed");
  CHECK(starts[4]["warnings"].dump().find("took over the lock") != std::string::npos);
  const std::string log = read_file(run / "log.txt");
  for (const char* text : {"parallelism: ", "resuming from step 4", "optimizer.lr 0.001 (was 0.01)", "/nowhere.txt",
                           "stopped: training.time_limit"})
    CHECK(log.find(text) != std::string::npos);

  // What stands there is no account: it begins anew and says so; and nothing of it ends a run.
  write_file(run / "run.json", "[1]");
  check_end(run_train(place, {folder, "training.steps=100000000", "training.time_limit=0", "optimizer.lr=1e-3"}), 85,
            {"begins anew"});
  CHECK(starts_of(run).size() == 1);
  fs::remove(run / "run.json");
  fs::remove(run / "log.txt");
  fs::create_directories(run / "run.json/x");
  fs::create_directories(run / "log.txt");
  check_end(run_train(place, {folder, "training.steps=100000000", "training.time_limit=0", "optimizer.lr=1e-3"}), 85,
            {"cannot write", "could not be written"});
}

TEST_CASE("the process is called longhaul, and --version names commit, compiler and libraries", "[threads]") {
  const Workplace place;
  Program program(place / "log", train_command(place, {"training.steps=100000000"}));
  while (program.running() && lines_of(place / "runs/experiment/metrics.jsonl") < 3)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  CHECK(read_file("/proc/" + std::to_string(program.id()) + "/comm") == "longhaul\n");
  program.kill();
  check_end(Program(place / "log", longhaul_command({"--version"})).wait(), 0,
            {"longhaul ", "commit ", "built in: cpu"});
}

TEST_CASE("the resolved experiment stands before the error of its run in one log", "[threads]") {
  const Workplace place;
  const Ended ended = run_train(place, {"data.files=/nowhere.txt"});
  CHECK(ended.code == 1);
  CHECK(ended.output.find("# the experiment, resolved") < ended.output.find("/nowhere.txt: "));
}

TEST_CASE("metrics.jsonl has every step, whatever log_freq thins on the console", "[threads]") {
  const Workplace place;
  const Ended ended = run_train(place, {"metrics.log_freq=5"});
  check_end(ended, 0, {});
  CHECK(lines_of(place / "runs/experiment/metrics.jsonl") == 12);
  CHECK(count_of(ended.output, "\nstep ") == 4);  // 1, 5, 10, 12
}
