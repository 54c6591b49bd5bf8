// longhaul bench attention: the CPU attention kernels, checked against float64 plain loops and timed on the same
// problem.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cli/command.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/peak.h"
#include "kernels/cpu/thread_pool.h"
#include "model/initialise.h"

namespace longhaul::cli {
namespace {

struct Options {
  std::int64_t batch = 1, heads = 1, kv_heads = 1, tokens = 2048, head_dim = 64, window = 0, documents = 1;
  std::string dtype = "float32";
  int threads = 1, repeat = 7;
  bool check = true;
};

/// The same numbers in the kernel's dtype and, exactly, in float64.
struct Tensor {
  std::vector<double> wide;
  std::vector<char> narrow;
  Tensor(std::int64_t count, DType dtype, std::uint64_t seed)
      : wide(static_cast<std::size_t>(count)), narrow(static_cast<std::size_t>(count) * size_of(dtype)) {
    for (std::int64_t i = 0; i < count; ++i)
      dispatch_floating(dtype, [&](auto zero) {
        using T = decltype(zero);
        const T value = static_cast<T>(static_cast<accumulate_t<T>>(standard_normal(seed, 1, i)));
        reinterpret_cast<T*>(narrow.data())[i] = value;
        wide[static_cast<std::size_t>(i)] = static_cast<double>(static_cast<accumulate_t<T>>(value));
      });
  }
};

double relative_error(const std::vector<char>& values, DType dtype, const std::vector<double>& reference) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < reference.size(); ++i)
    dispatch_floating(dtype, [&](auto zero) {
      using T = decltype(zero);
      const double value =
          static_cast<double>(static_cast<accumulate_t<T>>(reinterpret_cast<const T*>(values.data())[i]));
      difference += (value - reference[i]) * (value - reference[i]);
      size += reference[i] * reference[i];
    });
  return std::sqrt(difference / size);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double peak(DType dtype) {
  const double low = dtype == DType::bfloat16 ? cpu::measure_bfloat16_peak() : 0;
  return low > 0 ? low : cpu::measure_float32_peak();
}

// Runs it `repeat` times after a warm-up, a burst of the peak before and after each; prints minimum, median and the
// median fraction.
template <typename Run>
void time_and_print(const char* op, const Options& options, DType dtype, double flops, double error, Run&& run) {
  std::vector<double> seconds, fractions;
  run();
  for (int i = 0; i < options.repeat; ++i) {
    const double before = peak(dtype);
    const auto begin = std::chrono::steady_clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    fractions.push_back(flops / seconds.back() / (std::max(before, peak(dtype)) * options.threads));
  }
  std::printf(
      "%-20s error %s  minimum %.3f ms, median %.3f ms  %.1f GFLOP/s  %.1f %% of the %s peak (median), %.1f %% best\n",
      op, options.check ? fmt::format("{:.2e}", error).c_str() : "-",
      1e3 * *std::min_element(seconds.begin(), seconds.end()), 1e3 * median(seconds), flops / median(seconds) * 1e-9,
      100 * median(fractions), std::string(name_of(dtype)).c_str(),
      100 * *std::max_element(fractions.begin(), fractions.end()));
}

int run(const Options& options) {
  const auto parsed = parse_dtype(options.dtype);
  if (!parsed || (*parsed != DType::float32 && *parsed != DType::bfloat16))
    fail("--dtype is {}; allowed are float32 and bfloat16", options.dtype);
  const DType dtype = *parsed;
  if (options.heads % options.kv_heads)
    fail("--heads {} is no multiple of --kv-heads {}", options.heads, options.kv_heads);
  const std::int64_t b = options.batch, s = options.tokens, d = options.head_dim;
  std::vector<std::int32_t> index(static_cast<std::size_t>(b * s)), start(index.size());
  double visible = 0;
  for (std::int64_t i = 0; i < b * s; ++i) {
    const std::int64_t token = i % s, length = (s + options.documents - 1) / options.documents;
    index[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(token);
    start[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(token / length * length);
    const std::int64_t first =
        std::max<std::int64_t>(start[static_cast<std::size_t>(i)], options.window ? token - options.window + 1 : 0);
    visible += static_cast<double>(token - first + 1);
  }
  cpu::AttentionProblem problem;
  problem.batch = b;
  problem.queries = problem.keys = s;
  problem.heads = options.heads;
  problem.kv_heads = options.kv_heads;
  problem.head_dim = d;
  problem.window = options.window;
  problem.scale = 1 / std::sqrt(static_cast<double>(d));
  problem.query_index = problem.key_index = index.data();
  problem.key_start = start.data();

  const std::int64_t count = b * s * options.heads * d, kv_count = b * s * options.kv_heads * d,
                     rows = b * options.heads * s;
  const Tensor q(count, dtype, 1), k(kv_count, dtype, 2), v(kv_count, dtype, 3), dout(count, dtype, 4);
  const std::size_t bytes = size_of(dtype);
  // Poisoned: what a kernel leaves unwritten shows as NaN.
  std::vector<char> out(static_cast<std::size_t>(count) * bytes, '\xff'), dq(out),
      dk(static_cast<std::size_t>(kv_count) * bytes, '\xff'), dv(dk);
  std::vector<float> statistics(static_cast<std::size_t>(rows));
  ThreadPool pool(options.threads);
  std::vector<std::string> refusals;
  const auto& chosen = cpu::select_attention(problem, dtype, &refusals);
  for (const auto& refusal : refusals) std::printf("# %s\n", refusal.c_str());
  const std::size_t room = std::max(chosen.forward_scratch_bytes(problem, dtype, options.threads),
                                    chosen.backward_scratch_bytes(problem, dtype, dtype, options.threads));
  std::vector<char> scratch(room + 64);
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) / 64 * 64);
  cpu::AttentionForward forward;
  forward.dtype = forward.out_dtype = dtype;
  forward.q = q.narrow.data();
  forward.k = k.narrow.data();
  forward.v = v.narrow.data();
  forward.out = out.data();
  forward.log_sum_exp = statistics.data();
  cpu::AttentionBackward backward;
  backward.dtype = backward.out_dtype = backward.dq_dtype = backward.dkv_dtype = dtype;
  backward.q = forward.q;
  backward.k = forward.k;
  backward.v = forward.v;
  backward.out = out.data();
  backward.log_sum_exp = statistics.data();
  backward.dout = dout.narrow.data();
  backward.dq = dq.data();
  backward.dk = dk.data();
  backward.dv = dv.data();
  chosen.forward(problem, forward, pool, aligned);
  chosen.backward(problem, backward, pool, aligned);

  double forward_error = 0, backward_error = 0;
  if (options.check) {
    std::vector<double> wide_out(q.wide.size()), wide_statistics(static_cast<std::size_t>(rows)),
        wide_dq(q.wide.size()), wide_dk(k.wide.size()), wide_dv(k.wide.size());
    cpu::AttentionForward oracle;
    oracle.dtype = oracle.out_dtype = DType::float64;
    oracle.q = q.wide.data();
    oracle.k = k.wide.data();
    oracle.v = v.wide.data();
    oracle.out = wide_out.data();
    oracle.log_sum_exp = wide_statistics.data();
    std::vector<char> wide_scratch(
        std::max(cpu::reference::attention_forward_scratch_bytes(problem, DType::float64, options.threads),
                 cpu::reference::attention_backward_scratch_bytes(problem, DType::float64, DType::float64,
                                                                  options.threads)) +
        64);
    void* wide_aligned =
        reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(wide_scratch.data()) + 63) / 64 * 64);
    cpu::reference::attention_forward(problem, oracle, pool, wide_aligned);
    cpu::AttentionBackward gradient;
    gradient.dtype = gradient.out_dtype = gradient.dq_dtype = gradient.dkv_dtype = DType::float64;
    gradient.q = oracle.q;
    gradient.k = oracle.k;
    gradient.v = oracle.v;
    gradient.out = wide_out.data();
    gradient.log_sum_exp = wide_statistics.data();
    gradient.dout = dout.wide.data();
    gradient.dq = wide_dq.data();
    gradient.dk = wide_dk.data();
    gradient.dv = wide_dv.data();
    cpu::reference::attention_backward(problem, gradient, pool, wide_aligned);
    forward_error = relative_error(out, dtype, wide_out);
    backward_error = std::max(
        {relative_error(dq, dtype, wide_dq), relative_error(dk, dtype, wide_dk), relative_error(dv, dtype, wide_dv)});
  }
  const double flops = 4 * visible * static_cast<double>(options.heads * d);
  std::printf(
      "# attention b=%lld h=%lld kv=%lld s=%lld d=%lld window=%lld documents=%lld %s, %s, %d thread%s; visible pairs "
      "counted\n",
      static_cast<long long>(b), static_cast<long long>(options.heads), static_cast<long long>(options.kv_heads),
      static_cast<long long>(s), static_cast<long long>(d), static_cast<long long>(options.window),
      static_cast<long long>(options.documents), options.dtype.c_str(), std::string(chosen.name).c_str(),
      options.threads, options.threads == 1 ? "" : "s");
  time_and_print("attention", options, dtype, flops, forward_error,
                 [&] { chosen.forward(problem, forward, pool, aligned); });
  time_and_print("attention_gradient", options, dtype, 2.5 * flops, backward_error,
                 [&] { chosen.backward(problem, backward, pool, aligned); });
  // Far beyond rounding: wrong, whatever its speed.
  const double limit = dtype == DType::bfloat16 ? 2e-2 : 1e-5;
  if (options.check && !(forward_error < limit && backward_error < limit))
    fail("the kernels' error is beyond {}", limit);
  return 0;
}

}  // namespace

std::function<int()> add_bench_attention(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("attention", "check and time the CPU attention kernels");
  auto options = std::make_shared<Options>();
  app->add_option("--batch", options->batch)->check(CLI::Range(1, 1024));
  app->add_option("--heads", options->heads)->check(CLI::Range(1, 1024));
  app->add_option("--kv-heads", options->kv_heads)->check(CLI::Range(1, 1024));
  app->add_option("--tokens", options->tokens, "queries and keys of a sequence")->check(CLI::Range(1, 1 << 22));
  app->add_option("--head-dim", options->head_dim)->check(CLI::Range(1, 256));
  app->add_option("--window", options->window, "keys that a token sees, itself included; 0: all before it")
      ->check(CLI::Range(0, 1 << 22));
  app->add_option("--documents", options->documents, "equal packed documents a sequence")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--dtype", options->dtype, "float32 or bfloat16");
  app->add_option("--threads", options->threads)->check(CLI::Range(1, 1024));
  app->add_option("--repeat", options->repeat, "timed runs")->check(CLI::Range(1, 100000));
  app->add_flag("!--no-check", options->check,
                "skip the comparison with float64 plain loops, which takes seconds at long sequences");
  return [options] { return run(*options); };
}

}  // namespace longhaul::cli
