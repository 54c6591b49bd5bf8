// Ranks as processes: one that dies or fails ends them all, and processes that do not belong together are refused.
#ifdef LONGHAUL_WITH_MPI
#include <algorithm>
#include <sstream>

#include "program.h"
#include "small_disk.h"

using namespace longhaul::testing;

namespace {

// The longhaul processes that descend from `ancestor`.
std::vector<pid_t> ranks_of(pid_t ancestor) {
  std::map<pid_t, pid_t> parents;
  std::vector<pid_t> found;
  std::error_code gone;
  for (const auto& item : fs::directory_iterator("/proc")) {
    const std::string name = item.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t process = std::stoi(name);
    std::istringstream status(read_file(item.path() / "status"));
    for (std::string word; status >> word;)
      if (word == "PPid:") {
        status >> parents[process];
        break;
      }
    if (fs::read_symlink(item.path() / "exe", gone).filename() == "longhaul") found.push_back(process);
  }
  std::erase_if(found, [&](pid_t process) {
    while (process > 1 && process != ancestor) process = parents.contains(process) ? parents[process] : 0;
    return process != ancestor;
  });
  return found;
}

std::vector<std::string> mpirun_command(int ranks, const std::vector<std::string>& command) {
  std::vector<std::string> all = {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", std::to_string(ranks)};
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

std::vector<std::string> child_environment() {
#ifdef __SANITIZE_ADDRESS__
  return {"ASAN_OPTIONS=detect_leaks=0"};  // MPI libraries leak by design
#else
  return {};
#endif
}

Ended run_mpi_train(const Workplace& place, int ranks, const std::vector<std::string>& arguments) {
  return Program(place / "log", mpirun_command(ranks, train_command(place, arguments)), child_environment()).wait();
}

bool alive(pid_t process) {
  std::istringstream status(read_file("/proc/" + std::to_string(process) + "/status"));
  for (std::string word; status >> word;)
    if (word == "State:") {
      status >> word;
      return word != "Z" && word != "X";
    }
  return false;
}

}  // namespace

TEST_CASE("a rank killed in a step ends all, and the run resumes", "[mpi]") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  for (const std::size_t victim : {0u, 1u}) {
    Program program(place / "log",
                    mpirun_command(2, train_command(place, {folder, "training.steps=1000000", "checkpoint.interval=5",
                                                            "lr_scheduler.decay_type=constant"})),
                    child_environment());
    const auto start = std::chrono::steady_clock::now();
    while (program.running() && lines_of(place / "run/metrics.jsonl") < 20 * (victim + 1) &&
           std::chrono::steady_clock::now() - start < std::chrono::seconds(60))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const auto ranks = ranks_of(program.id());
    REQUIRE(ranks.size() == 2);
    REQUIRE(::kill(ranks[victim], SIGKILL) == 0);
    const Ended ended = program.wait(20);
    INFO(ended.output);
    CHECK(ended.code != 0);
    for (int i = 0; i < 200 && alive(ranks[1 - victim]); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK(!alive(ranks[1 - victim]));
  }
  const auto before = losses_of(place / "run");
  const std::string end = std::to_string(before.rbegin()->first + 5);
  const Ended resumed = run_mpi_train(place, 2, {folder, "training.steps=" + end, "lr_scheduler.decay_type=constant"});
  check_end(resumed, 0, {"resuming from step"});
  const auto after = losses_of(place / "run");
  for (const auto& [step, loss] : before) CHECK(after.at(step) == loss);
}

TEST_CASE("single processes that a launcher's variable calls several are refused", "[mpi]") {
  const Workplace place;
  for (const std::string variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    check_end(run_train(place, {"training.steps=1"}, {variable + "=4"}), 1,
              {variable + "=4", "1 rank(s)", "mpirun", "--ranks N"});
  CHECK(!fs::exists(place / "runs"));
  // The whole job's tasks say nothing about this step, and threads need no launcher.
  check_end(run_train(place, {"training.steps=1"}, {"SLURM_NTASKS=4"}), 0, {});
  check_end(run_train(place, {"--ranks", "2", "training.steps=2"}, {"SLURM_STEP_NUM_TASKS=4"}), 0, {});
}

TEST_CASE("a rank that fails ends all, with its message once", "[mpi]") {
  const Workplace place;
  // Each rank checks its part of the tokens: only the last one sees the bad one.
  std::string text(3000, 'a');
  text[2990] = static_cast<char>(200);
  write_file(place / "text.txt", text);
  const std::string model = "model.config=" + place.model("ascii.json", {{"vocab_size", 128}}).string();
  const auto failed = [&](const std::vector<std::string>& arguments, const std::string& message) {
    const Ended ended = run_mpi_train(place, 2, arguments);
    check_end(ended, 1, {message});
    INFO(ended.output);
    CHECK(count_of(ended.output, message) == 1);
  };
  failed({model}, "rank 1: data.files: " + (place / "text.txt").string());
  failed({"data.files=[" + (place / "nowhere.txt").string() + "]"}, "nowhere.txt: No such file");
  fs::create_directories(place / "runs/experiment/checkpoints/step-00000001");
  failed({"checkpoint.resume=off"}, "already holds a run");
}

TEST_CASE("a rank that was started otherwise is refused before it can hang the others", "[mpi]") {
  const Workplace place;
  const auto half = [&](const std::string& key) {
    std::vector<std::string> command = {"-n", "1"};
    for (const auto& word : train_command(place, {"training.steps=2", key})) command.push_back(word);
    return command;
  };
  std::vector<std::string> command = {"mpirun", "--oversubscribe", "--allow-run-as-root"};
  for (const auto& word : half("parallelism.zero_stage=1")) command.push_back(word);
  command.push_back(":");
  for (const auto& word : half("parallelism.zero_stage=1")) command.push_back(word);
  const auto run = [&] { return Program(place / "log", command, child_environment()).wait(60); };
  check_end(run(), 0, {});
  command.back() = "parallelism.zero_stage=2";
  fs::remove_all(place / "runs");
  const Ended refused = run();
  check_end(refused, 1,
            {"rank 1: would not issue the collectives that rank 0 issues", "here:   accumulate_first: reduce_scatter",
             "rank 0: accumulate_last on the mesh"});
  CHECK(count_of(refused.output, "would not issue") == 1);
}

TEST_CASE("a full disk ends all ranks, and the run resumes", "[mpi]") {
  const Workplace place;
  SmallDisk disk(place / "disk");
  if (!disk.mounted()) {
    WARN("not tested, no tmpfs can be mounted here: " << disk.reason());
    return;
  }
  const fs::path run = place / "disk/run";
  const std::vector<std::string> arguments = {"job.folder=" + run.string(), "training.steps=20",
                                              "checkpoint.interval=1", "checkpoint.keep_latest_k=0",
                                              "checkpoint.max_failures=1"};
  const Ended full = run_mpi_train(place, 2, arguments);
  check_end(full, 1, {(run / "checkpoints").string()});
  CHECK(count_of(full.output, "No space left on device") == 1);
  const std::size_t steps = lines_of(run / "metrics.jsonl");
  REQUIRE(steps > 1);
  disk.resize("32m");
  check_end(run_mpi_train(place, 2, arguments), 0, {"resuming from step " + std::to_string(steps - 1)});
  CHECK(losses_of(run).size() == 20);
}
#endif
