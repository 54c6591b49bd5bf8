#include "kernels/cpu/bench/libraries.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#ifdef LONGHAUL_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif
#ifdef LONGHAUL_WITH_OPENBLAS
#include <cblas.h>
#endif

namespace longhaul::cpu::bench {
namespace {

#ifdef LONGHAUL_WITH_ONEDNN
using dnnl::memory;

memory::desc matrix(DType type, std::int64_t batch, std::int64_t rows, std::int64_t columns, bool transposed,
                    std::int64_t leading) {
  const std::int64_t step = rows * columns;
  return {{batch, rows, columns},
          type == DType::bfloat16 ? memory::data_type::bf16 : memory::data_type::f32,
          transposed ? memory::dims{step, 1, leading} : memory::dims{step, leading, 1}};
}

LibraryMatmul onednn(const MatmulProblem& p, int threads) {
  if (p.a == DType::float64) return {};
  struct Plan {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    dnnl::matmul primitive;
    memory a, b, bias, c;
  };
  const ScopedOpenMpThreads scope(threads);
  const auto plan = std::make_shared<Plan>();
  const memory::desc a = matrix(p.a, p.batch, p.m, p.k, p.transpose_a, p.lda),
                     b = matrix(p.b, p.batch, p.k, p.n, p.transpose_b, p.ldb),
                     c = matrix(p.c, p.batch, p.m, p.n, false, p.ldc),
                     bias = matrix(p.bias_type, 1, 1, p.n, false, p.n);
  dnnl::primitive_attr attributes;
  if (p.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  plan->primitive = dnnl::matmul(p.with_bias ? dnnl::matmul::primitive_desc(plan->engine, a, b, bias, c, attributes)
                                             : dnnl::matmul::primitive_desc(plan->engine, a, b, c, attributes));
#else
  plan->primitive = dnnl::matmul(dnnl::matmul::primitive_desc(
      p.with_bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c), attributes, plan->engine));
#endif
  plan->a = memory(a, plan->engine, nullptr);
  plan->b = memory(b, plan->engine, nullptr);
  plan->c = memory(c, plan->engine, nullptr);
  plan->bias = memory(bias, plan->engine, nullptr);
  return [plan, threads, with_bias = p.with_bias](const void* from_a, const void* from_b, const void* from_bias,
                                                  void* to) {
    const ScopedOpenMpThreads again(threads);
    plan->a.set_data_handle(const_cast<void*>(from_a));
    plan->b.set_data_handle(const_cast<void*>(from_b));
    plan->c.set_data_handle(to);
    std::unordered_map<int, memory> arguments = {
        {DNNL_ARG_SRC, plan->a}, {DNNL_ARG_WEIGHTS, plan->b}, {DNNL_ARG_DST, plan->c}};
    if (with_bias) {
      plan->bias.set_data_handle(const_cast<void*>(from_bias));
      arguments[DNNL_ARG_BIAS] = plan->bias;
    }
    plan->primitive.execute(plan->stream, arguments);
    plan->stream.wait();
  };
}
#endif

#ifdef LONGHAUL_WITH_OPENBLAS
template <typename T>
LibraryMatmul openblas(const MatmulProblem& p, int threads) {
  return [p, threads](const void* a, const void* b, const void* bias, void* c) {
    const ScopedOpenMpThreads scope(threads);
    for (std::int64_t i = 0; i < p.batch; ++i) {
      T* to = static_cast<T*>(c) + i * p.stride_c;
      const T* addend = static_cast<const T*>(bias);
      for (std::int64_t row = 0; addend && row < p.m; ++row) {
        T* out = to + row * p.ldc;
        if (p.accumulate)
          std::transform(out, out + p.n, addend, out, std::plus<T>());
        else
          std::copy(addend, addend + p.n, out);
      }
      const auto gemm = [] {
        if constexpr (std::is_same_v<T, double>)
          return cblas_dgemm;
        else
          return cblas_sgemm;
      }();
      gemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans, p.transpose_b ? CblasTrans : CblasNoTrans,
           static_cast<blasint>(p.m), static_cast<blasint>(p.n), static_cast<blasint>(p.k), 1,
           static_cast<const T*>(a) + i * p.stride_a, static_cast<blasint>(p.lda),
           static_cast<const T*>(b) + i * p.stride_b, static_cast<blasint>(p.ldb), addend || p.accumulate ? T(1) : T(0),
           to, static_cast<blasint>(p.ldc));
    }
  };
}
#endif

}  // namespace

LibraryMatmul library_matmul([[maybe_unused]] const std::string& library, [[maybe_unused]] const MatmulProblem& p,
                             [[maybe_unused]] int threads) {
#ifdef LONGHAUL_WITH_ONEDNN
  if (library == "onednn") return onednn(p, threads);
#endif
#ifdef LONGHAUL_WITH_OPENBLAS
  if (library == "openblas" && p.a == DType::float64) return openblas<double>(p, threads);
  if (library == "openblas" && p.a == DType::float32) return openblas<float>(p, threads);
#endif
  return {};
}

}  // namespace longhaul::cpu::bench
