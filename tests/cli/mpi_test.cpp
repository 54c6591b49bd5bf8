// Ranks as processes: one that dies or fails ends them all, and processes that do not belong together are refused.
#ifdef LONGHAUL_WITH_MPI
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <sstream>

#include "base/sanitizers.h"
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
#ifdef LONGHAUL_ADDRESS_SANITIZER
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

TEST_CASE("a signal to one rank, or to mpirun, stops all ranks after the same step", "[mpi]") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  std::int64_t before = 0;
  for (const bool to_rank : {true, false}) {
    Program program(place / "log",
                    mpirun_command(2, train_command(place, {folder, "training.steps=1000000", "checkpoint.interval=0",
                                                            "lr_scheduler.decay_type=constant"})),
                    child_environment());
    const auto start = std::chrono::steady_clock::now();
    while (program.running() && lines_of(place / "run/metrics.jsonl") < 20 + static_cast<std::size_t>(before) &&
           std::chrono::steady_clock::now() - start < std::chrono::seconds(60))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const auto ranks = ranks_of(program.id());
    REQUIRE(ranks.size() == 2);
    REQUIRE(::kill(to_rank ? ranks[1] : program.id(), SIGUSR1) == 0);
    check_end(program.wait(60), 85, {"stopped by SIGUSR1 (rank"});
    const auto losses = losses_of(place / "run");
    CHECK(losses.rbegin()->first > before);
    before = losses.rbegin()->first;
    CHECK(checkpoints_of(place / "run").back() == fmt::format("step-{:08}", before));
    CHECK(!fs::exists(place / "run/export"));
  }
}

TEST_CASE("single processes that a launcher's variable calls several are refused", "[mpi]") {
  const Workplace place;
  for (const std::string variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    check_end(run_train(place, {"training.steps=1"}, {variable + "=4"}), 1,
              {variable + "=4", "1 rank(s)", "mpirun", "--ranks N"});
  CHECK(!fs::exists(place / "runs"));
  // The whole job's tasks say nothing about this step.
  check_end(run_train(place, {"training.steps=1"}, {"SLURM_NTASKS=4"}), 0, {});
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
  failed({model, "data.tokenizer=bytes"}, "rank 1: data.files: " + (place / "text.txt").string());
  failed({"data.files=[" + (place / "nowhere.txt").string() + "]"}, "nowhere.txt: No such file");
  fs::create_directories(place / "runs/experiment/checkpoints/step-00000001");
  failed({"checkpoint.resume=off"}, "already holds a run");
}

// mpirun with a command line of its own for each of two ranks.
std::vector<std::string> two_commands(const std::vector<std::string>& first, const std::vector<std::string>& second) {
  std::vector<std::string> all = {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "1"};
  all.insert(all.end(), first.begin(), first.end());
  all.insert(all.end(), {":", "-n", "1"});
  all.insert(all.end(), second.begin(), second.end());
  return all;
}

TEST_CASE("a rank that was started otherwise is refused before it can hang the others or spoil numbers", "[mpi]") {
  const Workplace place;
  const auto run = [&](const std::vector<std::string>& first, const std::vector<std::string>& second) {
    fs::remove_all(place / "runs");
    return Program(place / "log", two_commands(first, second), child_environment()).wait(60);
  };
  const auto train = [&](const std::vector<std::string>& more) {
    auto arguments = more;
    arguments.emplace_back("training.steps=2");
    return train_command(place, arguments);
  };
  const auto under = [&](const std::string& variable) {
    std::vector<std::string> command = {"env", variable};
    for (const auto& word : train({})) command.push_back(word);
    return command;
  };
  check_end(run(train({}), train({})), 0, {});
  const auto refused = [&](const Ended& ended, const std::vector<std::string>& says) {
    check_end(ended, 1, says);
    check_end(ended, 1, {"rank 1: on host ", "rank 0 on host "});
    CHECK(count_of(ended.output, "was not given what rank 0") == 1);
    CHECK(!fs::exists(place / "runs/experiment/checkpoints"));
  };
  refused(run(train({}), train({"parallelism.zero_stage=2"})),
          {"parallelism.zero_stage is 2 here, but auto on rank 0"});
  refused(run(train({}), train({"optimizer.lr=2e-2"})), {"optimizer.lr is 0.02 here, but 0.01 on rank 0"});
  refused(run(train({}), train({"training.seed=1"})), {"training.seed is 1 here, but 0 on rank 0"});
  refused(run(train({}), train({"model.config=" + place.model("theta.json", {{"rope_theta", 5000.0}}).string()})),
          {"model.config, /", "5000"});
  write_file(place / "other.txt", std::string(3000, 'b'));
  refused(run(train({}), train({"data.files=[" + (place / "other.txt").string() + "]"})),
          {"of file 1 of 1 of data.files"});
  refused(run(train({}), under("LONGHAUL_KERNELS=reference")), {"LONGHAUL_KERNELS is reference here, but not there"});
  refused(run(train({}), under("LONGHAUL_ISA=generic")),
          {"instruction set is generic here", "distributed.different_cpus"});
  // Another folder: no checkpoint could ever be whole.
  const Ended elsewhere = run(train({}), train({"job.folder=" + (place / "elsewhere").string()}));
  check_end(elsewhere, 1, {"rank 1: on host ", "is not the one that rank 0 has locked"});

  // Asked for, other instruction sets run, and the log says so.
  auto first = train({"distributed.different_cpus=true"}), second = under("LONGHAUL_ISA=generic");
  second.emplace_back("distributed.different_cpus=true");
  check_end(run(first, second), 0, {"ranks run on different CPUs", "instruction set generic"});
  // verify agrees before it compares.
  const std::vector<std::string> verify = longhaul_command({"verify", (place / "experiment.yaml").string()});
  auto other = verify;
  other.emplace_back("training.seed=1");
  check_end(run(verify, other), 1, {"training.seed is 1 here, but 0 on rank 0"});
}

TEST_CASE("a stopped rank is named within seconds, and ends the job after distributed.timeout", "[mpi]") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  const auto start = [&](const std::string& timeout) {
    return std::make_unique<Program>(
        place / "log",
        mpirun_command(2, train_command(place, {folder, "training.steps=100000000", "checkpoint.interval=50",
                                                "lr_scheduler.decay_type=constant", "distributed.timeout=" + timeout})),
        child_environment());
  };
  const auto stop_one = [&](Program& program, std::size_t victim) {
    const std::size_t before = lines_of(place / "run/metrics.jsonl");
    const auto begin = std::chrono::steady_clock::now();
    while (program.running() && lines_of(place / "run/metrics.jsonl") < before + 60 &&
           std::chrono::steady_clock::now() - begin < std::chrono::seconds(60))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const auto ranks = ranks_of(program.id());
    REQUIRE(ranks.size() == 2);
    REQUIRE(::kill(ranks[victim], SIGSTOP) == 0);
    return ranks[victim];
  };
  const auto wait_for = [&](const std::string& text) {
    const auto begin = std::chrono::steady_clock::now();
    while (count_of(read_file(place / "log"), text) == 0 &&
           std::chrono::steady_clock::now() - begin < std::chrono::seconds(40))
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    INFO(read_file(place / "log"));
    CHECK(count_of(read_file(place / "log"), text) >= 1);
  };
  {
    // Reported, and when it goes on, so does the run.
    const auto program = start("1800");
    const pid_t stopped = stop_one(*program, 1);
    wait_for("missing: rank 1 (host ");
    wait_for("its process's state is T (stopped)");
    const std::size_t lines = lines_of(place / "run/metrics.jsonl");
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    wait_for("it goes on, after");
    CHECK(lines_of(place / "run/metrics.jsonl") >= lines);
    ::kill(stopped, SIGTERM);
    check_end(program->wait(60), 85, {"stopped by SIGTERM"});
  }
  for (const std::size_t victim : {0u, 1u}) {
    const auto program = start("8");
    stop_one(*program, victim);
    check_end(program->wait(60), 86,
              {fmt::format("missing: rank {} (host ", victim), "distributed.timeout of 8 s is over"});
  }
  check_end(run_mpi_train(place, 2, {folder, "training.time_limit=0", "training.steps=100000000"}), 85,
            {"took over the lock", "resuming from step"});
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
