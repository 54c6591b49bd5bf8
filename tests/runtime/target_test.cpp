// A session runs on any target: the same bits on one whose buffers are somewhere else.
#include "runtime/target.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <mutex>
#include <sstream>

#include "comm/launch.h"
#include "elsewhere.h"
#include "kernels/cpu/matmul_libraries.h"
#include "run/checkpoint_saver.h"
#include "run/checkpointing.h"
#include "run/weights.h"
#include "tests/io/temporary.h"
#include "tests/train/ranks.h"

namespace longhaul {
namespace {

using namespace testing;

Cell cell_of(DType dtype) {
  return {.spec = small_gpt2(), .data = 2, .zero_stage = 3, .micro_batches = 2, .rows = 2, .dtype = dtype};
}

std::string file_text(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

// All bytes that this rank holds of its state.
std::string state_bytes(Session& session) {
  std::string all;
  std::vector<std::byte> room;
  for (const auto& tensor : session.state()) {
    const auto bytes = session.elements(tensor, tensor.begin, tensor.end, room);
    all += tensor.name + " " + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

struct Run {
  StepResult first, second;
  std::string state;                  // of rank 0, and the export
  std::map<std::string, int> writes;  // of rank 0's executor, where it counts them
};

// A step, a checkpoint, another step; then, in a new session, the checkpoint and the second step again.
Run train_on(const std::function<std::unique_ptr<Target>()>& make, DType dtype, const std::string& folder) {
  const Cell cell = cell_of(dtype);
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  Run run;
  run_threads(cell.world(), [&](Communicator& world) {
    const std::unique_ptr<Target> target = make();
    Session session(world, *target, request, model);
    session.set_parameters(random_parameters(cell.spec, 11));
    const auto fill = [&](Session& into, int step) {
      return [&cell, &into, step](std::int64_t i) {
        fill_slice(into, make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                   cell.sequence);
      };
    };
    const StepResult first = session.step(1, 1e-2, cell.micro_batches, fill(session, 1));
    CheckpointStore store(folder + "/checkpoints", 1);
    TrainerState state;
    state.step = 1;
    state.experiment = state.model = state.libraries = "{}";
    LONGHAUL_CHECK(save_checkpoint(session, store, state).empty(), "the save failed");
    const StepResult second = session.step(2, 1e-2, cell.micro_batches, fill(session, 2));
    const std::string bytes = state_bytes(session);
    export_model(session, cell.spec, folder + "/export", {.family = "", .source_config = "", .dtype = {}, .step = 2});

    Session resumed(world, *target, request, model);
    LONGHAUL_CHECK(load_checkpoint(resumed, Checkpoint(folder + "/checkpoints/step-00000001")).step == 1, "the step");
    const StepResult again = resumed.step(2, 1e-2, cell.micro_batches, fill(resumed, 2));
    LONGHAUL_CHECK(again.loss == second.loss && state_bytes(resumed) == bytes, "a resumed run differs");
    if (world.rank() != 0) return 0;
    run.first = first;
    run.second = second;
    run.state = bytes + file_text(folder + "/export/model.safetensors");
    if (const auto* elsewhere = dynamic_cast<const ElsewhereExecutor*>(&session.executor()))
      run.writes = elsewhere->writes;
    return 0;
  });
  return run;
}

}  // namespace

TEST_CASE("a session runs, saves, loads and exports on a target whose buffers the host does not see", "[threads]") {
  for (const DType dtype : {DType::float64, DType::bfloat16}) {
    INFO(name_of(dtype));
    const longhaul_test::TemporaryFolder here, there;
    const Run cpu = train_on([] { return std::make_unique<CpuTarget>(); }, dtype, here / "run");
    const Run elsewhere = train_on([] { return std::make_unique<ElsewhereTarget>(); }, dtype, there / "run");
    CHECK(cpu.first.loss == elsewhere.first.loss);
    CHECK(cpu.second.loss == elsewhere.second.loss);
    CHECK(cpu.second.grad_norm == elsewhere.second.grad_norm);
    CHECK(cpu.state == elsewhere.state);
    // Two micro-batches a step are loaded to count and again to train; each field of each goes to the target once.
    for (const BatchField& field : batch_fields) CHECK(elsewhere.writes.at(std::string(field.name)) == 8);
  }
}

TEST_CASE("parameters larger than a piece reach a target that takes copies") {
  TransformerSpec spec = small_llama();
  spec.vocabulary = 70'001;  // of a hidden size of 16: more than the 2^20 elements that are moved at once
  CompileRequest request;
  request.scratch = cpu_scratch_bytes();
  request.spec = spec;
  request.options = options_for(spec, DType::bfloat16, 0);
  request.kinds = {ProgramKind::update};
  const CompiledModel model = compile_model(request);
  std::vector<std::string> states;
  run_threads(1, [&](Communicator& world) {
    CpuTarget cpu;
    ElsewhereTarget elsewhere;
    for (Target* target : std::initializer_list<Target*>{&cpu, &elsewhere}) {
      Session session(world, *target, request, model);
      session.set_parameters(random_parameters(spec, 5));
      states.push_back(state_bytes(session));
    }
    return 0;
  });
  CHECK(states[0].size() > 70'001 * 16 * 4);
  CHECK(states[0] == states[1]);
}

TEST_CASE("buffers are read and written within their bytes, state within what the rank holds") {
  const Cell cell = cell_of(DType::float64);
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(cell.world(), [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    static std::mutex mutex;  // checks are no matter for several threads
    const std::lock_guard lock(mutex);
    Executor& executor = session.executor();
    std::vector<std::byte> bytes(executor.host_view("tokens").size() + 1);
    CHECK_THROWS_AS(executor.read("tokens", 0, bytes), std::logic_error);
    CHECK_THROWS_AS(executor.write("tokens", 1, std::span(bytes).first(bytes.size() - 1)), std::logic_error);
    CHECK_THROWS_AS(executor.zero("token"), std::logic_error);
    executor.set_scalar("learning_rate", 0.25);
    CHECK(executor.scalar("learning_rate") == 0.25);
    executor.zero("learning_rate");
    CHECK(executor.scalar("learning_rate") == 0);

    const StateTensor& tensor = session.state("embedding.tokens");
    REQUIRE(tensor.elements() < element_count(tensor.shape));
    const std::vector<double> two = {3, 4};
    session.write(tensor, tensor.end - 2, std::as_bytes(std::span(two)));
    double last = 0;
    session.read(tensor, tensor.end - 1, std::as_writable_bytes(std::span(&last, 1)));
    CHECK(last == 4);
    CHECK_THROWS_AS(session.write(tensor, tensor.end - 1, std::as_bytes(std::span(two))), std::logic_error);
    CHECK_THROWS_AS(session.read(tensor, tensor.begin - 1, std::as_writable_bytes(std::span(&last, 1))),
                    std::logic_error);
    return 0;
  });
}

TEST_CASE("a kernel is chosen once: planning, the libraries and executors ask one cache") {
  const Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float32};
  run_threads(1, [&](Communicator& world) {
    CpuTarget cpu;
    CompileRequest request = request_for(cell);
    request.scratch = [&](const Graph& graph, const Op& op) { return cpu.scratch_bytes(graph, op); };
    const CompiledModel model = compile_model(request);
    const std::int64_t planned = cpu.kernels().chosen();
    CHECK(planned > 10);
    compile_model(request);
    { const Session session(world, cpu, request, model); }
    CHECK(cpu.kernels().chosen() == planned);

    // Products once more, when who computes them has been settled; nothing else, and then never again.
    cpu.set_library_policy({}, DType::float32, "training.matmul");
    const std::string line = cpu.choose_libraries(model.all(), "");
    CHECK(line.starts_with("matrix products: "));
    const std::int64_t settled = cpu.kernels().chosen();
    CHECK(settled > planned);
    CHECK(settled < 2 * planned);
    cpu.set_libraries(cpu.libraries());
    { const Session session(world, cpu, request, model); }
    compile_model(request);
    CHECK(cpu.kernels().chosen() == settled);
    return 0;
  });
}

TEST_CASE("ranks do not share a target") {
  const Cell cell = cell_of(DType::float64);
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  CpuTarget shared;
  CHECK_THROWS_WITH(run_threads(cell.world(),
                                [&](Communicator& world) {
                                  Session session(world, shared, request, model);
                                  return 0;
                                }),
                    Catch::Contains("a target serves one rank"));
}

TEST_CASE("a target takes the libraries that another rank chose") {
  const Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float32};
  const CompiledModel model = compile_model(request_for(cell));
  CpuTarget first, second;
  first.set_library_policy({.only = "reference"}, DType::float32, "training.matmul");
  first.choose_libraries(model.all(), "");
  second.set_library_policy({}, DType::float32, "training.matmul");
  second.set_libraries(first.libraries());
  CHECK(second.libraries() == first.libraries());
  CHECK(second.libraries().find("reference") != std::string::npos);
  int products = 0;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (op.is("einsum")) {
        CHECK(second.kernels().get(program->graph, op)->name == "reference");
        ++products;
      }
  CHECK(products > 0);
  // What was decided stays, unless the policy says otherwise.
  CpuTarget third;
  third.set_library_policy({}, DType::float32, "training.matmul");
  third.choose_libraries(model.all(), first.libraries());
  CHECK(third.libraries() == first.libraries());
  CHECK_THROWS_WITH(third.choose_libraries(model.all(), "[1]"), Catch::Contains("garbled"));
  CHECK_THROWS_WITH(third.set_library_policy({.only = "onednn"}, DType::float64, "training.matmul"),
                    Catch::Contains("training.matmul is onednn, which multiplies no float64 matrices"));
}

}  // namespace longhaul
