// AdamW with moments in 8 bits: torchao's steps, the same bits under every split and stage, bytes, resumes, refusals.
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "comm/launch.h"
#include "io/checkpoint.h"
#include "kernels/cpu/adamw_8bit.h"
#include "kernels/cpu/dynamic_map.h"
#include "kernels/cpu/thread_pool.h"
#include "ranks.h"
#include "small_experiment.h"
#include "tokenizer/normalizer.h"
#include "train/trainer.h"
#include "verify/verify.h"

namespace longhaul {
namespace {

using namespace testing;
using Catch::Contains;
namespace fs = std::filesystem;

// Its embedding and head have 29 x 159 elements: 19 blocks, the last one of 3 elements; its MLP's matrices 24 x 159,
// too few for 8 bits.
TransformerSpec model() {
  TransformerSpec spec = small_llama();
  spec.initializer_range =
      0.05;  // its rows are long: with larger weights attention is decided, and gradients are noise
  spec.hidden_size = 159;
  return spec;
}

template <typename T>
std::vector<T> array(const nlohmann::json& text) {
  std::string bytes;
  REQUIRE(decode_base64(text.get<std::string>(), bytes));
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// What the update leaves of gradients that are the same numbers whatever the split: the bytes of all state, whole.
std::map<std::string, std::vector<double>> after_updates(const Cell& cell) {
  CompileRequest request = request_for(cell);
  request.options.precision.moment = DType::uint8;
  request.options.meaning.optimizer.max_norm = 0;
  const CompiledModel compiled = compile_model(request);
  std::map<std::string, std::vector<double>> state;
  run_threads(cell.world(), [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    Session session(world, *target, request, compiled);
    session.set_parameters(random_parameters(cell.spec, 11));
    for (int step = 1; step <= 3; ++step) {
      for (const auto& tensor : session.state())
        if (tensor.key.role == Role::gradient)
          session.fill_elements(tensor, [&](std::int64_t begin, std::int64_t end, void* to) {
            for (std::int64_t i = begin; i < end; ++i)
              static_cast<float*>(to)[i - begin] =
                  std::ldexp(static_cast<float>((i * 7919 + step * 31) % 2003 - 1001), -10 - static_cast<int>(i % 9));
          });
      session.update(step, 1e-2);
    }
    for (const auto& tensor : session.state()) {
      if (tensor.key.role != Role::parameter && !is_moment(tensor.key.role)) continue;
      auto values = session.gather(tensor);
      if (world.rank() == 0) state[tensor.name] = std::move(values);
    }
    return 0;
  });
  return state;
}

}  // namespace

TEST_CASE("moments in 8 bits take torchao's steps", "[golden]") {
  std::ifstream file(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/optimizers/moments_8bit.json");
  const auto data = nlohmann::json::parse(file);
  for (const bool is_signed : {true, false}) {
    const auto map = data.at(is_signed ? "signed_map" : "unsigned_map").get<std::vector<double>>();
    for (int code = 0; code < 256; ++code)
      REQUIRE(cpu::DynamicMap::of(is_signed)[static_cast<std::uint8_t>(code)] ==
              Approx(map.at(static_cast<std::size_t>(code))).epsilon(1e-6));
  }
  const auto wanted = array<float>(data.at("parameter"));
  const auto first = array<std::uint8_t>(data.at("first_codes")), second = array<std::uint8_t>(data.at("second_codes"));
  const auto first_scales = array<float>(data.at("first_scales")),
             second_scales = array<float>(data.at("second_scales"));
  const auto count = static_cast<std::int64_t>(wanted.size());
  REQUIRE(count == 4096);
  const double coefficient = 1, rate = data.at("learning_rate");
  ThreadPool pool(2);
  for (const bool fast : {false, true}) {
    INFO((fast ? "fast" : "reference"));
    std::vector<float> parameter, m_scales(16), v_scales(16), gradient(4096);
    std::vector<std::uint8_t> m(4096), v(4096);
    for (std::int64_t i = 0; i < count; ++i) parameter.push_back(static_cast<float>(i * 7919 % 2001 - 1000) / 1024);
    for (std::int64_t step = 1; step <= data.at("steps").get<std::int64_t>(); ++step) {
      for (std::int64_t i = 0; i < count; ++i)
        gradient[static_cast<std::size_t>(i)] = std::ldexp(static_cast<float>((i * 104729 + step * 7907) % 2003 - 1001),
                                                           -10 - static_cast<int>((i * 31 + step) % 12));
      const auto number = static_cast<double>(step);
      cpu::AdamW8Bit p{};
      p.step = {.type = DType::float32,
                .parameter = parameter.data(),
                .m = nullptr,
                .v = nullptr,
                .gradient_type = DType::float32,
                .gradient = gradient.data(),
                .count = count,
                .coefficient = &coefficient,
                .learning_rate = &rate,
                .step = &number,
                .beta1 = 0.9,
                .beta2 = 0.95,
                .epsilon = 1e-8,
                .weight_decay = 0.1};
      p.m_codes = m.data();
      p.v_codes = v.data();
      p.m_scales = m_scales.data();
      p.v_scales = v_scales.data();
      fast ? cpu::adamw_8bit(pool, p) : cpu::reference::adamw_8bit(p);
    }
    int flipped = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      // A number near the middle of two of the map may become either, where sums are rounded in another order; the
      // parameter follows from the next step on.
      const float off = std::abs(parameter[i] - wanted[i]) / (1 + std::abs(wanted[i]));
      flipped += m[i] != first[i] || v[i] != second[i] || !(off <= 2e-6F);
      REQUIRE(std::abs(m[i] - first[i]) <= 1);
      REQUIRE(std::abs(v[i] - second[i]) <= 1);
      REQUIRE(off <= 1e-2F);
    }
    CHECK(flipped <= 8);
    for (std::size_t block = 0; block < 16; ++block) {
      REQUIRE(m_scales[block] == Approx(first_scales[block]).epsilon(1e-5));
      REQUIRE(v_scales[block] == Approx(second_scales[block]).epsilon(1e-5));
    }
  }
}

TEST_CASE("moments in 8 bits are the same bits under every split and stage", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const Cell one{.spec = model(), .rows = 12, .dtype = dtype};
    const auto wanted = after_updates(one);
    REQUIRE(wanted.contains("first_scale.head.weight"));
    CHECK(wanted.at("first_scale.head.weight").size() == 19);
    CHECK_FALSE(wanted.contains("first_scale.final_norm.weight"));
    for (const auto& [data, ulysses, ring, stage, group] : {std::tuple{2, 1, 1, 0, 0},
                                                            {2, 1, 1, 1, 0},
                                                            {3, 1, 1, 2, 0},
                                                            {4, 1, 1, 3, 0},
                                                            {1, 2, 1, 3, 0},
                                                            {1, 1, 2, 2, 0},
                                                            {4, 1, 1, 3, 2}}) {
      Cell cell = one;
      cell.data = data;
      cell.sequence_ranks = ulysses;
      cell.ring = ring;
      cell.zero_stage = stage;
      cell.shard_group = group;
      const auto found = after_updates(cell);
      REQUIRE(found.size() == wanted.size());
      for (const auto& [name, values] : wanted) {
        INFO(cell.text() << ": " << name);
        CHECK((found.at(name) == values));
      }
    }
  }
}

TEST_CASE("moments in 8 bits take a byte an element and a float32 a block, on shards of whole blocks") {
  for (const int ranks : {1, 2, 4})
    for (const int stage : {0, 1, 2, 3}) {
      const Cell cell{.spec = model(), .data = ranks, .zero_stage = stage, .rows = 4, .dtype = DType::bfloat16};
      INFO(cell.text());
      CompileRequest request = request_for(cell);
      request.options.precision.moment = DType::uint8;
      const CompiledModel compiled = compile_model(request);
      std::int64_t bytes = 0, wanted = 0, masters = 0, wanted_masters = 0;
      for (const auto& [name, slot] : compiled.named.slots) {
        if (slot.category == MemoryCategory::optimizer) bytes += slot.bytes;
        if (slot.state && slot.state->role == Role::parameter) masters += slot.bytes;
      }
      const std::int64_t shards = stage >= 1 ? ranks : 1;
      const auto line = [](std::int64_t n) { return (n + 63) / 64 * 64; };  // buffers begin at cache lines
      for (const Parameter& one : parameters(cell.spec)) {
        std::int64_t held = (one.elements() + shards - 1) / shards;
        if (one.elements() < 4096) {
          wanted += 2 * line(4 * held);
        } else {
          const std::int64_t blocks = ((one.elements() + 255) / 256 + shards - 1) / shards;
          if (shards > 1) held = 256 * blocks;
          wanted += 2 * (line(held) + line(4 * blocks));
        }
        wanted_masters += line(4 * held);
      }
      CHECK(bytes == wanted);
      CHECK(masters == wanted_masters);
    }
}

TEST_CASE("runs with moments in 8 bits verify, resume with the same bits, and go on on other ranks",
          "[threads][numbers]") {
  const SmallExperiment small(model());
  const fs::path run = small.folder() / "run";
  const auto load = [&](std::vector<std::string> more) {
    for (const char* key : {"training.dtype=bfloat16", "optimizer.state_dtype=8bit", "training.global_batch_size=4",
                            "training.micro_batch_size=1", "lr_scheduler.decay_type=constant"})
      more.insert(more.begin(), key);
    more.push_back("job.folder=" + run.string());
    return small.load(more);
  };
  const auto outcome = [&](const Experiment& experiment, int ranks) -> std::string {
    try {
      run_threads(ranks, [&](Communicator& world) { return train(world, experiment); });
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  const auto weights = [&] {
    std::ifstream stream(run / "export/model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  for (const char* split : {"parallelism.sequence={ring: 2}", "parallelism.zero_stage=3"}) {
    VerificationReport report;
    run_threads(2, [&](Communicator& world) {
      VerificationReport mine = verify_run(world, load({split}), {});
      if (world.rank() == 0) report = std::move(mine);
      return 0;
    });
    INFO(report.text());
    CHECK_FALSE(report.differs);
  }
  REQUIRE(outcome(load({"training.steps=4"}), 1) == "");
  const std::string whole = weights();
  fs::remove_all(run);
  REQUIRE(outcome(load({"training.steps=2"}), 1) == "");
  {
    const Checkpoint checkpoint((run / "checkpoints/step-00000002").string());
    CHECK(checkpoint.tensors().at("first_moment.head.weight").dtype == DType::uint8);
    CHECK(checkpoint.tensors().at("second_scale.head.weight").shape == std::vector<std::int64_t>{160});
    CHECK(checkpoint.tensors().at("first_moment.final_norm.weight").dtype == DType::float32);
  }
  REQUIRE(outcome(load({"training.steps=4"}), 1) == "");
  CHECK(weights() == whole);
  CHECK(outcome(load({"training.steps=5", "parallelism.zero_stage=3"}), 2) == "");
  CHECK(outcome(load({"training.steps=6", "parallelism.zero_stage=1"}), 4) == "");
  CHECK(outcome(load({"training.steps=7"}), 1) == "");
  CHECK_THAT(outcome(load({"training.steps=8", "optimizer.state_dtype=float32"}), 1),
             Contains("moments are uint8 (8bit) there and float32 by optimizer.state_dtype"));
}

TEST_CASE("moments in 8 bits are refused where nothing computes them") {
  const SmallExperiment small(small_llama());
  const auto refusal = [&](std::vector<std::string> keys) -> std::string {
    keys.insert(keys.begin(), "optimizer.state_dtype=8bit");
    try {
      small.load(keys);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal({}), Contains("optimizer.state_dtype is 8bit while training.dtype is float64"));
  for (const char* name : {"muon", "sgd"})
    CHECK_THAT(refusal({"training.dtype=float32", std::string("optimizer.name=") + name}),
               Contains(std::string("optimizer.state_dtype is 8bit, but optimizer.name is ") + name));
  CHECK_THAT(refusal({"training.dtype=float32", "device.type=emulator"}), Contains("but device.type is emulator"));
  CHECK(refusal({"training.dtype=float32"}) == "");
}

}  // namespace longhaul
