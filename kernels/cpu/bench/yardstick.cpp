#include "kernels/cpu/bench/yardstick.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cpu/peak.h"
#include "kernels/cpu/stream.h"

namespace longhaul::cpu::bench {

Yardstick::Yardstick(DType dtype, bool arithmetic, ThreadPool& pool)
    : dtype_(dtype), arithmetic_(arithmetic), pool_(pool) {
  if (arithmetic_) return;
  // The three together six times the last-level cache.
  const std::size_t bytes = 2 * static_cast<std::size_t>(last_level_cache_bytes());
  count_ = static_cast<std::int64_t>(bytes / sizeof(float));
  for (auto* memory : {&a_, &b_, &c_}) {
    *memory = std::make_unique<Memory>(bytes);
    std::memset((*memory)->data(), 0, bytes);
  }
}

double Yardstick::measure() const {
  const std::int64_t threads = pool_.threads();
  std::vector<double> rates(static_cast<std::size_t>(threads));
  pool_.run(threads, [&](std::int64_t part, int) {
    double& rate = rates[static_cast<std::size_t>(part)];
    if (!arithmetic_) {
      const Range range = partition(count_, threads, part);
      const auto at = [&](const std::unique_ptr<Memory>& memory) {
        return static_cast<float*>(memory->data()) + range.begin;
      };
      rate = measure_triad(at(a_), at(b_), at(c_), range.size());
      return;
    }
    if (dtype_ == DType::bfloat16) rate = measure_bfloat16_peak();
    if (rate == 0) rate = measure_float32_peak() / (dtype_ == DType::float64 ? 2 : 1);
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace longhaul::cpu::bench
