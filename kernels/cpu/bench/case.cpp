#include "kernels/cpu/bench/case.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "kernels/bench/random.h"

namespace longhaul::cpu::bench {

Memory::Memory(std::size_t bytes) : bytes_(bytes) {
  constexpr std::size_t huge = std::size_t{2} << 20;
  const std::size_t alignment = bytes >= huge ? huge : 64;
  const std::size_t room = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  data_.reset(std::aligned_alloc(alignment, room));
  if (!data_) fail("no memory for {} bytes", bytes);
  if (alignment == huge) madvise(data_.get(), room, MADV_HUGEPAGE);
  std::memset(data_.get(), 0xff, room);
}

double Tensor::narrow_at(std::int64_t i) const {
  return dispatch_floating(type,
                           [&](auto t) { return convert<double>(static_cast<const decltype(t)*>(narrow.data())[i]); });
}

void Check::compare(std::int64_t count, const std::function<double(std::int64_t)>& got,
                    const std::function<double(std::int64_t)>& want, double limit) {
  double worst = 0, largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double a = got(i), b = want(i);
    if (a == b && !std::isfinite(b)) continue;  // the log-sum-exp of nothing
    if (std::isfinite(b)) largest = std::max(largest, std::abs(b));
    const double difference = std::abs(a - b);
    worst = difference <= std::numeric_limits<double>::max() ? std::max(worst, difference) : INFINITY;
  }
  const double relative = worst == 0 ? 0 : worst / largest;
  if (!empty_ && !(relative * bound > error * limit)) return;
  empty_ = false;
  error = relative;
  bound = limit;
}

Case::Case(const Shape& problem)
    : shape(problem), dtype(DType::float32), pool_([&] {
        const std::int64_t threads = problem.number("threads");
        if (threads < 1 || threads > 1024) fail("threads={}; allowed are 1 to 1024", threads);
        return static_cast<int>(threads);
      }()) {
  dtype = type("dtype");
}

bool Case::flag(const char* key) const {
  const std::int64_t value = size(key);
  if (value > 1) fail("{}={}; allowed are 0 and 1", key, value);
  return value == 1;
}

DType Case::type(const char* key) const {
  const std::string word = shape.word(key);
  if (word == "same") return dtype;
  const auto parsed = parse_dtype(word);
  if (!parsed || !is_floating(*parsed)) fail("{}={}; allowed are float64, float32 and bfloat16", key, word);
  return *parsed;
}

Tensor& Case::input_of(DType type, std::int64_t count, double size, double mean) {
  Tensor& tensor = tensors_.emplace_back(type, count);
  longhaul::bench::NormalNumbers next(++seed_);
  dispatch_floating(type, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < count; ++i) {
      const T value = convert<T>(mean + size * static_cast<double>(next()));
      static_cast<T*>(tensor.narrow.data())[i] = value;
      static_cast<double*>(tensor.wide.data())[i] = convert<double>(value);
    }
  });
  return tensor;
}

Tensor& Case::output_of(DType type, std::int64_t count, double units) {
  Tensor& tensor = tensors_.emplace_back(type, count);
  outputs_.push_back({&tensor, units, false, {}});
  return tensor;
}

Tensor& Case::updated(Tensor& tensor, double units) {
  const char* from = static_cast<const char*>(tensor.narrow.data());
  outputs_.push_back({&tensor, units, true, {from, from + tensor.narrow.bytes()}});
  return tensor;
}

std::vector<std::int32_t>& Case::integers(std::int64_t count) {
  return integers_.emplace_back(static_cast<std::size_t>(count));
}
std::vector<std::int32_t>& Case::integers(std::int64_t count, std::int64_t below) {
  std::vector<std::int32_t>& values = integers(count);
  longhaul::bench::NormalNumbers next(++seed_);
  for (std::int32_t& value : values) {
    next();
    value = static_cast<std::int32_t>((next.state >> 33) % static_cast<std::uint64_t>(below));
  }
  return values;
}

void Case::restore() {
  for (const Output& output : outputs_)
    if (output.updated) std::memcpy(output.tensor->narrow.data(), output.before.data(), output.before.size());
}

double Case::bound(DType type, double units) const {
  const double finest = dtype == DType::float64 ? 0 : unit_roundoff(DType::float32);
  return (units > 0 ? units : tolerance) * std::max(unit_roundoff(type), finest);
}

}  // namespace longhaul::cpu::bench
