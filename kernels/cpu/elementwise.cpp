#include "kernels/cpu/elementwise.h"

#include "kernels/cpu/stream.h"
#include "kernels/cpu/support.h"

namespace longhaul::cpu {

namespace {
constexpr std::int64_t elements_per_task = 32768;
}

void add(ThreadPool& pool, const Add& p, const VectorTable& table) {
  parallel_for(pool, p.count, elements_per_task,
               [&](std::int64_t begin, std::int64_t end) { table.add[p.type](p, begin, end); });
}

void scale(ThreadPool& pool, const Scale& p, const VectorTable& table) {
  parallel_for(pool, p.count, elements_per_task,
               [&](std::int64_t begin, std::int64_t end) { table.scale[p.type](p, begin, end); });
}

void add_bias(ThreadPool& pool, const AddBias& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.d),
               [&](std::int64_t begin, std::int64_t end) { table.add_bias[p.type](p, begin, end); });
}

std::size_t sum_rows_scratch_bytes(DType type, std::int64_t rows, std::int64_t d) {
  return static_cast<std::size_t>(sum_parts(rows, d)) * partial_bytes(type, d);
}

void sum_rows(ThreadPool& pool, const SumRows& p, const VectorTable& table) {
  const std::int64_t parts = sum_parts(p.rows, p.d);
  parallel_parts(pool, p.rows, parts, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    table.sum_rows[p.type](p, begin, end, static_cast<char*>(p.scratch) + part * partial_bytes(p.type, p.d));
  });
  add_partials(pool, p.type, p.scratch, parts, p.d, p.out_type, p.out);
}

void cast(ThreadPool& pool, const Cast& p, const VectorTable& table) {
  parallel_for(pool, p.count, elements_per_task,
               [&](std::int64_t begin, std::int64_t end) { table.cast[p.from](p, begin, end); });
}

void copy(ThreadPool& pool, const void* source, void* target, std::size_t bytes) {
  const bool past = past_caches(static_cast<std::int64_t>(bytes));
  parallel_for(pool, static_cast<std::int64_t>(bytes), 1 << 18, [&](std::int64_t begin, std::int64_t end) {
    copy_bytes(static_cast<char*>(target) + begin, static_cast<const char*>(source) + begin,
               static_cast<std::size_t>(end - begin), past);
    if (past) finish_streams();
  });
}

void fill(ThreadPool& pool, DType type, double value, void* target, std::int64_t count) {
  parallel_for(pool, count, elements_per_task, [&](std::int64_t begin, std::int64_t end) {
    if (type == DType::int32) {
      auto* to = static_cast<std::int32_t*>(target);
      std::fill(to + begin, to + end, static_cast<std::int32_t>(value));
      return;
    }
    dispatch_floating(type, [&](auto t) {
      using T = decltype(t);
      std::fill(static_cast<T*>(target) + begin, static_cast<T*>(target) + end, convert<T>(value));
    });
  });
}

namespace reference {

void add(const Add& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < p.count; ++i) {
      auto sum = read(static_cast<const T*>(p.inputs[0])[i]);
      for (int operand = 1; operand < p.operands; ++operand) sum += read(static_cast<const T*>(p.inputs[operand])[i]);
      static_cast<T*>(p.y)[i] = convert<T>(sum);
    }
  });
}

void scale(const Scale& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    const auto factor = static_cast<accumulate_t<T>>(p.factor * (p.factor_pointer ? *p.factor_pointer : 1.0));
    for (std::int64_t i = 0; i < p.count; ++i)
      static_cast<T*>(p.y)[i] = convert<T>(read(static_cast<const T*>(p.x)[i]) * factor);
  });
}

void add_bias(const AddBias& p) {
  dispatch_with_parameter(p.type, p.bias_type, [&](auto t, auto w) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < p.rows * p.d; ++i)
      static_cast<T*>(p.y)[i] = convert<T>(read(static_cast<const T*>(p.x)[i]) +
                                           convert<accumulate_t<T>>(static_cast<const decltype(w)*>(p.bias)[i % p.d]));
  });
}

void sum_rows(const SumRows& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    dispatch_floating(p.out_type, [&](auto o) {
      using O = decltype(o);
      for (std::int64_t j = 0; j < p.d; ++j) {
        accumulate_t<T> sum = 0;
        for (std::int64_t i = 0; i < p.rows; ++i) sum += read(static_cast<const T*>(p.x)[i * p.d + j]);
        static_cast<O*>(p.out)[j] = convert<O>(sum);
      }
    });
  });
}

void cast(const Cast& p) {
  dispatch_floating(p.from, [&](auto f) {
    dispatch_floating(p.to, [&](auto t) {
      using From = decltype(f);
      using To = decltype(t);
      for (std::int64_t i = 0; i < p.count; ++i)
        static_cast<To*>(p.y)[i] = convert<To>(static_cast<const From*>(p.x)[i]);
    });
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
