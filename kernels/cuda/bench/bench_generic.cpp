// The generic kernels, in float32: errors against plain loops in double on all results, bytes what must move at least.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/bench/bench.h"
#include "kernels/cuda/plain/attention.h"
#include "kernels/cuda/plain/norm.h"
#include "kernels/cuda/plain/pointwise.h"
#include "kernels/cuda/plain/tokens.h"

namespace longhaul::cuda::bench {
namespace {

// Float32 values here and on the device.
struct Values {
  Context& context;
  std::vector<float> host;
  float* device;
  Values(Context& on, std::int64_t count, unsigned seed, float scale = 1)
      : context(on), host(static_cast<std::size_t>(count)), device(static_cast<float*>(on.allocate(host.size() * 4))) {
    fill_random(host.data(), host.size(), seed, scale);
    upload();
  }
  void upload() const { context.upload(device, host.data(), host.size() * 4); }
  std::vector<double> wide() const { return {host.begin(), host.end()}; }
};
struct Room {
  Context& context;
  std::size_t count;
  float* device;
  Room(Context& on, std::int64_t elements)
      : context(on), count(static_cast<std::size_t>(elements)), device(static_cast<float*>(on.allocate(count * 4))) {}
  double error(const std::vector<double>& want) const {
    std::vector<float> got(count);
    context.download(got.data(), device, count * 4);
    double difference = 0, norm = 1e-300;
    for (std::size_t i = 0; i < count; i++) {
      const double d = static_cast<double>(got[i]) - want[i];
      difference += d * d, norm += want[i] * want[i];
    }
    return std::isfinite(difference) ? std::sqrt(difference / norm) : INFINITY;
  }
};
template <typename Call>
Measurement measured(Context& context, const Call& call, int (*Api::*function)(const Call*, Stream), double bytes) {
  Measurement m;
  context.time(m, [&] { context.succeed((context.api.*function)(&call, nullptr)); });
  m.bound = 1e-5, m.bytes = bytes;
  return m;
}
double* scalars(Context& context, const std::vector<double>& values) {
  auto* const to = static_cast<double*>(context.allocate(values.size() * 8));
  context.upload(to, values.data(), values.size() * 8);
  return to;
}

Measurement add(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Values a(context, count, 1), b(context, count, 2);
  const Room y(context, count);
  Add call{};
  call.count = count, call.type = Type::float32, call.inputs = 2, call.y = y.device;
  call.x[0] = a.device, call.x[1] = b.device;
  Measurement m = measured(context, call, &Api::add, 12.0 * static_cast<double>(count));
  std::vector<double> want;
  for (std::size_t i = 0; i < y.count; i++) want.push_back(static_cast<double>(a.host[i]) + b.host[i]);
  m.error = y.error(want);
  return m;
}

Measurement column_sums(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Values x(context, rows * columns, 1);
  const Room out(context, columns);
  const ColumnSums call{rows,
                        columns,
                        Type::float32,
                        Type::float32,
                        x.device,
                        out.device,
                        context.allocate(context.api.column_sums_workspace(rows, columns))};
  Measurement m = measured(context, call, &Api::column_sums, 4.0 * static_cast<double>(rows * columns));
  std::vector<double> want(static_cast<std::size_t>(columns), 0.0);
  for (std::size_t i = 0; i < x.host.size(); i++) want[i % want.size()] += x.host[i];
  m.error = out.error(want);
  return m;
}

Measurement reduce_heads(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("s"), many = shape.number("h"), few = shape.number("g"), d = shape.number("d");
  const Values x(context, rows * many * d, 1);
  const Room y(context, rows * few * d);
  const Heads call{rows,
                   static_cast<std::int32_t>(many),
                   static_cast<std::int32_t>(few),
                   static_cast<std::int32_t>(d),
                   Type::float32,
                   Type::float32,
                   x.device,
                   y.device};
  Measurement m = measured(context, call, &Api::reduce_heads, 4.0 * static_cast<double>(rows * (many + few) * d));
  std::vector<double> want(y.count, 0.0);
  for (std::int64_t i = 0; i < rows * many * d; i++)
    want[static_cast<std::size_t>((i / d / (many / few)) * d + i % d)] += x.host[static_cast<std::size_t>(i)];
  m.error = y.error(want);
  return m;
}

Measurement copy_table(Context& context, const Shape& shape) {
  // Heads to ranks, as an all-to-all packs them.
  const std::int64_t rows = shape.number("s"), heads = shape.number("h"), d = shape.number("d"),
                     ranks = shape.number("ranks"), part = heads / ranks * d;
  const Values x(context, rows * heads * d, 1);
  const Room y(context, rows * heads * d);
  std::vector<CopyEntry> table;
  for (std::int64_t rank = 0; rank < ranks; rank++)
    table.push_back({x.device + rank * part,
                     y.device + rank * rows * part,
                     {1, rows},
                     4 * part,
                     {0, 4 * heads * d},
                     {0, 4 * part}});
  Measurement m;
  context.time(m, [&] {
    context.succeed(context.api.copy_table(table.data(), static_cast<std::int32_t>(table.size()), nullptr));
  });
  std::vector<double> want;
  for (std::int64_t rank = 0; rank < ranks; rank++)
    for (std::int64_t row = 0; row < rows; row++)
      for (std::int64_t i = 0; i < part; i++)
        want.push_back(x.host[static_cast<std::size_t>(row * heads * d + rank * part + i)]);
  m.error = y.error(want), m.bound = 0, m.bytes = 8.0 * static_cast<double>(rows * heads * d);
  return m;
}

Measurement norm(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Values x(context, rows * columns, 1), weight(context, columns, 2);
  const Room y(context, rows * columns);
  const GenericNorm call{rows,          columns,  Norm::rms,     1e-5f,   0,       Type::float32,
                         Type::float32, x.device, weight.device, nullptr, y.device};
  Measurement m = measured(context, call, &Api::generic_norm, 8.0 * static_cast<double>(rows * columns));
  std::vector<double> want(y.count), deviation(static_cast<std::size_t>(rows));
  plain::norm_forward<double>(rows, columns, false, 1e-5, x.wide().data(), weight.wide().data(), nullptr, want.data(),
                              deviation.data(), nullptr);
  m.error = y.error(want);
  return m;
}

Measurement norm_gradient(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Values x(context, rows * columns, 1), weight(context, columns, 2), dy(context, rows * columns, 3);
  const Room dx(context, rows * columns), dweight(context, columns);
  GenericNormGradient call{};
  call.rows = rows, call.columns = columns, call.norm = Norm::rms, call.epsilon = 1e-5f;
  call.type = call.weight_type = Type::float32;
  call.x = x.device, call.weight = weight.device, call.dy = dy.device, call.dx = dx.device;
  call.dweight = dweight.device;
  call.workspace = context.allocate(context.api.generic_norm_workspace(rows, columns));
  Measurement m = measured(context, call, &Api::generic_norm_gradient, 12.0 * static_cast<double>(rows * columns));
  std::vector<double> y(dx.count), deviation(static_cast<std::size_t>(rows)), want(dx.count), sums(dweight.count, 0.0);
  plain::norm_forward<double>(rows, columns, false, 1e-5, x.wide().data(), weight.wide().data(), nullptr, y.data(),
                              deviation.data(), nullptr);
  plain::norm_backward<double>(rows, columns, false, x.wide().data(), weight.wide().data(), dy.wide().data(),
                               deviation.data(), nullptr, want.data(), sums.data(), nullptr);
  m.error = std::max(dx.error(want), dweight.error(sums));
  return m;
}

Measurement loss_rows(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), vocabulary = shape.number("vocabulary");
  const Values logits(context, rows * vocabulary, 1, 3);
  const Room loss(context, rows), gradient(context, rows * vocabulary);
  std::vector<std::int32_t> label;
  for (std::int64_t i = 0; i < rows; i++) label.push_back(static_cast<std::int32_t>(i * 37 % vocabulary));
  auto* const d_label = static_cast<std::int32_t*>(context.allocate(label.size() * 4));
  context.upload(d_label, label.data(), label.size() * 4);
  const LossRows call{rows,
                      vocabulary,
                      vocabulary,
                      vocabulary,
                      logits.device,
                      Type::float32,
                      gradient.device,
                      Type::float32,
                      d_label,
                      1,
                      0,
                      scalars(context, {0.25}),
                      loss.device};
  Measurement m = measured(context, call, &Api::loss_rows, 8.0 * static_cast<double>(rows * vocabulary));
  std::vector<double> want = logits.wide(), losses(loss.count);
  plain::loss_tile<double>(rows, vocabulary, want.data(), label.data(), 1, 0, 0.25, losses.data());
  m.error = std::max(loss.error(losses), gradient.error(want));
  return m;
}

Measurement optimizer_step(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Values gradient(context, count, 1), parameter(context, count, 2), first(context, count, 3);
  Values second(context, count, 4);
  for (float& x : second.host) x *= x;
  second.upload();
  std::vector<double> p = parameter.wide(), m1 = first.wide(), m2 = second.wide();
  double* const s = scalars(context, {0.5, 1e-2, 3});
  OptimizerStep call{};
  call.rule = OptimizerRule::adamw;
  call.one = {
      0,   count, parameter.device, first.device, second.device, gradient.device, nullptr, Type::float32, Type::float32,
      0.1, 0};
  call.coefficient = s, call.learning_rate = s + 1, call.step = s + 2;
  call.beta1 = 0.9, call.beta2 = 0.95, call.epsilon = 1e-8;
  context.succeed(context.api.optimizer_step(&call, nullptr));
  plain::adamw<double>(count, p.data(), m1.data(), m2.data(), gradient.wide().data(), 0.5, 1e-2, 0.9, 0.95, 1e-8, 0.1,
                       3);
  std::vector<float> got(p.size());
  context.download(got.data(), parameter.device, got.size() * 4);
  Measurement m = measured(context, call, &Api::optimizer_step, 28.0 * static_cast<double>(count));
  double difference = 0, norm = 1e-300;
  for (std::size_t i = 0; i < p.size(); i++) difference += (got[i] - p[i]) * (got[i] - p[i]), norm += p[i] * p[i];
  m.error = std::sqrt(difference / norm);
  return m;
}

// As many tensors of as many elements.
Measurement sums_of_squares(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count"), tensors = shape.number("tensors"), each = count / tensors;
  const Values x(context, each * tensors, 1);
  double* const results = scalars(context, std::vector<double>(static_cast<std::size_t>(tensors), 0));
  std::vector<SquaresTensor> rows;
  for (std::int64_t i = 0; i < tensors; i++)
    rows.push_back({0, each, x.device + i * each, results + i, Type::float32, 0});
  SquaresTable call{};
  call.tensors = static_cast<std::int32_t>(tensors);
  call.blocks = context.api.squares_blocks(rows.data(), call.tensors);
  const std::size_t bytes = rows.size() * sizeof rows[0];
  void* const table = context.allocate(bytes);
  context.upload(table, rows.data(), bytes);
  call.tensor = static_cast<const SquaresTensor*>(table);
  call.workspace = static_cast<double*>(context.allocate(static_cast<std::size_t>(call.blocks) * sizeof(double)));
  Measurement m = measured(context, call, &Api::sums_of_squares, 4.0 * static_cast<double>(each * tensors));
  std::vector<double> got(rows.size());
  context.download(got.data(), results, got.size() * sizeof(double));
  for (std::int64_t i = 0; i < tensors; i++) {
    double want = 0;
    for (std::int64_t k = 0; k < each; k++) {
      const double value = x.host[static_cast<std::size_t>(i * each + k)];
      want += value * value;
    }
    m.error = std::max(m.error, std::abs(got[static_cast<std::size_t>(i)] - want) / want);
  }
  return m;
}

// Causal, one document.
struct AttentionTensors {
  std::int64_t s, h, g, d;
  Values q, k, v, dout;
  std::vector<std::int32_t> index, start;
  GenericAttention problem;
  AttentionTensors(Context& context, const Shape& shape)
      : s(shape.number("s")),
        h(shape.number("h")),
        g(shape.number("g")),
        d(shape.number("d")),
        q(context, s * h * d, 1),
        k(context, s * g * d, 2),
        v(context, s * g * d, 3),
        dout(context, s * h * d, 4),
        start(static_cast<std::size_t>(s), 0) {
    for (std::int64_t i = 0; i < s; i++) index.push_back(static_cast<std::int32_t>(i));
    auto* const d_index = static_cast<std::int32_t*>(context.allocate(index.size() * 4));
    auto* const d_start = static_cast<std::int32_t*>(context.allocate(index.size() * 4));
    context.upload(d_index, index.data(), index.size() * 4), context.upload(d_start, start.data(), start.size() * 4);
    problem = {1,
               static_cast<std::int32_t>(s),
               static_cast<std::int32_t>(s),
               static_cast<std::int32_t>(h),
               static_cast<std::int32_t>(g),
               static_cast<std::int32_t>(d),
               0,
               scale(),
               0,
               d_index,
               d_start,
               d_index,
               Type::float32,
               q.device,
               k.device,
               v.device};
  }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(d))); }
  double flops() const { return 2.0 * static_cast<double>(s * s * h * d); }
};

Measurement attention(Context& context, const Shape& shape, bool backward) {
  const AttentionTensors t(context, shape);
  const Room out(context, t.s * t.h * t.d), lse(context, t.s * t.h), delta(context, t.s * t.h),
      dq(context, t.s * t.h * t.d), dk(context, t.s * t.g * t.d), dv(context, t.s * t.g * t.d);
  const std::vector<double> q = t.q.wide(), k = t.k.wide(), v = t.v.wide();
  const plain::AttentionInputs<double> in{
      {1, t.problem.queries, t.problem.keys, t.problem.heads, t.problem.kv_heads, t.problem.head_dim, t.scale()},
      0,
      t.index.data(),
      t.start.data(),
      t.index.data(),
      q.data(),
      k.data(),
      v.data()};
  std::vector<double> want(out.count), want_lse(lse.count);
  plain::attention_forward(in, want.data(), want_lse.data());
  const GenericAttentionForward forward{t.problem, Type::float32, out.device, lse.device};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.generic_attention_forward(&forward, nullptr)); });
  m.flops = t.flops(), m.bound = 1e-5;
  m.error = std::max(out.error(want), lse.error(want_lse));
  if (!backward) return m;
  const AttentionDelta sums{
      1,          t.problem.queries, t.problem.heads, t.problem.head_dim, Type::float32, Type::float32,
      out.device, t.dout.device,     delta.device};
  const GenericAttentionBackward call{t.problem,     t.dout.device, lse.device, delta.device, Type::float32,
                                      Type::float32, dq.device,     dk.device,  dv.device,    0};
  context.time(m, [&] {
    context.succeed(context.api.attention_delta(&sums, nullptr));
    context.succeed(context.api.generic_attention_backward(&call, nullptr));
  });
  std::vector<double> want_dq(dq.count), want_dk(dk.count), want_dv(dv.count);
  plain::attention_backward(in, want.data(), want_lse.data(), t.dout.wide().data(), want_dq.data(), want_dk.data(),
                            want_dv.data());
  m.flops = 2.5 * t.flops(), m.bound = 2e-5;
  m.error = std::max({dq.error(want_dq), dk.error(want_dk), dv.error(want_dv)});
  return m;
}

}  // namespace

std::vector<Op> generic_ops() {
  const auto forward = [](Context& context, const Shape& shape) { return attention(context, shape, false); };
  const auto backward = [](Context& context, const Shape& shape) { return attention(context, shape, true); };
  return {
      {"add", {"count=67108864"}, "count=5001", add, {}},
      {"column_sums", {"rows=16384,columns=4096"}, "rows=131,columns=13", column_sums, {}},
      {"reduce_heads", {"s=16384,h=32,g=8,d=128"}, "s=7,h=6,g=2,d=5", reduce_heads, {}},
      {"copy_table", {"s=32768,h=32,d=128,ranks=8"}, "s=20,h=4,d=7,ranks=2", copy_table, {}},
      {"generic_norm", {"rows=16384,columns=4096"}, "rows=21,columns=50", norm, {}},
      {"generic_norm_gradient", {"rows=16384,columns=4096"}, "rows=70,columns=50", norm_gradient, {}},
      {"loss_rows", {"rows=1024,vocabulary=128256"}, "rows=5,vocabulary=29", loss_rows, {}},
      {"optimizer_step", {"count=67108864"}, "count=5001", optimizer_step, {}},
      {"sums_of_squares", {"count=67108864,tensors=64"}, "count=501,tensors=5", sums_of_squares, {}},
      {"generic_attention_forward", {"s=1024,h=8,g=2,d=80"}, "s=33,h=4,g=2,d=20", forward, {}},
      {"generic_attention_backward", {"s=1024,h=8,g=2,d=80"}, "s=33,h=4,g=2,d=20", backward, {}},
  };
}

}  // namespace longhaul::cuda::bench
