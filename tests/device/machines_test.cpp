// Machines of which the emulator is one: without a device, with fewer than ranks, of two models, too old, with too
// little memory. Programs are planned for any; what cannot run is refused, with what there is.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>

#include "../cli/program.h"
#include "../proof/matrix.h"
#include "emulated.h"

namespace longhaul {
namespace {

using namespace testing;

const cuda::Api& emulator() {
  return cuda::require_backend(cuda::Backend::emulator);
}

// What the functions below say of the machine.
struct Machine {
  std::vector<cuda::DeviceInfo> devices;
  std::string words = "";  // of calls that fail
  std::size_t memory = SIZE_MAX, pinned = SIZE_MAX;
  bool shows_own = false;  // each thread, which stands for a process, is shown one of its own, whose number is 0
} machine;
thread_local std::size_t selected = 0;
// Which one of its own a thread is shown.
std::int32_t own_device() {
  static std::atomic<std::int32_t> next{0};
  thread_local const std::int32_t own = next++;
  return own;
}

const cuda::Api& of_machine() {
  static const cuda::Api api = [] {
    cuda::Api made = emulator();
    made.name = "cuda";
    made.last_error = [] { return machine.words.c_str(); };
    made.device_count = [](std::int32_t* count) {
      *count = static_cast<std::int32_t>(machine.devices.size());
      return machine.devices.empty() && !machine.words.empty() ? 1 : 0;
    };
    made.device_select = [](std::int32_t number) {
      selected = static_cast<std::size_t>(number);
      return emulator().device_select(machine.shows_own ? own_device() % 64 : number);
    };
    made.device_info = [](cuda::DeviceInfo* info) {
      *info = machine.devices.at(selected);
      std::snprintf(info->uuid, sizeof info->uuid, "%d", machine.shows_own ? own_device() : static_cast<int>(selected));
      return 0;
    };
    made.allocate = [](void** pointer, std::size_t bytes) {
      return bytes > machine.memory ? 1 : emulator().allocate(pointer, bytes);
    };
    made.allocate_host = [](void** pointer, std::size_t bytes) {
      return bytes > machine.pinned ? 1 : emulator().allocate_host(pointer, bytes);
    };
    return made;
  }();
  return api;
}

cuda::DeviceInfo device(const char* name, int major, int minor) {
  cuda::DeviceInfo info{};
  std::strncpy(info.name, name, sizeof info.name - 1);
  info.capability_major = major, info.capability_minor = minor, info.multiprocessors = 108;
  info.shared_bytes_per_block = 163 << 10;
  return info;
}

std::unique_ptr<Target> on_machine(int threads) {
  selected = 0;
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads}, cuda::Backend::cuda, of_machine());
}

Cell cell(int ranks) {
  Cell cell{.spec = small_llama(), .sequence_ranks = ranks, .dtype = DType::bfloat16, .device = on_machine};
  cell.spec.layers = {{1, small_layer(4, 2, 64, 24)}};
  return cell;
}

std::string attention_kernel(const CompiledModel& model) {
  const std::unique_ptr<Target> target = on_machine(1);
  for (const longhaul::Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (op.is("attention")) return static_cast<DeviceTarget&>(*target).kernels().get(program->graph, op)->name;
  return "";
}

std::string refusal(const Cell& of) {
  std::string problem;
  try {
    run_ranks(of, problem);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("programs are planned without a device, for sm_90; a run and a measurement are refused, with the reason",
          "[threads]") {
  for (const std::string words : {"", "CUDA driver version is insufficient"}) {
    machine = {.devices = {}, .words = words};
    const CompiledModel planned = compile_model(request_for(cell(2)));
    CHECK(planned.arena_bytes > std::int64_t{32} << 20);  // with the workspace of products
    CHECK(attention_kernel(planned) == "hopper");
    const std::string says = "device.type is cuda, and there is no device: " + (words.empty() ? "none found" : words) +
                             "; `longhaul compile` needs none, device.type cpu runs anywhere";
    CHECK_THAT(refusal(cell(2)), Catch::Contains(says));
    CHECK_THROWS_WITH(on_machine(1)->peak_flops(DType::bfloat16), says);
  }
  machine = {.devices = {device("A100", 8, 0)}};
  CHECK(attention_kernel(compile_model(request_for(cell(2)))) == "portable");
}

TEST_CASE("a rank without a device of its own, of another model or of an old one is refused", "[threads]") {
  machine = {.devices = {device("A100", 8, 0)}};
  CHECK_THAT(refusal(cell(2)),
             Catch::Contains("rank wants device 1 of this machine, on which it sees 1: start at most one"));
  machine.shows_own = true;  // as srun --gpus-per-task=1 does
  CHECK(refusal(cell(2)) == "accepted");
  machine = {.devices = {device("A100", 8, 0), device("H100", 9, 0)}};
  CHECK_THAT(refusal(cell(2)), Catch::Contains("device 1 is H100, device 0 A100: kernels are chosen for one model"));
  machine = {.devices = {device("T4", 7, 5)}};
  CHECK_THAT(refusal(cell(1)),
             Catch::Contains("device 0 (T4) has compute capability 7.5; the kernels need 8.0 or later"));
  machine = {.devices = {device("A100", 8, 0)}};
  CHECK(refusal(cell(1)) == "accepted");
}

TEST_CASE("a device that cannot give what was planned is refused with the bytes") {
  machine = {.devices = {device("A100", 8, 0)}, .words = "out of memory"};
  const Cell one = cell(1);
  const std::int64_t planned = compile_model(request_for(one)).arena_bytes;
  machine.memory = static_cast<std::size_t>(planned - 1);
  CHECK_THAT(refusal(one),
             Catch::Contains(fmt::format("cuda device 0 cannot give {} bytes of its memory for the tensors of this "
                                         "rank (",
                                         planned)) &&
                 Catch::Contains(" are free): out of memory. `longhaul compile` prints what needs them."));
  machine.memory = static_cast<std::size_t>(planned);
  CHECK(refusal(one) == "accepted");
  machine.pinned = 1000;
  CHECK_THAT(refusal(one), Catch::Contains("bytes of pinned host memory"));
}

TEST_CASE("longhaul compile plans for cuda where there is no GPU, and train says that there is none") {
  const std::filesystem::path library =
      std::filesystem::path(environment("LONGHAUL_BINARY")).parent_path() / "kernels/cuda/liblonghaul_cuda.so";
  if (!std::filesystem::exists(library)) {
    WARN("not run: built without " << library);
    return;
  }
  const Workplace place;
  const auto run = [&](std::vector<std::string> command) {
    command.insert(command.begin() + 1, (place / "experiment.yaml").string());
    command.insert(command.end(),
                   {"--ranks", "2", "device.type=cuda", "parallelism.sequence=2", "training.dtype=bfloat16"});
    return testing::Program(place / "log", longhaul_command(command)).wait();
  };
  check_end(run({"compile"}), 0, {"memory", "device.type cuda: ", "; messages between devices travel "});
  check_end(run({"compile", "--ranks-per-host", "1", "device.collectives=push"}), 1,
            {"device.collectives is push", "of 2 ranks 1 in a row share one", "nccl or staged"});
  std::string none;
  const cuda::Api* const api = cuda::open_backend(cuda::Backend::cuda, none);
  std::int32_t devices = 0;
  if (api && api->device_count(&devices) == 0 && devices > 0) return;
  check_end(run({"compile"}), 0, {"no device here; planned for sm_90", "device.memory auto: no device is here"});
  check_end(run({"train"}), 1, {"device.type is cuda, and there is no device: "});
}

}  // namespace longhaul
