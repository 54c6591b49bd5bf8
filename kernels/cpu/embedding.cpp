#include "kernels/cpu/embedding.h"

#include <cstring>
#include <vector>

#include "kernels/cpu/stream.h"
#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void embedding(ThreadPool& pool, const Embedding& p) {
  const std::size_t bytes = static_cast<std::size_t>(p.d) * size_of(p.type);
  const bool past = past_caches(p.n * static_cast<std::int64_t>(bytes));
  parallel_for(pool, p.n, rows_per_task(p.d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      // Rows lie anywhere: the beginning of one that comes soon is asked for while this one is copied.
      const char* soon = static_cast<const char*>(p.table) + p.tokens[std::min(i + 4, end - 1)] * bytes;
      for (std::size_t at = 0; at < std::min<std::size_t>(bytes, 512); at += 64) __builtin_prefetch(soon + at);
      copy_bytes(static_cast<char*>(p.y) + i * bytes, static_cast<const char*>(p.table) + p.tokens[i] * bytes, bytes,
                 past);
    }
    if (past) finish_streams();
  });
}

namespace {
std::size_t starts_bytes(std::int64_t v) {
  return round_to_line(static_cast<std::size_t>(v + 2) * sizeof(std::int32_t));
}
constexpr std::int64_t strip = 1024;  // columns that a task takes

template <typename A, typename O>
void put(const A* sums, O* to, std::int64_t count, bool accumulate) {
  if (accumulate)
    for (std::int64_t i = 0; i < count; ++i) to[i] = convert<O>(static_cast<A>(read(to[i])) + sums[i]);
  else
    for (std::int64_t i = 0; i < count; ++i) to[i] = convert<O>(sums[i]);
}
}  // namespace

std::size_t embedding_gradient_scratch_bytes(std::int64_t n, std::int64_t v) {
  return starts_bytes(v) + round_to_line(static_cast<std::size_t>(n) * sizeof(std::int32_t));
}

void embedding_gradient(ThreadPool& pool, const EmbeddingGradient& p, const VectorTable& table) {
  // Sort the occurrences by token, keeping their order (a counting sort); then every row of the table is written once.
  auto* starts = static_cast<std::int32_t*>(p.scratch);
  auto* occurrences = reinterpret_cast<std::int32_t*>(static_cast<char*>(p.scratch) + starts_bytes(p.v));
  std::memset(starts, 0, static_cast<std::size_t>(p.v + 2) * sizeof(std::int32_t));
  for (std::int64_t i = 0; i < p.n; ++i) ++starts[p.tokens[i] + 2];
  for (std::int64_t t = 2; t < p.v + 2; ++t) starts[t] += starts[t - 1];
  // starts[t + 1] is where token t's next occurrence goes; afterwards token t has starts[t] .. starts[t + 1] - 1.
  for (std::int64_t i = 0; i < p.n; ++i) occurrences[starts[p.tokens[i] + 1]++] = static_cast<std::int32_t>(i);

  // Tasks are (tokens x columns), for one token may have a large share of all occurrences.
  const std::int64_t strips = (p.d + strip - 1) / strip;
  const std::int64_t groups = std::clamp<std::int64_t>(p.v / 16, 1, 64);
  const auto gather = table.sum_gathered(p.type);
  pool.run(groups * strips, [&](std::int64_t task, int) {
    const Range tokens = partition(p.v, groups, task / strips);
    const std::int64_t begin = task % strips * strip, end = std::min(p.d, begin + strip);
    alignas(64) char sums[strip * sizeof(double)];
    dispatch_floating(p.dtable_type, [&](auto o) {
      using O = decltype(o);
      const bool past = past_caches(p.v * p.d * static_cast<std::int64_t>(sizeof(O)));
      for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
        O* to = static_cast<O*>(p.dtable) + t * p.d;
        const std::int32_t count = starts[t + 1] - starts[t];
        if (count == 0) {
          if (p.accumulate) continue;
          clear_bytes(to + begin, static_cast<std::size_t>(end - begin) * sizeof(O), past);
          continue;
        }
        gather(p.dy, p.d, occurrences + starts[t], count, begin, end, sums);
        if (p.type == DType::float64)
          put(reinterpret_cast<double*>(sums), to + begin, end - begin, p.accumulate);
        else
          put(reinterpret_cast<float*>(sums), to + begin, end - begin, p.accumulate);
      }
      if (past) finish_streams();
    });
  });
}

namespace reference {

void embedding(const Embedding& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < p.n; ++i)
      for (std::int64_t j = 0; j < p.d; ++j)
        static_cast<T*>(p.y)[i * p.d + j] = static_cast<const T*>(p.table)[p.tokens[i] * p.d + j];
  });
}

void embedding_gradient(const EmbeddingGradient& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    dispatch_floating(p.dtable_type, [&](auto o) {
      using O = decltype(o);
      std::vector<accumulate_t<T>> sum(static_cast<std::size_t>(p.d));
      for (std::int64_t row = 0; row < p.v; ++row) {
        std::fill(sum.begin(), sum.end(), 0);
        for (std::int64_t i = 0; i < p.n; ++i)
          if (p.tokens[i] == row)
            for (std::int64_t j = 0; j < p.d; ++j)
              sum[static_cast<std::size_t>(j)] += read(static_cast<const T*>(p.dy)[i * p.d + j]);
        for (std::int64_t j = 0; j < p.d; ++j) {
          O& to = static_cast<O*>(p.dtable)[row * p.d + j];
          const accumulate_t<T> before = p.accumulate ? static_cast<accumulate_t<T>>(read(to)) : 0;
          to = convert<O>(before + sum[static_cast<std::size_t>(j)]);
        }
      }
    });
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
