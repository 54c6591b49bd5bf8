#include "kernels/cpu/attention_merge.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {
namespace {

template <typename T>
void merge_rows(const AttentionMerge& p, std::int64_t begin, std::int64_t end) {
  const auto* out_a = static_cast<const T*>(p.out_a);
  const auto* out_b = static_cast<const T*>(p.out_b);
  auto* out = static_cast<T*>(p.out);
  for (std::int64_t row = begin; row < end; ++row) {  // row = (batch · queries + query) · heads + head
    const std::int64_t head = row % p.heads, query = row / p.heads % p.queries, batch = row / p.heads / p.queries;
    const std::int64_t at = (batch * p.heads + head) * p.queries + query;
    const T a = static_cast<const T*>(p.log_sum_exp_a)[at], b = static_cast<const T*>(p.log_sum_exp_b)[at],
            m = std::max(a, b);
    T weight_a = 0, weight_b = 0, l = m;
    if (m != -std::numeric_limits<T>::infinity()) {
      l = m + std::log(std::exp(a - m) + std::exp(b - m));
      weight_a = std::exp(a - l);
      weight_b = std::exp(b - l);
    }
    for (std::int64_t i = row * p.head_dim; i < (row + 1) * p.head_dim; ++i)
      out[i] = weight_a * out_a[i] + weight_b * out_b[i];
    static_cast<T*>(p.log_sum_exp)[at] = l;
  }
}

}  // namespace

void attention_merge(ThreadPool& pool, const AttentionMerge& problem) {
  parallel_for(pool, problem.batch * problem.queries * problem.heads, rows_per_task(problem.head_dim),
               [&](std::int64_t begin, std::int64_t end) {
                 if (problem.type == DType::float64)
                   merge_rows<double>(problem, begin, end);
                 else
                   merge_rows<float>(problem, begin, end);
               });
}

}  // namespace longhaul::cpu
