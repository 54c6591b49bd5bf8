// Matrix products by oneDNN (2.6 and later; 3.x too), with its scratch memory provided by the caller.
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/support.h"

#ifdef LONGHAUL_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#endif

namespace longhaul::cpu {

#ifndef LONGHAUL_WITH_ONEDNN

std::unique_ptr<MatmulBackend> make_onednn_matmul(const MatmulProblem&, int, std::string& reason) {
  reason = "this build has no oneDNN";
  return nullptr;
}

#else

namespace {

dnnl::memory::data_type data_type(DType type) {
  return type == DType::bfloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// A [batch,] rows x columns operand, stored transposed or not.
dnnl::memory::desc describe_operand(DType type, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                                    std::int64_t leading, bool transposed, std::int64_t stride) {
  dnnl::memory::dims dims = {rows, columns}, strides = {leading, 1};
  if (transposed) strides = {1, leading};
  if (batch != 1) {
    dims.insert(dims.begin(), batch);
    strides.insert(strides.begin(), stride);
  }
  return {dims, data_type(type), strides};
}

class OneDnnMatmul final : public MatmulBackend {
 public:
  OneDnnMatmul(const MatmulProblem& p, int threads)
      : threads_(threads), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    // Blocking and scratch depend on the number of OpenMP threads at this moment.
    ScopedOpenMpThreads scope(threads);
    const auto a = describe_operand(p.a, p.batch, p.m, p.k, p.lda, p.transpose_a, p.stride_a);
    const auto b = describe_operand(p.b, p.batch, p.k, p.n, p.ldb, p.transpose_b, p.stride_b);
    const auto c = describe_operand(p.c, p.batch, p.m, p.n, p.ldc, false, p.stride_c);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    dnnl::memory::dims bias_dims = {1, p.n};
    if (p.batch != 1) bias_dims.insert(bias_dims.begin(), 1);
    const dnnl::memory::desc bias(bias_dims, data_type(p.bias_type),
                                  p.batch != 1 ? dnnl::memory::format_tag::abc : dnnl::memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    const auto describe_all = [&] {
      return p.with_bias ? dnnl::matmul::primitive_desc(engine_, a, b, bias, c, attributes)
                         : dnnl::matmul::primitive_desc(engine_, a, b, c, attributes);
    };
#else
    const dnnl::matmul::desc operation = p.with_bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
    const auto describe_all = [&] { return dnnl::matmul::primitive_desc(operation, attributes, engine_); };
#endif
    const dnnl::matmul::primitive_desc plan = choose(p, describe_all);
    primitive_ = dnnl::matmul(plan);
    scratch_bytes_ = plan.scratchpad_desc().get_size();
    a_ = dnnl::memory(a, engine_, nullptr);
    b_ = dnnl::memory(b, engine_, nullptr);
    c_ = dnnl::memory(c, engine_, nullptr);
    scratch_ = dnnl::memory(plan.scratchpad_desc(), engine_, nullptr);
    if (p.with_bias) bias_ = dnnl::memory(bias, engine_, nullptr);
  }

  std::size_t scratch_bytes() const override {
    return round_to_line(scratch_bytes_);
  }

  void run(ThreadPool&, const void* a, const void* b, const void* bias, void* c, void* scratch) override {
    ScopedOpenMpThreads scope(threads_);
    a_.set_data_handle(const_cast<void*>(a));
    b_.set_data_handle(const_cast<void*>(b));
    c_.set_data_handle(c);
    scratch_.set_data_handle(scratch);
    // The C interface takes its arguments from the stack; the C++ one builds a map each time.
    dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, a_.get()},
                                    {DNNL_ARG_WEIGHTS, b_.get()},
                                    {DNNL_ARG_DST, c_.get()},
                                    {DNNL_ARG_SCRATCHPAD, scratch_.get()},
                                    {}};
    int count = 4;
    if (bias_) {
      bias_.set_data_handle(const_cast<void*>(bias));
      arguments[count++] = {DNNL_ARG_BIAS, bias_.get()};
    }
    const dnnl_status_t status = dnnl_primitive_execute(primitive_.get(), stream_.get(), count, arguments);
    LONGHAUL_CHECK(status == dnnl_success, "oneDNN matmul failed with status {}", static_cast<int>(status));
    stream_.wait();
  }

 private:
  /// The library's first implementation multiplies blocks that it packs as it goes ("brg"); its older one ("gemm:jit")
  /// packs panels. The first is faster where both operands run along k, the other, by 3 to 15 %, everywhere else, that
  /// is in every product of a backward pass (docs/performance.md). Where there is no other, the first it is.
  template <typename Describe>
  static dnnl::matmul::primitive_desc choose(const MatmulProblem& p, Describe describe) {
    const bool along_k = !p.transpose_a && p.transpose_b;
    if (!along_k && p.batch == 1) {
      auto plan = describe();
      do {
        if (std::string_view(plan.impl_info_str()).substr(0, 8) == "gemm:jit") return plan;
      } while (plan.next_impl());
    }
    return describe();
  }

  int threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  std::size_t scratch_bytes_ = 0;
  dnnl::memory a_, b_, c_, scratch_, bias_;
};

}  // namespace

std::unique_ptr<MatmulBackend> make_onednn_matmul(const MatmulProblem& p, int threads, std::string& reason) {
  if (p.a == DType::float64) {
    reason = "oneDNN has no float64";
    return nullptr;
  }
  if (p.m == 0 || p.n == 0 || p.batch == 0) {
    reason = "empty product";
    return nullptr;
  }
  try {
    return std::make_unique<OneDnnMatmul>(p, threads);
  } catch (const dnnl::error& error) {
    reason = fmt::format("oneDNN {}.{} says: {}", DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, error.what());
    return nullptr;
  }
}

#endif

}  // namespace longhaul::cpu
