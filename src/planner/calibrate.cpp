#include "planner/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/host.h"
#include "comm/exchange.h"
#include "cost/op_cost.h"
#include "ir/op_definition.h"
#include "model/initialise.h"
#include "passes/plan_memory.h"
#include "planner/measure.h"
#include "run/libraries.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/target.h"

namespace longhaul {
namespace {

// Four digits: what is measured has no more.
double rounded(double value) {
  if (value <= 0) return value;
  const double power = std::pow(10, std::floor(std::log10(value)) - 3);
  return std::round(value / power) * power;
}

std::string product_text(DType type, std::int64_t m, std::int64_t k, std::int64_t n, int ranks) {
  const auto dtype = name_of(type);
  return fmt::format(
      "graph \"product\" mesh(rank={4})\ninput %0 : {0}[{1}, {2}] @[-, -] data \"x\"\ninput %1 : {0}[{3}, {2}] @[-, -] "
      "data \"w\"\n%2 : {0}[{1}, {3}] @[-, -] = einsum \"sk,nk->sn\"(%0, %1) forward\noutput \"y\" %2\n",
      dtype, m, k, n, ranks);
}

std::string attention_text(DType type, std::int64_t tokens, std::int64_t head_dim, bool backward, int ranks) {
  const auto dtype = name_of(type);
  std::string text = fmt::format(
      "graph \"attention\" mesh(rank={3})\ninput %0 : {0}[1, {1}, 4, {2}] @[-, -, -, -] data \"q\"\ninput %1 : {0}[1, "
      "{1}, 2, {2}] @[-, -, -, -] data \"k\"\ninput %2 : {0}[1, {1}, 2, {2}] @[-, -, -, -] data \"v\"\ninput %3 : "
      "int32[1, {1}] @[-, -] data \"index\"\ninput %4 : int32[1, {1}] @[-, -] data \"key_start\"\n",
      dtype, tokens, head_dim, ranks);
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  if (!backward)
    return text + fmt::format(
                      "%5 : {0}[1, {1}, 4, {2}] @[-, -, -, -], %6 : float32[1, 4, {1}] @[-, -, -] = attention(%0, %1, "
                      "%2, %3, %3, %4) {{scale={3}}} forward\noutput \"y\" %5\n",
                      dtype, tokens, head_dim, scale);
  return text + fmt::format(
                    "input %5 : float32[1, {1}, 4] @[-, -, -] data \"delta\"\ninput %6 : float32[1, 4, {1}] @[-, -, -] "
                    "data \"lse\"\ninput %7 : {0}[1, {1}, 4, {2}] @[-, -, -, -] data \"dy\"\n%8 : {0}[1, {1}, 4, {2}] "
                    "@[-, -, -, -], %9 : {0}[1, {1}, 2, {2}] @[-, -, -, -], %10 : {0}[1, {1}, 2, {2}] @[-, -, -, -] = "
                    "attention_gradient(%0, %1, %2, %3, %3, %4, %5, %6, %7) {{scale={3}}} backward\noutput \"dq\" "
                    "%8\noutput \"dk\" %9\noutput \"dv\" %10\n",
                    dtype, tokens, head_dim, scale);
}

std::string sum_text(std::int64_t elements, int ops, int ranks) {
  std::string text = fmt::format(
      "graph \"sum\" mesh(rank={1})\ninput %0 : float32[{0}] @[-] data \"x\"\ninput %1 : float32[{0}] @[-] data "
      "\"z\"\n",
      elements, ranks);
  for (int i = 0; i < ops; ++i)
    text += fmt::format("%{} : float32[{}] @[-] = add(%{}, %0) forward\n", i + 2, elements, i + 1);
  return text + fmt::format("output \"y\" %{}\n", ops + 1);
}

class Calibration {
 public:
  Calibration(Communicator& world, const Experiment& experiment, const CalibrateOptions& options)
      : world_(world), options_(options), experiment_(experiment), hosts_(find_hosts(world)) {
    target_ = make_target(experiment_, hosts_.ranks_here);
    measure_ = std::make_unique<Measure>(world_, *target_, options.small ? 0.001 : 0.15);
  }

  MachineProfile run() {
    MachineProfile profile;
    profile.name = "measured";
    const int threads = target_->options().threads;
    const std::string where = fmt::format("longhaul calibrate, {} ranks of {} thread{} each at once, {}", world_.size(),
                                          threads, threads == 1 ? "" : "s", cpu_model());
    profile.about =
        fmt::format("{} ranks, {} on a host, on device {}", world_.size(), hosts_.neighbours, target_->name());
    profile.ranks_per_host = hosts_.neighbours;
    profile.device_memory = hosts_.memory;
    profile.host_memory = host_memory();
    profile.memory_source = "three quarters of the host's memory divided among its ranks; " + where;
    memory(profile);
    profile.execution_source = "a large sum, small sums one after the other, steps of a small model; " + where;
    for (const DType type : options_.dtypes) {
      profile.products[type] = products(type, where);
      profile.attention[type] = attention(type, where);
    }
    links(profile, where);
    for (const DType type : options_.dtypes) model_steps(profile, type);
    return profile;
  }

 private:
  void memory(MachineProfile& profile) {
    const std::int64_t elements = options_.small ? 4096 : 1 << 24;
    profile.bandwidth =
        rounded(12 * static_cast<double>(elements) / measure_->seconds(sum_text(elements, 1, world_.size())));
    constexpr int ops = 64;
    profile.launch = rounded(measure_->seconds(sum_text(16, ops, world_.size())) / ops);
  }

  ProductProfile products(DType type, const std::string& where) {
    std::vector<std::pair<double, double>> rates;
    const std::vector<std::int64_t> sizes = options_.small
                                                ? std::vector<std::int64_t>{16, 32}
                                                : std::vector<std::int64_t>{32, 64, 128, 256, 512, 1024, 2048};
    double last = 0;
    for (const std::int64_t n : sizes) {
      // As a projection has it: more rows than columns.
      const double flops = 2.0 * 4 * static_cast<double>(n * n * n);
      if (last > 0 && flops / last > 1.0) break;  // this would take more than a second
      last = flops / measure_->seconds(product_text(type, 4 * n, n, n, world_.size()));
      rates.emplace_back(flops, last);
    }
    ProductProfile product;
    product.peak = agreed_peak(type);
    for (const auto& [flops, rate] : rates) product.peak = std::max(product.peak, rate);
    product.peak = rounded(product.peak);
    std::vector<std::pair<double, double>> points;
    for (const auto& [flops, rate] : rates) points.emplace_back(flops, std::min(1.0, rounded(rate / product.peak)));
    product.efficiency = Curve(std::move(points));
    product.source = "products of 4n x n by n x n; peak: a burst of multiply-adds; " + where;
    return product;
  }

  double agreed_peak(DType type) {
    const std::vector<double> peaks = all_gather(world_, target_->peak_flops(type));
    return *std::min_element(peaks.begin(), peaks.end());
  }

  AttentionProfile attention(DType type, const std::string& where) {
    const std::int64_t tokens = options_.small ? 64 : 2048;
    AttentionProfile profile;
    profile.tile = 32;
    std::vector<std::pair<double, double>> forward, backward;
    for (const std::int64_t head_dim : {64, 128}) {
      // Tiles at the diagonal are counted as the model counts them.
      const double pairs = 4.0 * 4 * static_cast<double>(tokens * head_dim) *
                           (static_cast<double>(tokens) / 2 + static_cast<double>(profile.tile) / 2);
      const auto seconds = [&](bool back) {
        return measure_->seconds(attention_text(type, tokens, head_dim, back, world_.size()));
      };
      forward.emplace_back(head_dim, rounded(pairs / seconds(false)));
      backward.emplace_back(head_dim, rounded(2.5 * pairs / seconds(true)));
    }
    profile.forward = Curve(std::move(forward));
    profile.backward = Curve(std::move(backward));
    profile.source = fmt::format("causal, {} tokens, 4 query heads, 2 KV heads; tile_keys assumed; {}", tokens, where);
    return profile;
  }

  void links(MachineProfile& profile, const std::string& where) {
    const auto of = [&](Communicator& group, const std::string& what) {
      LinkProfile link = measure_->link(group, options_.small ? 1 << 12 : 1 << 22);
      link.latency = rounded(link.latency);
      link.bandwidth = rounded(link.bandwidth);
      link.reducing = rounded(link.reducing);
      link.source =
          fmt::format("all_gather and reduce_scatter over {}, transport {}; {}", what, world_.transport(), where);
      return link;
    };
    const int here = hosts_.neighbours;
    if (here > 1) {
      std::vector<int> members;
      for (int i = 0; i < here; ++i) members.push_back(world_.rank() / here * here + i);
      const auto group = world_.group(members);
      profile.host = of(*group, fmt::format("{} ranks of a host", here));
    } else {
      profile.host.bandwidth = profile.host.reducing = profile.bandwidth;
      profile.host.source = "not measured: one rank on a host; that of its memory";
    }
    if (here < world_.size()) profile.network = of(world_, "ranks of all hosts");
  }

  // What ops that memory brings make of it in a model: two steps behind one that touches memory.
  void model_steps(MachineProfile& profile, DType type) {
    Experiment experiment = experiment_;
    experiment.training.dtype = type;
    experiment.training.seq_len = options_.small ? 64 : 2048;
    experiment.training.micro_batch_size = 1;
    experiment.parallelism.sequence = SequenceSplit{};
    experiment.device.profile.clear();
    const std::string spec =
        R"({"model_type": "longhaul", "vocabulary": 4096, "hidden_size": 512, "max_positions": 2048, "layers": [{"repeat": 2,
        "attention": {"heads": 8, "kv_heads": 2, "head_dim": 64}, "rope": {"type": "default", "theta": 10000},
        "norm": {"type": "rms", "epsilon": 1e-5}, "mlp": {"gated": true, "activation": "silu", "size": 1536}}],
        "final_norm": {"type": "rms", "epsilon": 1e-5}, "tied_head": false, "initializer_range": 0.02})";
    RunSetup setup = prepare_run(experiment, parse_model(spec, "calibration"), world_.size(), hosts_);
    setup.request.kinds = step_kinds(1, false);
    setup.request.dump.clear();
    const CompiledModel model = compile_model(setup.request);
    choose_libraries(world_, setup, model, "", "");
    Session session(world_, *setup.target, setup.request, model);
    session.set_parameters([](const std::string&, std::int64_t begin, std::int64_t end, DType dtype, void* to) {
      for (std::int64_t i = begin; i < end; ++i) {
        const double value = 0.02 * std::sin(static_cast<double>(i));
        if (dtype == DType::float64)
          static_cast<double*>(to)[i - begin] = value;
        else
          static_cast<float*>(to)[i - begin] = static_cast<float>(value);
      }
    });
    const auto fill = [&](std::int64_t) {
      const auto order = session.order(std::vector<std::int32_t>{0}, static_cast<std::int32_t>(setup.sequence));
      HostBatch& batch = session.micro_batch();
      for (std::size_t i = 0; i < order.size(); ++i) {
        batch.tokens[i] = (order[i] * 7) % 4096;
        batch.labels[i] = (order[i] * 7 + 7) % 4096;
        batch.index[i] = batch.position[i] = order[i];
        batch.key_start[i] = 0;
      }
    };
    session.step(1, 1e-4, 1, fill);
    session.executor().set_profiling(true);
    const std::int64_t steps = options_.small ? 1 : 2;
    for (std::int64_t step = 0; step < steps; ++step) session.step(2 + step, 1e-4, 1, fill);
    std::map<std::string, double> bytes;
    for (const auto& program : model.programs)
      for (const Op& op : program->graph.ops)
        if (!op.definition->communication && op.definition->arithmetic == Arithmetic::elements)
          bytes[op.definition->name] += static_cast<double>(steps) * moved_bytes(program->graph, op);
    const auto& ops = session.executor().profile().ops;
    for (const auto& [op, moved] : bytes) {
      const auto row = ops.find(op);
      const double launches = row == ops.end() ? 0 : profile.launch * static_cast<double>(row->second.calls);
      const double mine = row == ops.end() ? 0 : std::max(row->second.seconds - launches, 0.1 * row->second.seconds);
      const std::vector<double> all = all_gather(world_, mine);
      const double slowest = *std::max_element(all.begin(), all.end());
      if (slowest <= 0 || moved < (options_.small ? 1 : 1 << 16)) continue;  // of a few numbers nothing is learnt
      double& rate = profile.op_bandwidth[op];
      rate = rate > 0 ? std::min(rate, rounded(moved / slowest)) : rounded(moved / slowest);
    }
  }

  Communicator& world_;
  const CalibrateOptions& options_;
  Experiment experiment_;
  Hosts hosts_;
  std::shared_ptr<Target> target_;
  std::unique_ptr<Measure> measure_;
};

}  // namespace

MachineProfile calibrate(Communicator& world, const Experiment& experiment, const CalibrateOptions& options) {
  const MachineProfile mine = Calibration(world, experiment, options).run();
  // Rates were agreed one by one; the text settles what the ranks' processors are called.
  return parse_profile(broadcast_text(world, profile_text(mine)), "calibration");
}

}  // namespace longhaul
