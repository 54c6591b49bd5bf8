// The algorithms of matrix products belong to the run: chosen once for all ranks, kept as text, taken again.
#include "runtime/device/products.h"

#include <catch2/catch.hpp>

#include "../proof/matrix.h"
#include "comm/exchange.h"
#include "emulated.h"
#include "runtime/cpu/target.h"

namespace longhaul {
namespace {

using namespace testing;

struct Trained {
  std::string summary, text, second_text;  // of rank 0; text of rank 1
  std::vector<double> losses;              // and norms
};

Trained train(const std::string& decided) {
  Cell cell{.spec = small_llama(), .data = 2, .zero_stage = 3, .micro_batches = 2, .rows = 2, .dtype = DType::bfloat16};
  cell.device = emulated;
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  Trained trained;
  run_threads(cell.world(), [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    target->set_library_policy({}, cell.dtype, "training.matmul");
    if (world.rank() == 0) trained.summary = target->choose_libraries(model.all(), decided);
    target->set_libraries(broadcast_text(world, target->libraries()));
    (world.rank() == 0 ? trained.text : trained.second_text) = target->libraries();
    Session session(world, *target, request, model);
    session.set_parameters(random_parameters(cell.spec, 11));
    for (int step = 1; step <= 2; ++step) {
      const StepResult result = session.step(step, 1e-2, cell.micro_batches, [&](std::int64_t i) {
        fill_slice(session,
                   make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                   cell.sequence);
      });
      if (world.rank() == 0) trained.losses.insert(trained.losses.end(), {result.loss, result.grad_norm});
    }
    return 0;
  });
  return trained;
}

}  // namespace

TEST_CASE("a run keeps the algorithms of its matrix products, whatever the library prefers later", "[threads]") {
  const Trained plain = train("");
  CHECK_THAT(plain.text, Catch::Contains("ORDER=0") && !Catch::Contains("ORDER=1"));
  CHECK(plain.second_text == plain.text);
  CHECK_THAT(plain.summary, Catch::Contains("matrix products: ") && Catch::Contains(" by loops of the emulator"));

  const Trained other = [] {
    const ProductOrder second("ORDER=1");
    return train("");
  }();
  CHECK_THAT(other.text, Catch::Contains("ORDER=1") && !Catch::Contains("ORDER=0"));
  CHECK(other.losses != plain.losses);

  // Every product of the run is among them: none is asked for as the library likes it now.
  const Trained resumed = train(other.text);
  CHECK(resumed.text == other.text);
  CHECK(resumed.losses == other.losses);
  CHECK(resumed.summary == other.summary);
}

TEST_CASE("algorithms of another library, or for another device, are chosen anew, and that is said", "[threads]") {
  const Trained plain = train("");
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"loops of the emulator", "cuBLASLt 13.1.0"}, {"ORDER=0", "ID=66 TILE=20"}}) {
    std::string text = plain.text;
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos;) text.replace(at, from.size(), to);
    const Trained resumed = train(text);
    CHECK(resumed.text == plain.text);
    CHECK_THAT(resumed.summary, Catch::Contains("had another algorithm in the checkpoint (") &&
                                    Catch::Contains("the run goes on with other roundings"));
  }
  // What CPU ranks decided names libraries of theirs, and stays for when the run is back on them; and the other way.
  const Trained from_cpu = train(R"({"64x64x64 bfloat16": "onednn"})");
  CHECK(from_cpu.summary == plain.summary);
  CHECK_THAT(from_cpu.text, Catch::Contains(R"("64x64x64 bfloat16": "onednn")") && Catch::Contains("ORDER=0"));
  CHECK(from_cpu.second_text == from_cpu.text);
  CpuTarget cpu, second;
  for (CpuTarget* target : {&cpu, &second}) target->set_library_policy({}, DType::float32, "training.matmul");
  cpu.choose_libraries({}, from_cpu.text);
  CHECK(cpu.libraries() == from_cpu.text);
  second.set_libraries(cpu.libraries());
  CHECK(second.libraries() == from_cpu.text);
}

TEST_CASE("what cannot be read or made of a decision about products is refused") {
  const Device unused(cuda::Backend::emulator);
  ProductPlans none(unused);
  for (const char* text : {"[1]", R"({"device": 1})", R"({"device": {"model": "a", "library": "b"}})",
                           R"({"device": {"model": "a", "library": "b", "products": {"c": 1}}})"}) {
    INFO(text);
    CHECK_THROWS_WITH(none.decide(text), Catch::Contains("garbled"));
  }

  Device device(cuda::Backend::emulator);
  device.select(0);
  ProductPlans plans(device);
  cuda::Matmul product{};
  product.m = product.n = product.k = product.a_stride = product.b_stride = product.c_stride = 8;
  product.type = product.out_type = cuda::Type::float32;
  const auto plan = plans.add(product, 16);
  CHECK(plans.add(product, 16) == plan);
  CHECK(plans.add(product, 4) != plan);
  CHECK(plans.text() == "{}");
  plans.choose("");
  const std::string text = plans.text();
  plans.decide(text);
  plans.make();

  std::string elsewhere = text;
  elsewhere.replace(elsewhere.find("loops"), 5, "knots");
  plans.decide(elsewhere);
  CHECK_THROWS_WITH(plans.make(), Catch::Contains("knots of the emulator") && Catch::Contains("one version"));
  std::string unknown = text;
  unknown.replace(unknown.find("ORDER=0"), 7, "ORDER=7");
  plans.decide(unknown);
  CHECK_THROWS_WITH(plans.make(), Catch::Contains("8x8x8") && Catch::Contains("ORDER=7"));
}

}  // namespace longhaul
