// The user's commands with device.type: emulator, on ranks that are threads and on ranks that are processes.
#include <fmt/format.h>

#include <algorithm>
#include <ranges>

#include "../cli/program.h"
#include "base/dtype.h"
#include "verify/compare.h"
#include "verify/faults.h"

using namespace longhaul::testing;

namespace {

// How two ranks come to be.
struct Launcher {
  std::string name;
  std::vector<std::string> before, after;  // the program, its command and experiment
};
const Launcher threads{"threads", {}, {"--ranks", "2"}};
const Launcher sockets{"sockets", {}, {"--ranks", "2", "--transport", "sockets"}};

Ended run(const Workplace& place, const Launcher& launcher, const std::string& command,
          const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}) {
  std::vector<std::string> words = launcher.before;
  for (const auto& part : {longhaul_command({command, (place / "experiment.yaml").string()}), launcher.after,
                           std::vector<std::string>{"parallelism.sequence=2", "parallelism.zero_stage=2"}, arguments})
    words.insert(words.end(), part.begin(), part.end());
  return Program(place / "log", words, environment).wait();
}

// Of small models nothing moves by default: a value would be away for less time than it travels. As this profile
// counts, every op takes microseconds, so that it pays.
std::vector<std::string> moves_values() {
  return {"activation_memory.mode=keep", "activation_memory.offload=on", "training.dtype=bfloat16",
          "device.profile=" +
              (fs::path(longhaul::environment("LONGHAUL_SOURCE")) / "configs/clusters/h100-80gb.json").string()};
}

longhaul::Tensors losses_as_tensor(const fs::path& run) {
  std::vector<double> losses;
  for (const auto& [step, loss] : losses_of(run)) losses.push_back(loss);
  CHECK(losses.size() == 20);
  return {{"losses", losses}};
}

// Runs of 20 steps on the emulator, of ranks that are threads and of those that each launcher starts: as near to
// float64 as one rank on a CPU, by the rule of src/verify/compare.h, the same bits whoever starts the ranks and in
// whatever pieces, and on from a CPU's checkpoint and back. Then what verify says of them.
void train_and_verify(const std::vector<Launcher>& launchers) {
  const Workplace place;
  for (const std::string dtype : {"float32", "bfloat16"}) {
    INFO(dtype);
    const auto train = [&](const Launcher& launcher, const std::string& folder, int steps, const std::string& device,
                           const std::vector<std::string>& says = {}) {
      check_end(run(place, launcher, "train",
                    {"training.dtype=" + dtype, "training.steps=" + std::to_string(steps), "device.type=" + device,
                     "lr_scheduler.decay_type=constant", "checkpoint.interval=0",
                     "job.folder=" + (place / (dtype + folder)).string()}),
                0, says);
    };
    const auto one_rank = [&](const std::string& precision) {
      const fs::path folder = place / (dtype + " one rank in " + precision);
      check_end(run_train(place, {"training.dtype=" + precision, "training.steps=20", "checkpoint.interval=0",
                                  "lr_scheduler.decay_type=constant", "job.folder=" + folder.string()}),
                0, {});
      return losses_as_tensor(folder);
    };
    const longhaul::Tensors wanted = one_rank("float64"), alone = one_rank(dtype);
    const longhaul::LowPrecisionLimits limits(
        alone, wanted,
        longhaul::unit_roundoff(dtype == "float32" ? longhaul::DType::float32 : longhaul::DType::bfloat16));
    const auto check_near = [&](const std::string& folder) {
      INFO(folder);
      const double error = longhaul::tensor_errors(losses_as_tensor(place / (dtype + folder)), wanted).at("losses");
      INFO("error " << error << ", one rank's " << limits.whole());
      CHECK(error <= limits.of_tensor("losses"));
    };

    train(threads, "whole", 20, "emulator", {"a step takes ", " launches, "});
    check_near("whole");
    const auto losses = losses_of(place / (dtype + "whole"));
    for (const Launcher& launcher : launchers) {
      INFO(launcher.name);
      const std::string pieces = "pieces by " + launcher.name, mixed = "mixed by " + launcher.name;
      train(launcher, pieces, 9, "emulator");
      CHECK(std::ranges::equal(losses_of(place / (dtype + pieces)), losses | std::views::take(9)));
      train(launcher, pieces, 20, "emulator");
      CHECK(losses_of(place / (dtype + pieces)) == losses);
      CHECK(read_file(place / (dtype + pieces) / "export/model.safetensors") ==
            read_file(place / (dtype + "whole") / "export/model.safetensors"));
      train(launcher, mixed, 8, "cpu");
      train(launcher, mixed, 12, "emulator",
            {"device.type emulator (was cpu)", "another device rounds otherwise from here on"});
      train(launcher, mixed, 20, "cpu");
      check_near(mixed);
    }
    CHECK_THAT(read_file(place / (dtype + "whole") / "matmul.json"), Catch::Contains("loops of the emulator"));
  }
  for (const Launcher& launcher : launchers) {
    INFO(launcher.name);
    const auto verify = [&](std::vector<std::string> more, int code, const std::vector<std::string>& says,
                            const std::vector<std::string>& environment = {}) {
      more.push_back("device.type=emulator");
      check_end(run(place, launcher, "verify", more, environment), code, says);
    };
    verify({"training.dtype=bfloat16"}, 0, {"\nverified: "}, {"LONGHAUL_CHECK_OPS=1"});
    verify({"--fault", "averaged_gradient"}, 1, {"the fault averaged_gradient is planted", "\nNOT verified: "});
  }
}

}  // namespace

TEST_CASE(
    "on the emulator 20 steps are those of a CPU within the rule and the same bits every time, in pieces and on "
    "CPUs in between; verify sees planted faults",
    "[threads]") {
  train_and_verify({threads, sockets});
}

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("the same under mpirun", "[mpi]") {
  train_and_verify({{"mpirun", {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "2"}, {}}});
}
#endif

TEST_CASE("every planted fault is seen on the emulator", "[threads]") {
  const Workplace place;
  place.model("one.json", {{"num_key_value_heads", 1}});
  place.model("window.json", {{"model_type", "mistral"}, {"sliding_window", 5}});
  std::string documents;
  for (const int size : {7, 12, 3, 10, 9, 14, 6, 11, 5, 13, 8, 5}) {
    const std::string name = fmt::format("document{}.txt", documents.size());
    write_file(place / name, std::string(static_cast<std::size_t>(size), 'a'));
    documents += (documents.empty() ? "" : ", ") + (place / name).string();
  }
  // What a fault needs to have a place.
  const std::vector<std::string> moved = moves_values();
  const std::map<std::string, std::vector<std::string>> keys = {
      {"exchanged_moments", {"training.dtype=bfloat16", "optimizer.state_dtype=bfloat16", "parallelism.zero_stage=1"}},
      {"kv_gradient", {"model.config=" + (place / "one.json").string()}},
      {"unclipped", {"training.max_norm=1e-3"}},
      {"expand_ring", {"parallelism.sequence={ring: 2}"}},
      {"expand_window", {"parallelism.sequence={ring: 2}", "model.config=" + (place / "window.json").string()}},
      {"offload", moved},
      {"host_buffer", moved},
      {"overlap",
       {"parallelism.zero_stage=3", "parallelism.keep_gathered=backward", "parallelism.overlap=on",
        "device.collectives=nccl"}},
      {"chunk_heads", {"activation_memory.mode=recompute"}},
      {"keep_gathered",
       {"parallelism.zero_stage=3", "parallelism.keep_gathered=step", "training.global_batch_size=12"}},
      {"groups_apart", {"parallelism.data=2", "parallelism.shard_group=2"}},
      {"counted_padding", {"training.seq_len=15"}},
      {"document_boundary", {"data.files=[" + documents + "]", "data.packing.mode=documents"}},
  };
  for (const longhaul::Fault& fault : longhaul::faults()) {
    const std::string name(fault.name);
    if (name == "tile_mlp") continue;         // has a place where a rank has 3072 rows and more
    if (name.starts_with("muon_")) continue;  // of parameters alone, which low precisions do not compare
    INFO(name);
    std::vector<std::string> arguments = {"--fault", name, "device.type=emulator"};
    if (const auto own = keys.find(name); own != keys.end())
      arguments.insert(arguments.end(), own->second.begin(), own->second.end());
    const Launcher four{"four", {}, {"--ranks", "4"}};
    check_end(run(place, name == "groups_apart" ? four : threads, "verify", arguments), 1,
              {"the fault " + name + " is planted", "\nNOT verified: "});
  }
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
  const auto with_muon = [](std::vector<std::string> more) {
    more.insert(more.end(), {"device.type=emulator", "training.dtype=bfloat16", "optimizer.name=muon",
                             "optimizer.state_dtype=bfloat16"});
    return more;
  };
  const auto train = [&](const std::string& folder, const std::vector<std::string>& more,
                         const Launcher& launcher = threads) {
    std::vector<std::string> arguments = with_muon(more);
    arguments.insert(arguments.end(), {"training.steps=3", "job.folder=" + (place / folder).string()});
    check_end(run(place, launcher, "train", arguments), 0, {});
  };
  train("threads", {});
  train("processes", {}, sockets);
  CHECK(losses_of(place / "threads") == losses_of(place / "processes"));
  CHECK(read_file(place / "threads/export/model.safetensors") ==
        read_file(place / "processes/export/model.safetensors"));
  // Made again, moved to pinned memory and back: the same bits.
  train("less", {"activation_memory.mode=recompute"});
  train("moved", moves_values());
  check_end(run(place, threads, "compile", with_muon(moves_values())), 0, {"moved to host memory: "});
  CHECK(losses_of(place / "threads") == losses_of(place / "less"));
  CHECK(losses_of(place / "threads") == losses_of(place / "moved"));
}
