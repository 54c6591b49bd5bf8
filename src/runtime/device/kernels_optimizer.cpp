// sum_squares, clip_coefficient, adamw, sgd, sgd_momentum, muon_momentum, orthogonalize, muon_step.
#include <algorithm>

#include "runtime/device/bind.h"
#include "runtime/device/optimizer_row.h"

namespace longhaul {
namespace {

bool make_sum_squares(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& x = problem.operands[0];
  if (!bind::narrow(refusal, {&x})) return false;
  const cuda::Type type = bind::type_of(x.dtype);
  kernel.scratch_bytes = problem.context.api().sum_of_squares_workspace();
  kernel.run = [type, count = x.count()](const DeviceCall& call) {
    call.context.succeed(call.context.api().sum_of_squares(
        call.operands[0], type, count, 0, static_cast<double*>(call.results[0]), call.scratch, call.context.stream()));
  };
  return true;
}

bool make_clip(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  using Clip = cuda::ClipCoefficient;
  Clip clip{};
  clip.max_norm = problem.op.attributes.number("max_norm");
  return bind::run(kernel, clip, bind::operands(&Clip::sum), bind::results(&Clip::coefficient, &Clip::norm),
                   &cuda::Api::clip_coefficient);
}

// Every optimizer's: where a result could not take its operand's place, the old values are copied first.
bool make_step(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  cuda::OptimizerStep step{};
  if (!optimizer_step(problem, step, refusal)) return false;
  kernel.run = [step, name = problem.name()](const DeviceCall& call) {
    cuda::OptimizerStep one = step;
    connect_optimizer(one, name, call.operands, call.results);
    call.context.succeed(call.context.api().optimizer_step(&one, call.context.stream()));
  };
  std::vector<bind::Continued> continued;
  for (const auto& [result, operand] : problem.op.definition->in_place) {
    const auto r = static_cast<std::size_t>(result);
    continued.push_back({static_cast<std::size_t>(operand), r, problem.results[r].bytes()});
  }
  bind::copy_first(kernel, std::move(continued));
  return true;
}

// Newton-Schulz iterations as kernels/cpu/muon.cpp has them: X = x / max(|x|, 1e-7); five times A = X XT of the smaller
// side, X = a X + (b A + c A A) X.
bool make_orthogonalize(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::single(problem.results[0], "an orthogonal matrix", refusal)) return false;
  constexpr float a = 3.4445f, b = -4.775f, c = 2.0315f;
  constexpr int iterations = 5;
  const std::int64_t rows = problem.op.attributes.integer("rows"), count = problem.results[0].count(),
                     columns = count / std::max<std::int64_t>(1, rows), least = std::min(rows, columns);
  const bool tall = rows > columns;
  const auto room = [](std::int64_t elements) { return static_cast<std::size_t>((elements * 4 + 255) / 256 * 256); };
  const std::size_t sums = (problem.context.api().sum_of_squares_workspace() + 8 + 255) / 256 * 256,
                    workspace = problem.context.product_workspace();
  kernel.scratch_bytes = room(count) + 2 * room(least * least) + sums + workspace;
  // x y; x and y row-major, transposed where a stride says so
  const auto product = [workspace](std::int64_t m, std::int64_t n, std::int64_t k, bool x_transposed,
                                   bool y_transposed) {
    cuda::Matmul one{};
    one.m = m, one.n = n, one.k = k;
    one.a_transposed = x_transposed, one.b_transposed = y_transposed;
    one.type = one.out_type = cuda::Type::float32;
    one.a_stride = x_transposed ? m : k, one.b_stride = y_transposed ? k : n, one.c_stride = n;
    one.workspace_bytes = static_cast<std::int64_t>(workspace);
    return one;
  };
  struct Planned {
    cuda::Matmul product;
    std::shared_ptr<const ProductPlan> plan;
  };
  const auto planned = [&](const cuda::Matmul& one) { return Planned{one, problem.context.products().add(one, 16)}; };
  const Planned squares = planned(product(least, least, tall ? rows : columns, tall, !tall)),
                fourths = planned(product(least, least, least, false, false)),
                next = planned(tall ? product(rows, columns, columns, false, false)
                                    : product(rows, columns, rows, false, false));
  kernel.run = [=](const DeviceCall& call) {
    const cuda::Api& api = call.context.api();
    const cuda::Stream stream = call.context.stream();
    char* scratch = static_cast<char*>(call.scratch);
    const auto take = [&](std::size_t bytes) {
      scratch += bytes;
      return scratch - bytes;
    };
    float *from = reinterpret_cast<float*>(take(room(count))), *to = static_cast<float*>(call.results[0]);
    float *const gram = reinterpret_cast<float*>(take(room(least * least))), *const square = reinterpret_cast<float*>(
                                                                                 take(room(least * least)));
    auto* const norm = reinterpret_cast<double*>(take(sums));
    call.context.succeed(api.sum_of_squares(call.operands[0], cuda::Type::float32, count, 0, norm, norm + 1, stream));
    const cuda::Scale scale{count, cuda::Type::float32, 1, call.operands[0], from, norm};
    call.context.succeed(api.scale(&scale, stream));
    // result = alpha x y (+ beta addend)
    const auto multiply = [&](const Planned& of, const float* x, const float* y, float alpha, float beta,
                              const float* addend, float* result) {
      cuda::Matmul one = of.product;
      one.alpha = alpha, one.beta = beta;
      one.a = x, one.b = y, one.c = result, one.addend = addend;
      one.workspace = workspace ? scratch : nullptr;
      of.plan->run(call.context.device(), one);
    };
    static_assert(iterations % 2 == 1);  // so that the last one writes the result
    for (int i = 0; i < iterations; ++i) {
      multiply(squares, from, from, 1, 0, nullptr, gram);
      multiply(fourths, gram, gram, c, b, gram, square);
      multiply(next, tall ? from : square, tall ? square : from, 1, a, from, to);
      std::swap(from, to);
    }
  };
  return true;
}

const DeviceKernels sum_squares("sum_squares", bind::generic(make_sum_squares));
const DeviceKernels clip("clip_coefficient", bind::generic(make_clip));
const DeviceKernels adamw("adamw", bind::generic(make_step));
const DeviceKernels sgd("sgd", bind::generic(make_step));
const DeviceKernels sgd_momentum("sgd_momentum", bind::generic(make_step));
const DeviceKernels momentum("muon_momentum", bind::generic(make_step));
const DeviceKernels orthogonalize("orthogonalize", {{"library", make_orthogonalize}});
const DeviceKernels muon_step("muon_step", bind::generic(make_step));

}  // namespace
}  // namespace longhaul
