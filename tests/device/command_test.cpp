// The user's commands with device.type: emulator, on ranks that are threads and on ranks that are processes.
#include <algorithm>
#include <cmath>

#include "../cli/program.h"

using namespace longhaul::testing;

namespace {

// The losses of two runs of the same steps, as far apart as float32 lets them be.
void check_near(const std::map<std::int64_t, double>& a, const std::map<std::int64_t, double>& b, double limit) {
  REQUIRE(!a.empty());
  REQUIRE(a.size() == b.size());
  for (const auto& [step, loss] : a) {
    INFO("step " << step);
    CHECK(std::abs(loss - b.at(step)) <= limit * std::abs(b.at(step)));
  }
}

}  // namespace

TEST_CASE("longhaul train and verify on the emulator; a run goes on from CPU to device and back", "[threads]") {
  const Workplace place;
  const auto train = [&](const std::string& folder, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--ranks", "2", "parallelism.sequence=2",
                                          "job.folder=" + (place / folder).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    check_end(run_train(place, arguments), 0, {});
  };
  train("cpu", {"training.steps=20"});
  train("device", {"training.steps=20", "device.type=emulator"});
  const auto cpu = losses_of(place / "cpu"), device = losses_of(place / "device");
  CHECK(device.size() == 20);
  CHECK_THAT(read_file(place / "device/matmul.json"), Catch::Contains("loops of the emulator"));
  check_near(device, cpu, 1e-4);
  train("again", {"training.steps=20", "device.type=emulator"});
  CHECK(losses_of(place / "again") == device);
  CHECK(read_file(place / "again/export/model.safetensors") == read_file(place / "device/export/model.safetensors"));

  // The same three runs, which each have a schedule of their own, all on the CPU and with the second on the device.
  for (const std::string folder : {"pieces", "mixed"})
    for (const std::string steps : {"3", "6", "9"})
      train(folder, {"training.steps=" + steps,
                     std::string("device.type=") + (folder == "mixed" && steps == "6" ? "emulator" : "cpu")});
  check_near(losses_of(place / "mixed"), losses_of(place / "pieces"), 1e-4);

  const auto verify = [&](const std::vector<std::string>& more, const std::vector<std::string>& environment) {
    auto command = longhaul_command({"verify", (place / "experiment.yaml").string(), "--ranks", "2",
                                     "parallelism.sequence=2", "device.type=emulator"});
    command.insert(command.end(), more.begin(), more.end());
    return Program(place / "log", command, environment).wait();
  };
  check_end(verify({"training.dtype=bfloat16"}, {"LONGHAUL_CHECK_OPS=1"}), 0, {});
  const Ended wrong = verify({"--fault", "differentiate"}, {});
  INFO(wrong.output);
  CHECK(wrong.code != 0);
}

TEST_CASE("what a device does not do is refused by the command, with what to do") {
  const Workplace place;
  const auto refused = [&](const std::vector<std::string>& arguments, const std::vector<std::string>& says,
                           const std::vector<std::string>& environment = {}) {
    check_end(run_train(place, arguments, environment), 1, says);
  };
  refused({"device.type=emulator", "training.dtype=float64"}, {"training.dtype is float64", "float32 and bfloat16"});
  refused({"device.type=emulator", "training.matmul=onednn"}, {"training.matmul is onednn", "leave it at auto"});
  refused({}, {"LONGHAUL_CHECK_OPS is set and device.type is cpu"}, {"LONGHAUL_CHECK_OPS=1"});
  refused({"device.type=emulator"}, {"LONGHAUL_CHECK_OPS is 'yes'"}, {"LONGHAUL_CHECK_OPS=yes"});
  refused({"device.graphs=true"}, {"device.graphs is true, but device.type is cpu"});
  refused({"device.type=emulator", "device.graphs=true"}, {"LONGHAUL_CHECK_OPS is set and device.graphs is true"},
          {"LONGHAUL_CHECK_OPS=1"});
  refused(
      {"device.type=emulator", "device.graphs=true", "--ranks", "2"},
      {"device.graphs is true", "messages are staged", "device.collectives is auto", "set device.collectives to nccl"});
  refused({"device.type=cuda"}, {"device.type is cuda", "no/such/kernels.so does not exist", "set device.type to cpu"},
          {"LONGHAUL_CUDA_LIBRARY=no/such/kernels.so"});
}

TEST_CASE("bench step times graphs once they are there, and counts their launches") {
  const Workplace place;
  const auto bench = [&](const std::string& warmup) {
    return Program(place / "log",
                   longhaul_command({"bench", "step", (place / "experiment.yaml").string(), "--steps", "1", "--warmup",
                                     warmup, "device.type=emulator", "device.graphs=true"}))
        .wait();
  };
  check_end(bench("1"), 1, {"--warmup is 1, and device.graphs is true", "give 2 or more"});
  check_end(bench("2"), 0, {"0 launches and ", " of graphs, which hold ", "in step 3", "no times of ops"});
}

TEST_CASE("processes over TCP compute on emulators of their own what threads compute, whatever the step holds",
          "[threads]") {
  const Workplace place;
  const auto train = [&](const std::string& folder, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--ranks",
                                          "2",
                                          "parallelism.sequence=2",
                                          "training.steps=3",
                                          "device.type=emulator",
                                          "training.dtype=bfloat16",
                                          "optimizer.name=muon",
                                          "optimizer.state_dtype=bfloat16",
                                          "job.folder=" + (place / folder).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    check_end(run_train(place, arguments), 0, {});
  };
  train("threads", {});
  train("processes", {"--transport", "sockets"});
  CHECK(losses_of(place / "threads") == losses_of(place / "processes"));
  CHECK(read_file(place / "threads/export/model.safetensors") ==
        read_file(place / "processes/export/model.safetensors"));
  // Made again, moved to pinned memory and back: the same bits.
  train("less", {"activation_memory.mode=recompute"});
  train("moved", {"activation_memory.offload=on"});
  CHECK(losses_of(place / "threads") == losses_of(place / "less"));
  CHECK(losses_of(place / "threads") == losses_of(place / "moved"));
}

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("ranks that are processes compute on emulators of their own", "[mpi]") {
  const Workplace place;
  check_end(run_train(place, {"--ranks", "2", "training.steps=4", "device.type=emulator",
                              "job.folder=" + (place / "threads").string()}),
            0, {});
  std::vector<std::string> command = {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "2"};
  for (const auto& word : train_command(
           place, {"training.steps=4", "device.type=emulator", "job.folder=" + (place / "processes").string()}))
    command.push_back(word);
  check_end(Program(place / "log", command).wait(), 0, {});
  CHECK(losses_of(place / "threads") == losses_of(place / "processes"));
}
#endif
