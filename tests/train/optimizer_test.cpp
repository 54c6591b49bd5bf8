// Optimizers against PyTorch's arithmetic, what they keep to the byte, every split and stage against one rank, and
// resumes.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/error.h"
#include "comm/launch.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cpu/muon.h"
#include "kernels/cpu/sgd.h"
#include "kernels/cpu/thread_pool.h"
#include "ranks.h"
#include "small_experiment.h"
#include "train/trainer.h"
#include "verify/verify.h"

namespace longhaul {
namespace {

using namespace testing;
using Catch::Contains;
namespace fs = std::filesystem;

nlohmann::json golden() {
  std::ifstream file(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/optimizers/optimizers.json");
  return nlohmann::json::parse(file);
}

using Settings = std::function<void(CompileOptions&)>;

void with_sgd(CompileOptions& options, double momentum, bool nesterov) {
  options.meaning.optimizer.kind = OptimizerKind::sgd;
  options.meaning.optimizer.momentum = momentum;
  options.meaning.optimizer.nesterov = nesterov;
}

void with_rows(CompileRequest& request) {
  const auto all = parameters(request.spec);
  for (std::size_t i = 0; i < all.size(); ++i) request.options.meaning.parameters[i].rows = matrix_rows(all[i]);
}

std::int64_t optimizer_bytes(const CompiledModel& model) {
  std::int64_t bytes = 0;
  for (const auto& [name, slot] : model.named.slots)
    if (slot.category == MemoryCategory::optimizer) bytes += slot.bytes;
  return bytes;
}

}  // namespace

TEST_CASE("SGD and AdamW take PyTorch's steps", "[golden]") {
  const auto data = golden();
  const auto start = data.at("start").get<std::vector<double>>();
  const auto gradients = data.at("gradients").get<std::vector<std::vector<double>>>();
  const double rate = data.at("learning_rate"), coefficient = 1;
  const auto count = static_cast<std::int64_t>(start.size());
  ThreadPool pool(2);
  for (const bool fast : {false, true}) {
    for (const auto& one : data.at("sgd")) {
      INFO(one.at("options").dump() << (fast ? " fast" : " reference"));
      std::vector<double> parameter = start, moment(start.size(), 0);
      for (const auto& gradient : gradients) {
        const double momentum = one.at("options").value("momentum", 0.0);
        const cpu::Sgd step{DType::float64,
                            parameter.data(),
                            DType::float64,
                            momentum > 0 ? moment.data() : nullptr,
                            DType::float64,
                            gradient.data(),
                            count,
                            &coefficient,
                            &rate,
                            momentum,
                            one.at("options").value("weight_decay", 0.0),
                            one.at("options").value("nesterov", false)};
        fast ? cpu::sgd(pool, step) : cpu::reference::sgd(step);
      }
      for (std::size_t i = 0; i < start.size(); ++i)
        REQUIRE(parameter[i] == Approx(one.at("parameter").at(i).get<double>()).epsilon(1e-12));
    }
    const auto adamw = [&](DType type, void* parameter, void* m, void* v, DType moment, const void* gradient,
                           double number) {
      const cpu::AdamW step{.type = type,
                            .parameter = parameter,
                            .m = m,
                            .v = v,
                            .gradient_type = type,
                            .gradient = gradient,
                            .count = count,
                            .coefficient = &coefficient,
                            .learning_rate = &rate,
                            .step = &number,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .epsilon = 1e-8,
                            .weight_decay = 0.1,
                            .moment_type = moment};
      fast ? cpu::adamw(pool, step) : cpu::reference::adamw(step);
    };
    std::vector<double> parameter = start, m(start.size(), 0), v(start.size(), 0);
    std::vector<float> narrow(start.begin(), start.end());
    std::vector<bfloat16> first(start.size(), bfloat16(0.0F)), second(start.size(), bfloat16(0.0F));
    for (std::size_t step = 0; step < gradients.size(); ++step) {
      const std::vector<float> gradient(gradients[step].begin(), gradients[step].end());
      const double number = static_cast<double>(step) + 1;
      adamw(DType::float64, parameter.data(), m.data(), v.data(), DType::float64, gradients[step].data(), number);
      adamw(DType::float32, narrow.data(), first.data(), second.data(), DType::bfloat16, gradient.data(), number);
    }
    const auto& rounded = data.at("adamw_bfloat16");
    for (std::size_t i = 0; i < start.size(); ++i) {
      INFO(i << (fast ? " fast" : " reference"));
      REQUIRE(parameter[i] == Approx(data.at("adamw").at(i).get<double>()).epsilon(1e-12));
      REQUIRE(narrow[i] == Approx(rounded.at("parameter").at(i).get<double>()).epsilon(1e-5).margin(1e-6));
      // A last digit of bfloat16, where float32 sums are rounded in another order.
      REQUIRE(static_cast<float>(first[i]) ==
              Approx(rounded.at("first").at(i).get<double>()).epsilon(0x1p-7).margin(1e-9));
      REQUIRE(static_cast<float>(second[i]) ==
              Approx(rounded.at("second").at(i).get<double>()).epsilon(0x1p-7).margin(1e-12));
    }
  }
}

TEST_CASE("Muon takes PyTorch's steps, its iterations in float64", "[golden]") {
  const auto data = golden();
  const double rate = data.at("learning_rate"), coefficient = 1;
  ThreadPool pool(2);
  for (const bool fast : {false, true})
    for (const auto& one : data.at("muon")) {
      const auto start = one.at("start").get<std::vector<double>>();
      const auto count = static_cast<std::int64_t>(start.size());
      const std::int64_t rows = one.at("rows"), columns = count / rows;
      INFO(rows << " rows of " << columns << (fast ? " fast" : " reference"));
      std::vector<double> parameter = start, m(start.size(), 0), update(start.size()), moved(start.size());
      cpu::Orthogonalizer plan(DType::float64, rows, columns, 2, nullptr);
      std::vector<double> scratch(plan.scratch_bytes() / sizeof(double) + 8);
      void* aligned = scratch.data();
      std::size_t room = scratch.size() * sizeof(double);
      REQUIRE(std::align(64, plan.scratch_bytes(), aligned, room));
      for (const auto& gradient : one.at("gradients").get<std::vector<std::vector<double>>>()) {
        const cpu::MuonMomentum momentum{
            DType::float64,  DType::float64, m.data(),     update.data(), DType::float64,
            gradient.data(), count,          &coefficient, 0.95,          one.at("nesterov").get<bool>()};
        fast ? cpu::muon_momentum(pool, momentum) : cpu::reference::muon_momentum(momentum);
        if (fast)
          plan.run(pool, update.data(), moved.data(), aligned);
        else
          cpu::reference::orthogonalize({DType::float64, rows, columns, update.data(), moved.data()});
        const cpu::MuonStep step{DType::float64,
                                 parameter.data(),
                                 moved.data(),
                                 count,
                                 &rate,
                                 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns))),
                                 0.1};
        fast ? cpu::muon_step(pool, step) : cpu::reference::muon_step(step);
      }
      for (std::size_t i = 0; i < start.size(); ++i) {
        REQUIRE(parameter[i] == Approx(one.at("parameter").at(i).get<double>()).epsilon(1e-9));
        REQUIRE(m[i] == Approx(one.at("first").at(i).get<double>()).epsilon(1e-12));
      }
    }
}

TEST_CASE("SGD and Muon under every split and stage are what they are on one rank", "[threads]") {
  for (const auto& [kind, momentum, nesterov] : {std::tuple{OptimizerKind::sgd, 0.0, false},
                                                 {OptimizerKind::sgd, 0.9, false},
                                                 {OptimizerKind::sgd, 0.9, true},
                                                 {OptimizerKind::muon, 0.95, true}})
    for (const auto& [data, ulysses, ring, stage, group] : {std::tuple{1, 1, 1, 0, 0},
                                                            {2, 1, 1, 1, 0},
                                                            {2, 1, 1, 2, 0},
                                                            {1, 2, 1, 3, 0},
                                                            {1, 1, 2, 1, 0},
                                                            {4, 1, 1, 3, 2}}) {
      const Cell cell{.spec = small_llama(),
                      .data = data,
                      .sequence_ranks = ulysses,
                      .zero_stage = stage,
                      .micro_batches = 2,
                      .rows = 4,
                      .ring = ring,
                      .shard_group = group};
      INFO(cell.text() << " momentum " << momentum << (nesterov ? " nesterov" : ""));
      CompileRequest request = request_for(cell);
      with_sgd(request.options, momentum, nesterov);
      request.options.meaning.optimizer.kind = kind;
      if (kind == OptimizerKind::muon) with_rows(request);
      ReferenceRun reference(request.spec, request.options.meaning, request.batch, cell.sequence);
      reference.set_parameters(random_parameters(cell.spec, 11), DType::float64);
      const auto batches = [&](int step) {
        std::vector<HostBatch> list;
        for (std::int64_t i = 0; i < cell.micro_batches; ++i)
          list.push_back(
              make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking));
        return list;
      };
      reference.accumulate(batches(0));
      reference.update(1, 1e-2);
      reference.step(2, 1e-2, batches(1));
      const CompiledModel model = compile_model(request);
      std::mutex mutex;
      std::string problem;
      run_threads(cell.world(), [&](Communicator& world) {
        std::string mine;
        const Outcome outcome = run_rank(world, cell, request, model, mine);
        for (const auto& [name, values] : outcome.parameters) {
          const std::vector<double> wanted = reference.values(name);
          for (std::size_t i = 0; i < values.size() && mine.empty(); ++i)
            if (!(std::abs(values[i] - wanted[i]) <= 1e-11 * (1 + std::abs(wanted[i]))))
              mine = fmt::format("{}[{}] is {}, not {}", name, i, values[i], wanted[i]);
        }
        const std::lock_guard lock(mutex);
        if (!mine.empty()) problem = mine;
        return 0;
      });
      CHECK(problem == "");
    }
}

TEST_CASE("moments take what their optimizer and dtype ask for, to the byte, on shards of every size") {
  const TransformerSpec spec = small_llama();
  for (const int ranks : {1, 4})
    for (const int stage : {0, 1, 3}) {
      const Cell cell{.spec = spec, .data = ranks, .zero_stage = stage, .rows = 4, .dtype = DType::bfloat16};
      INFO(cell.text());
      const auto compiled = [&](const Settings& change) {
        CompileRequest request = request_for(cell);
        change(request.options);
        return compile_model(request);
      };
      // Buffers begin at cache lines.
      const auto bytes = [&](std::int64_t width, std::int64_t moments) {
        std::int64_t sum = 0;
        for (const Parameter& one : parameters(spec)) {
          const std::int64_t held = stage >= 1 ? (one.elements() + ranks - 1) / ranks : one.elements();
          sum += moments * ((held * width + 63) / 64 * 64);
        }
        return sum;
      };
      CHECK(optimizer_bytes(compiled([](CompileOptions&) {})) == bytes(4, 2));
      CHECK(optimizer_bytes(compiled([](CompileOptions& o) { o.precision.moment = DType::bfloat16; })) == bytes(2, 2));
      CHECK(optimizer_bytes(compiled([](CompileOptions& o) { with_sgd(o, 0.9, false); })) == bytes(4, 1));
      CHECK(optimizer_bytes(compiled([](CompileOptions& o) { with_sgd(o, 0, false); })) == 0);
      // Muon: one moment of each matrix of a layer, two of everything else.
      CompileRequest request = request_for(cell);
      request.options.meaning.optimizer.kind = OptimizerKind::muon;
      with_rows(request);
      std::int64_t sum = 0;
      for (const Parameter& one : parameters(spec)) {
        const std::int64_t held = stage >= 1 ? (one.elements() + ranks - 1) / ranks : one.elements();
        sum += (matrix_rows(one) > 0 ? 1 : 2) * ((held * 4 + 63) / 64 * 64);
      }
      CHECK(optimizer_bytes(compile_model(request)) == sum);
      // Whole for its iterations, each matrix' update is gathered in float32 where moments are sharded.
      request.options.schedule.bucket_size = 0;
      const auto gathered = [&](const CompileRequest& one) {
        const CompiledModel model = compile_model(one);
        std::int64_t all = 0;
        for (const auto& row : predicted_traffic("", model.program(ProgramKind::update), 0))
          if (row.collective == "all_gather") all += row.bytes_sent;
        return all;
      };
      const std::int64_t with_muon = gathered(request);
      request.options.meaning.optimizer.kind = OptimizerKind::adamw;
      std::int64_t updates = 0;
      for (const Parameter& one : parameters(spec))
        if (stage >= 1 && matrix_rows(one) > 0) updates += (ranks - 1) * ((one.elements() + ranks - 1) / ranks) * 4;
      CHECK(with_muon - gathered(request) == updates);
      CHECK(optimizer_bytes(compiled([](CompileOptions& o) {
              with_sgd(o, 0.9, true);
              o.precision.moment = DType::bfloat16;
            })) == bytes(2, 1));
    }
}

TEST_CASE("runs verify with every optimizer, resume on other ranks, and refuse another optimizer",
          "[threads][numbers]") {
  const SmallExperiment small(small_llama());
  const fs::path run = small.folder() / "run";
  const std::vector<std::vector<std::string>> optimizers = {
      {"optimizer.name=sgd"},
      {"optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"},
      {"optimizer.name=muon"},
      {"training.dtype=bfloat16", "optimizer.name=muon", "optimizer.nesterov=true", "optimizer.state_dtype=bfloat16"},
      {"training.dtype=float32", "optimizer.state_dtype=bfloat16"},
      {"training.dtype=bfloat16", "optimizer.state_dtype=bfloat16", "optimizer.name=sgd", "optimizer.momentum=0.9"}};
  const auto load = [&](const std::vector<std::string>& keys, std::vector<std::string> more) {
    more.insert(more.begin(), keys.begin(), keys.end());
    more.push_back("job.folder=" + run.string());
    more.push_back("training.global_batch_size=4");
    more.push_back("training.micro_batch_size=1");
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
  const auto bytes_of = [](const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    INFO(i);
    for (const char* split : {"parallelism.sequence={ring: 2}", "parallelism.zero_stage=3"}) {
      bool differs = true;
      run_threads(2, [&](Communicator& world) {
        const VerificationReport report = verify_run(world, load(optimizers[i], {split}), {});
        if (world.rank() == 0) differs = report.differs;
        return 0;
      });
      CHECK_FALSE(differs);
    }
    // The same bits through a checkpoint; other ranks and another stage go on from it.
    fs::remove_all(run);
    REQUIRE(outcome(load(optimizers[i], {"training.steps=4", "lr_scheduler.decay_type=constant"}), 1) == "");
    const std::string whole = bytes_of(run / "export/model.safetensors");
    fs::remove_all(run);
    REQUIRE(outcome(load(optimizers[i], {"training.steps=2", "lr_scheduler.decay_type=constant"}), 1) == "");
    REQUIRE(outcome(load(optimizers[i], {"training.steps=4", "lr_scheduler.decay_type=constant"}), 1) == "");
    CHECK(bytes_of(run / "export/model.safetensors") == whole);
    CHECK(outcome(load(optimizers[i], {"training.steps=5", "parallelism.zero_stage=3"}), 2) == "");
  }
  // The last one's: SGD with momentum in bfloat16.
  CHECK_THAT(outcome(load({"training.dtype=bfloat16", "optimizer.state_dtype=bfloat16"}, {"training.steps=6"}), 1),
             Contains("does not hold a second moment of parameters, which this run's optimizer has"));
  CHECK_THAT(outcome(load({"training.dtype=bfloat16", "optimizer.name=sgd"}, {"training.steps=6"}), 1),
             Contains("holds a first moment of parameters, which this run's optimizer does not have"));
  CHECK_THAT(
      outcome(load({"training.dtype=bfloat16", "optimizer.name=sgd", "optimizer.momentum=0.9"}, {"training.steps=6"}),
              1),
      Contains("moments are bfloat16 there and float32 by optimizer.state_dtype"));
}

TEST_CASE("keys of optimizers that do not go together are refused") {
  const SmallExperiment small(small_llama());
  const auto refusal = [&](const std::vector<std::string>& keys) -> std::string {
    try {
      small.load(keys);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal({"optimizer.momentum=0.9"}), Contains("optimizer.momentum is 0.9, but optimizer.name is adamw"));
  CHECK_THAT(refusal({"optimizer.nesterov=true"}), Contains("optimizer.nesterov is true, but optimizer.name is adamw"));
  CHECK_THAT(refusal({"optimizer.name=sgd", "optimizer.betas=[0.5, 0.9]"}),
             Contains("optimizer.betas is [0.5, 0.9], but optimizer.name is sgd"));
  CHECK_THAT(refusal({"optimizer.name=sgd", "optimizer.eps=1e-3"}), Contains("optimizer.eps is"));
  CHECK_THAT(refusal({"optimizer.name=sgd", "optimizer.nesterov=true"}), Contains("optimizer.momentum is auto"));
  CHECK_THAT(refusal({"optimizer.state_dtype=bfloat16"}),
             Contains("optimizer.state_dtype is bfloat16 while training.dtype is float64"));
  // Devices have them all.
  CHECK(refusal({"training.dtype=float32", "device.type=emulator", "optimizer.name=muon",
                 "optimizer.state_dtype=bfloat16"}) == "");
}

}  // namespace longhaul
