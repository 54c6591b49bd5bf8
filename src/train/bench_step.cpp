#include "train/bench_step.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "compile/step_time.h"
#include "config/schedule.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "model/initialise.h"
#include "run/agreement.h"
#include "run/libraries.h"
#include "run/run_flops.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"
#include "run/text_tokens.h"
#include "train/trace.h"

namespace longhaul {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double sum_over_ranks(Communicator& world, double mine) {
  const std::vector<double> all = all_gather(world, mine);
  return std::accumulate(all.begin(), all.end(), 0.0);
}

// Tokens from a counter-based stream, where the experiment names no files that exist.
class RandomTokens : public TokenSource {
 public:
  RandomTokens(std::int64_t size, std::int64_t vocabulary) : size_(size), vocabulary_(vocabulary) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    for (std::int64_t i = 0; i < count; ++i)
      tokens[i] = static_cast<std::int32_t>(philox({static_cast<std::uint32_t>(begin + i), 0, 0, 0}, {3, 4})[0] %
                                            static_cast<std::uint32_t>(vocabulary_));
  }

 private:
  std::int64_t size_, vocabulary_;
};

}  // namespace

void bench_step(Communicator& world, const Experiment& experiment, const BenchStepOptions& options) {
  RunSetup setup = prepare_agreed_run(world, experiment);
  setup.request.kinds = step_kinds(setup.parallel.accumulation_steps, false);
  for (const auto& decision : setup.decisions) log_info("{}", decision);
  const CompiledModel model = compile_model(setup.request);
  if (const std::string libraries = choose_libraries(world, setup, model, "", ""); !libraries.empty())
    log_info("{}", libraries);
  if (options.paced) {
    if (!setup.costs) fail("--paced needs device.profile, which says how long computation takes");
    setup.target->set_pace(
        [costs = setup.costs](const Graph& graph, const Op& op) { return costs->cost(graph, op).seconds; });
  }
  Session session(world, *setup.target, setup.request, model);
  session.set_parameters(first_parameters(setup));

  const std::int64_t warmup = options.warmup.value_or(experiment.device.graphs ? 2 : 1);
  const bool graphs = experiment.device.graphs, profiled = !options.paced && !graphs;
  if (graphs && warmup < 2)
    fail("--warmup is {}, and device.graphs is true: graphs are captured in the second step; give 2 or more", warmup);
  if (!options.trace.empty() && setup.target->has_own_memory())
    fail("--trace is {}, but {} records no trace: leave it out, or set device.type to cpu", options.trace.string(),
         setup.target->name());
  // A device is waited for after every instruction that is timed, so such a step is another one, after those that
  // count.
  const bool apart = profiled && session.executor().work().has_value();
  const std::int64_t timed_end = warmup + options.steps, total = timed_end + (apart ? 1 : 0);
  const std::int64_t batch = setup.parallel.global_batch_size;
  DataSource source;
  bool files = !training_groups(experiment).empty();
  std::error_code ignored;
  for (const DataGroup& group : training_groups(experiment))
    for (const auto& file : group.files)
      files &= std::filesystem::exists(file, ignored) || file.string().find_first_of("*?[") != std::string::npos;
  if (files) {
    tokenize_texts(world, setup);
    source = open_training(world, setup, false);
  } else {
    if (experiment.data.packing)
      fail("data.packing is {}, but data.files do not exist, and random tokens have no documents; use none",
           value_of(experiment, "data.packing"));
    log_info("data.files do not exist: random tokens");
    source.stream = std::make_unique<RandomTokens>(batch * total * setup.sequence + 1, setup.model.spec.vocabulary);
    source.sampler = std::make_unique<Sampler>(source.stream->size(), setup.sequence,
                                               static_cast<std::uint64_t>(experiment.training.seed));
    source.loader = make_loader(experiment, *source.stream);
  }
  std::vector<SourceCursor> cursors;
  std::vector<std::int64_t> samples(static_cast<std::size_t>(batch));

  std::vector<double> seconds, losses, fractions, cores_seen;
  const double flops = flops_of(setup).causal() * static_cast<double>(batch * setup.sequence);
  const double cores = world.size() * setup.target->options().cores;
  double busy = 0, wall = 0;
  const auto cpu_of_all = [&] {
    // Ranks of one process share its clock.
    double all = cpu_seconds();
    if (!world.one_process()) all = sum_over_ranks(world, all);
    return all;
  };
  Executor::Work work, whole_step;
  const std::int64_t counted = timed_end;
  const std::int64_t profiled_from = apart ? total : warmup + 1, profiled_steps = total - profiled_from + 1;
  double profiled_wall = 0;
  for (std::int64_t step = 1; step <= total; ++step) {
    if (step == profiled_from) session.executor().set_profiling(profiled);
    if (step == total) session.executor().set_tracing(!options.trace.empty());
    source.take(cursors, samples);
    const auto fill = [&](std::int64_t i) { source.fill(session, samples, i); };
    world.barrier();
    const double peak = setup.target->peak_flops(experiment.training.dtype) * world.size();
    world.barrier();
    const double cpu_begin = cpu_of_all();
    world.barrier();
    if (step == counted) work = session.executor().work().value_or(work);
    const auto begin = std::chrono::steady_clock::now();
    losses.push_back(session.step(step, learning_rate(experiment, step), setup.parallel.accumulation_steps, fill).loss);
    world.barrier();
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (const auto now = session.executor().work(); now && step == counted) whole_step = *now - work;
    if (step >= profiled_from) profiled_wall += elapsed;
    if (step <= warmup || step > timed_end) continue;
    const double cpu = cpu_of_all() - cpu_begin;
    seconds.push_back(elapsed);
    cores_seen.push_back(cpu / elapsed);
    fractions.push_back(flops / elapsed / peak);
    busy += cpu;
    wall += elapsed;
  }
  if (!options.trace.empty()) write_trace(world, session.executor().trace(), options.trace);
  // Of the ranks together: what one waits for is what another computes.
  const CommunicationTimes mine = session.executor().profile().communication;
  const auto share = [&](double rank_seconds) {
    return 100 * sum_over_ranks(world, rank_seconds) / (profiled_wall * world.size());
  };
  const double waiting = share(mine.waiting), moving = share(mine.moving), packing = share(mine.packing);
  if (world.rank() != 0) return;
  if (options.row) {
    const auto fastest = static_cast<std::size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
    const auto taken = [&](double percent) { return !profiled ? "-" : fmt::format("{:.1f}", percent); };
    std::printf("%d | %.4f | %.4f | %.2f | %s | %s | %s\n", world.size(), seconds[fastest], median(seconds),
                cores_seen[fastest], taken(waiting).c_str(), taken(moving).c_str(), taken(packing).c_str());
    return;
  }

  const auto list = [](const std::vector<double>& values, int digits) {
    std::string text;
    for (double value : values) text += fmt::format("{}{:.{}f}", text.empty() ? "" : " ", value, digits);
    return text;
  };
  std::printf("losses            %s\n", list(losses, 6).c_str());
  std::printf("seconds a step    %s\n", list(seconds, 4).c_str());
  std::printf("                  minimum %.4f, median %.4f\n", *std::min_element(seconds.begin(), seconds.end()),
              median(seconds));
  if (setup.costs) {
    const ProgramCost cost = step_cost(*setup.costs, model, setup.parallel.accumulation_steps);
    const double predicted = cost.total();
    std::printf("predicted         %.4f seconds a step, by %s: %.2f of the median\n", predicted,
                setup.profile->name.c_str(), predicted / median(seconds));
    if (world.size() > 1)
      std::printf(
          "                  %.4f of communication, of which %.4f beside computation; no schedule takes less than "
          "%.4f a step\n",
          cost.communication(), cost.beside(), cost.least);
  }
  std::printf("tokens/s          %.0f (median)\n", static_cast<double>(batch * setup.sequence) / median(seconds));
  std::printf(
      "fraction of peak  %.1f%% median, %.1f%% best (model FLOPs, causal, over the %s FMA peak of %g core%s measured "
      "between the steps)\n",
      100 * median(fractions), 100 * *std::max_element(fractions.begin(), fractions.end()),
      experiment.training.dtype == DType::bfloat16  ? "bf16"
      : experiment.training.dtype == DType::float64 ? "fp64"
                                                    : "fp32",
      cores, cores == 1 ? "" : "s");
  std::printf("CPU time / wall   %.2f, of all ranks, which can use %g\n", busy / wall, cores);
  std::printf("CPU seconds       %.4f a step (what a neighbour cannot take away)\n",
              busy / static_cast<double>(options.steps));
  if (world.size() > 1 && profiled)
    std::printf(
        "communication     %.1f%% of the ranks' time waiting for other ranks, %.1f%% in collectives, %.1f%% in copies "
        "around them\n",
        waiting, moving, packing);
  std::printf("memory            %lld bytes a rank\n", static_cast<long long>(session.executor().arena_bytes()));
  if (session.executor().host_arena_bytes() > 0)
    std::printf("host memory       %lld bytes a rank\n", static_cast<long long>(session.executor().host_arena_bytes()));
  if (whole_step.launches + whole_step.graph_launches > 0)
    std::printf("device            %s in step %lld, unprofiled\n", whole_step.text().c_str(),
                static_cast<long long>(counted));
  if (!profiled) {
    std::printf("\nno times of ops and of communication: %s\n",
                graphs ? "device.graphs is true, and what is in a graph is not timed one by one"
                       : "taking them would let ranks wait for one another (--trace has them)");
    return;
  }
  std::printf("%s\n", apart ? "\nof a step after those above, in which the device is waited for after every op:" : "");
  std::vector<std::pair<double, std::string>> rows;
  double sum = 0;
  for (const auto& [name, row] : session.executor().profile().ops) {
    rows.emplace_back(row.seconds, name);
    sum += row.seconds;
  }
  std::sort(rows.rbegin(), rows.rend());
  std::map<std::string, double> predicted;
  if (setup.costs) predicted = step_cost(*setup.costs, model, setup.parallel.accumulation_steps).ops;
  std::printf("%-28s %7s %10s %8s %10s%s\n", "op", "share", "ms a step", "calls", "GFLOP/s",
              setup.costs ? "  predicted" : "");
  for (const auto& [time, name] : rows) {
    const auto& row = session.executor().profile().ops.at(name);
    const auto guess = predicted.find(name);
    std::printf("%-28s %6.1f%% %10.2f %8lld %10s%s\n", name.c_str(), 100 * time / sum,
                1e3 * time / static_cast<double>(profiled_steps), static_cast<long long>(row.calls / profiled_steps),
                row.flops > 0 ? fmt::format("{:.1f}", row.flops / row.seconds * 1e-9).c_str() : "",
                guess == predicted.end() ? "" : fmt::format(" {:10.2f}", 1e3 * guess->second).c_str());
  }
}

}  // namespace longhaul
