// loss_head, cross_entropy and its gradient, count_valid. The loss head goes over tiles of rows: logits in float32,
// their losses and gradients, and the products that use those.
#include <algorithm>
#include <memory>
#include <numeric>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

std::size_t line(std::int64_t bytes) {
  return static_cast<std::size_t>((bytes + 255) / 256 * 256);
}

struct LossHead {
  std::int64_t rows = 0, d = 0, v = 0, tile_rows = 0, stride = 0;
  cuda::Type type{};
  bool gradients = false, trains_weight = false;
  bool tokens = false;  // each one's loss is the second result
  float logits_scale = 1, soft_cap = 0;
  std::size_t product_workspace = 0;
  // Of a tile: 0 whole, 1 the last one where it has fewer rows.
  struct Products {
    std::shared_ptr<const ProductPlan> logits, input, weight;
  };
  Products products[2] = {};

  std::size_t logits_bytes() const { return line(tile_rows * stride * 4); }
  // Gradients of logits as the products read them; float32 ones take the logits' place.
  std::size_t gradient_bytes() const {
    return gradients && type == cuda::Type::bfloat16 ? line(tile_rows * stride * 2) : 0;
  }
  std::size_t loss_bytes() const { return tokens ? 0 : line(tile_rows * 4); }
  std::size_t first_gradient() const { return tokens ? 2 : 1; }  // among the results
  std::size_t scratch_bytes() const { return logits_bytes() + gradient_bytes() + loss_bytes() + product_workspace; }
};

// The fewest equal tiles of at most 2048 rows whose logits take at most 512 MiB.
std::int64_t tile_rows_of(std::int64_t rows, std::int64_t stride) {
  const std::int64_t most = std::clamp<std::int64_t>((std::int64_t{512} << 20) / (4 * stride), 32, 2048);
  const std::int64_t tiles = std::max<std::int64_t>(1, (rows + most - 1) / most);
  return std::max<std::int64_t>(1, (rows + tiles - 1) / tiles);
}

// The products of a tile of `rows` rows: logits, the gradient of the input, that of the weight.
cuda::Matmul logits_product(const LossHead& head, std::int64_t rows) {
  cuda::Matmul product{};
  product.m = rows, product.n = head.v, product.k = head.d, product.b_transposed = 1;
  product.type = head.type, product.out_type = cuda::Type::float32;
  product.a_stride = head.d, product.b_stride = head.d, product.c_stride = head.stride;
  product.workspace_bytes = static_cast<std::int64_t>(head.product_workspace);
  return product;
}
cuda::Matmul input_product(const LossHead& head, std::int64_t rows) {
  cuda::Matmul product{};
  product.m = rows, product.n = head.d, product.k = head.v;
  product.type = product.out_type = head.type;
  product.a_stride = head.stride, product.b_stride = head.d, product.c_stride = head.d;
  product.workspace_bytes = static_cast<std::int64_t>(head.product_workspace);
  return product;
}
cuda::Matmul weight_product(const LossHead& head, std::int64_t rows) {
  cuda::Matmul product{};
  product.m = head.v, product.n = head.d, product.k = rows, product.a_transposed = 1;
  product.type = head.type, product.out_type = cuda::Type::float32;
  product.a_stride = head.stride, product.b_stride = head.d, product.c_stride = head.d;
  product.workspace_bytes = static_cast<std::int64_t>(head.product_workspace);
  return product;
}

void plan_products(LossHead& head, ProductPlans& plans) {
  // Tiles begin at multiples of their rows' bytes, values and scratch at multiples of 64.
  const std::int64_t element = head.type == cuda::Type::bfloat16 ? 2 : 4;
  const auto alignment = static_cast<std::int32_t>(
      head.tile_rows < head.rows ? std::gcd<std::int64_t>(16, head.tile_rows * head.d * element) : 16);
  const auto plan = [&](std::int64_t rows) {
    LossHead::Products products;
    products.logits = plans.add(logits_product(head, rows), alignment);
    if (head.gradients) products.input = plans.add(input_product(head, rows), alignment);
    if (head.trains_weight) products.weight = plans.add(weight_product(head, rows), alignment);
    return products;
  };
  if (head.rows == 0) return;
  head.products[0] = plan(head.tile_rows);
  if (const std::int64_t rest = head.rows % head.tile_rows) head.products[1] = plan(rest);
}

void run_tile(const LossHead& head, const DeviceCall& call, std::int64_t begin) {
  const cuda::Api& api = call.context.api();
  const cuda::Stream stream = call.context.stream();
  const std::int64_t rows = std::min(head.tile_rows, head.rows - begin);
  const std::int64_t element = head.type == cuda::Type::bfloat16 ? 2 : 4;
  char* const logits = static_cast<char*>(call.scratch);
  char* const gradient = head.gradient_bytes() ? logits + head.logits_bytes() : logits;
  char* const losses = logits + head.logits_bytes() + head.gradient_bytes();
  char* const workspace = losses + head.loss_bytes();
  const char* const x = static_cast<const char*>(call.operands[0]) + begin * head.d * element;
  const LossHead::Products& plans = head.products[rows < head.tile_rows];
  const auto multiply = [&](const ProductPlan& plan, cuda::Matmul product, const void* a, const void* b, void* c) {
    product.alpha = 1;
    product.a = a, product.b = b, product.c = c;
    product.workspace = workspace;
    plan.run(call.context.device(), product);
  };
  multiply(*plans.logits, logits_product(head, rows), x, call.operands[1], logits);

  cuda::LossRows loss{};
  loss.rows = rows, loss.vocabulary = head.v, loss.row_stride = loss.gradient_stride = head.stride;
  loss.logits = logits, loss.type = cuda::Type::float32;
  loss.label = static_cast<const std::int32_t*>(call.operands[2]) + begin;
  loss.logits_scale = head.logits_scale, loss.soft_cap = head.soft_cap;
  loss.loss = head.tokens ? static_cast<float*>(call.results[1]) + begin : reinterpret_cast<float*>(losses);
  if (head.gradients) {
    loss.gradient = gradient, loss.gradient_type = head.type;
    loss.gradient_scale = static_cast<const double*>(call.operands[3]);
  }
  call.context.succeed(api.loss_rows(&loss, stream));
  const cuda::LossSum sum{rows, loss.loss, begin > 0, static_cast<double*>(call.results[0])};
  call.context.succeed(api.loss_sum(&sum, stream));
  if (!head.gradients) return;

  multiply(*plans.input, input_product(head, rows), gradient, call.operands[1],
           static_cast<char*>(call.results[head.first_gradient()]) + begin * head.d * element);
  if (!head.trains_weight) return;
  cuda::Matmul product = weight_product(head, rows);
  product.beta = begin > 0 ? 1.0f : 0.0f;
  multiply(*plans.weight, product, gradient, x, call.results[head.first_gradient() + 1]);
}

template <bool tokens>
bool make_loss_head(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto &x = problem.operands[0], &weight = problem.operands[1];
  if (!bind::narrow(refusal, {&x, &weight})) return false;
  if (x.dtype != weight.dtype) {
    refusal = "input and weight of two dtypes";
    return false;
  }
  LossHead head;
  head.tokens = tokens;
  const std::size_t weight_gradient = head.first_gradient() + 1;
  head.gradients = problem.results.size() > head.first_gradient();
  head.trains_weight = problem.results.size() > weight_gradient;
  if (head.trains_weight && !bind::single(problem.results[weight_gradient], "gradients of the weight", refusal))
    return false;
  head.rows = bind::rows(x), head.d = bind::last(x), head.v = weight.shape[0];
  head.type = bind::type_of(x.dtype);
  head.stride = (head.v + 31) / 32 * 32;
  head.tile_rows = tile_rows_of(head.rows, head.stride);
  head.logits_scale = static_cast<float>(problem.op.attributes.number("logits_scale", 1));
  head.soft_cap = static_cast<float>(problem.op.attributes.number("soft_cap", 0));
  head.product_workspace = problem.context.product_workspace();
  kernel.scratch_bytes = head.scratch_bytes();
  plan_products(head, problem.context.products());
  kernel.run = [head](const DeviceCall& call) {
    if (head.rows == 0) {
      const cuda::ScalarConstant nothing{0, static_cast<double*>(call.results[0])};
      call.context.succeed(call.context.api().scalar_constant(&nothing, call.context.stream()));
      if (head.trains_weight)
        call.context.succeed(call.context.api().fill(call.results[head.first_gradient() + 1], 0,
                                                     static_cast<std::size_t>(head.v * head.d) * 4,
                                                     call.context.stream()));
    }
    for (std::int64_t begin = 0; begin < head.rows; begin += head.tile_rows) run_tile(head, call, begin);
  };
  return true;
}

bool make_count_valid(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  const cuda::CountValid count{problem.operands[0].count(), nullptr, nullptr};
  return bind::run(kernel, count, bind::operands(&cuda::CountValid::label), bind::results(&cuda::CountValid::to),
                   &cuda::Api::count_valid);
}

// Logits of all rows, where a model does more to them than the loss head can.
template <bool gradient>
bool make_cross_entropy(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& logits = problem.operands[0];
  if (!bind::narrow(refusal, {&logits})) return false;
  cuda::LossRows loss{};
  loss.rows = bind::rows(logits), loss.vocabulary = loss.row_stride = loss.gradient_stride = bind::last(logits);
  loss.type = bind::type_of(logits.dtype);
  if (gradient) loss.gradient_type = bind::type_of(problem.results[0].dtype);
  loss.logits_scale = static_cast<float>(problem.op.attributes.number("logits_scale", 1));
  loss.soft_cap = static_cast<float>(problem.op.attributes.number("soft_cap", 0));
  const bool tokens = !gradient && problem.results.size() == 2;
  kernel.scratch_bytes = tokens ? 0 : line(loss.rows * 4);
  kernel.run = [=](const DeviceCall& call) {
    cuda::LossRows one = loss;
    one.logits = call.operands[0];
    one.label = static_cast<const std::int32_t*>(call.operands[1]);
    one.loss = static_cast<float*>(tokens ? call.results[1] : call.scratch);
    if (gradient) {
      one.gradient = call.results[0];
      one.gradient_scale = static_cast<const double*>(call.operands[2]);
    }
    call.context.succeed(call.context.api().loss_rows(&one, call.context.stream()));
    if (gradient) return;
    const cuda::LossSum sum{one.rows, one.loss, 0, static_cast<double*>(call.results[0])};
    call.context.succeed(call.context.api().loss_sum(&sum, call.context.stream()));
  };
  return true;
}

const DeviceKernels loss_head("loss_head", {{"tiles", make_loss_head<false>}});
const DeviceKernels loss_head_evaluate("loss_head_evaluate", {{"tiles", make_loss_head<false>}});
const DeviceKernels loss_head_frozen("loss_head_frozen", {{"tiles", make_loss_head<false>}});
const DeviceKernels loss_head_frozen_tokens("loss_head_frozen_tokens", {{"tiles", make_loss_head<true>}});
const DeviceKernels loss_head_tokens("loss_head_tokens", {{"tiles", make_loss_head<true>}});
const DeviceKernels loss_head_evaluate_tokens("loss_head_evaluate_tokens", {{"tiles", make_loss_head<true>}});
const DeviceKernels count_valid("count_valid", bind::generic(make_count_valid));
const DeviceKernels cross_entropy("cross_entropy", bind::generic(make_cross_entropy<false>));
const DeviceKernels cross_entropy_tokens("cross_entropy_tokens", bind::generic(make_cross_entropy<false>));
const DeviceKernels cross_entropy_gradient("cross_entropy_gradient", bind::generic(make_cross_entropy<true>));

}  // namespace
}  // namespace longhaul
