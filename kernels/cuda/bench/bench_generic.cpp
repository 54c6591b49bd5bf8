// The generic kernels of norms, losses, optimizers and attention: errors against plain loops in double on all
// results, bytes what must move at least.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cuda/bench/values.h"
#include "kernels/cuda/plain/attention.h"
#include "kernels/cuda/plain/norm.h"
#include "kernels/cuda/plain/pointwise.h"
#include "kernels/cuda/plain/tokens.h"

namespace longhaul::cuda::bench {
namespace {

Measurement norm(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Type type = type_of(shape);
  const Values x(context, type, rows * columns, 1), weight(context, Type::float32, columns, 2);
  const Room y(context, type, rows * columns);
  const GenericNorm call{rows,          columns,  Norm::rms,     1e-5f,   0,       type,
                         Type::float32, x.device, weight.device, nullptr, y.device};
  Measurement m = measured(context, call, &Api::generic_norm, 2 * bytes_of(type) * static_cast<double>(rows * columns),
                           bound_of(type));
  std::vector<double> want(y.count), deviation(static_cast<std::size_t>(rows));
  plain::norm_forward<double>(rows, columns, false, 1e-5, x.wide().data(), weight.wide().data(), nullptr, want.data(),
                              deviation.data(), nullptr);
  m.error = y.error(want);
  return m;
}

Measurement norm_gradient(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Type type = type_of(shape);
  const Values x(context, type, rows * columns, 1), weight(context, Type::float32, columns, 2),
      dy(context, type, rows * columns, 3);
  const Room dx(context, type, rows * columns), dweight(context, Type::float32, columns);
  GenericNormGradient call{};
  call.rows = rows, call.columns = columns, call.norm = Norm::rms, call.epsilon = 1e-5f;
  call.type = type, call.weight_type = Type::float32;
  call.x = x.device, call.weight = weight.device, call.dy = dy.device, call.dx = dx.device;
  call.dweight = dweight.floats();
  call.workspace = context.allocate(context.api.generic_norm_workspace(rows, columns));
  Measurement m = measured(context, call, &Api::generic_norm_gradient,
                           3 * bytes_of(type) * static_cast<double>(rows * columns), bound_of(type));
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
  const Type type = type_of(shape);  // of the gradient; logits are float32
  const Values logits(context, Type::float32, rows * vocabulary, 1, 3);
  const Room loss(context, Type::float32, rows), gradient(context, type, rows * vocabulary);
  std::vector<std::int32_t> label;
  for (std::int64_t i = 0; i < rows; i++) label.push_back(static_cast<std::int32_t>(i * 37 % vocabulary));
  const LossRows call{rows,
                      vocabulary,
                      vocabulary,
                      vocabulary,
                      logits.device,
                      Type::float32,
                      gradient.device,
                      type,
                      on_device(context, label),
                      1,
                      0,
                      on_device<double>(context, {0.25}),
                      loss.floats()};
  Measurement m = measured(context, call, &Api::loss_rows,
                           (4 + bytes_of(type)) * static_cast<double>(rows * vocabulary), bound_of(type));
  std::vector<double> want = logits.wide(), losses(loss.count);
  plain::loss_tile<double>(rows, vocabulary, want.data(), label.data(), 1, 0, 0.25, losses.data());
  m.error = std::max(loss.error(losses), gradient.error(want));
  return m;
}

struct RuleName {
  const char* name;
  OptimizerRule rule;
  double bytes, moment_bytes;  // of an element: parameter and gradient, and moments a byte of their type
};
constexpr RuleName kRules[] = {{"adamw", OptimizerRule::adamw, 8, 4},
                               {"sgd", OptimizerRule::sgd, 8, 2},
                               {"muon_momentum", OptimizerRule::muon_momentum, 4, 2},
                               {"muon_step", OptimizerRule::muon_step, 8, 0}};

// One tensor; dtype is that of its gradient and moments. SGD and Muon's momentum with Nesterov's.
Measurement optimizer_step(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Type type = type_of(shape);
  const auto* const known = std::find_if(std::begin(kRules), std::end(kRules),
                                         [&](const RuleName& rule) { return rule.name == shape.word("rule"); });
  if (known == std::end(kRules))
    throw Error("rule=" + shape.word("rule") + " is not adamw, sgd, muon_momentum or muon_step");
  const OptimizerRule rule = known->rule;
  const Values gradient(context, type, count, 1), parameter(context, Type::float32, count, 2),
      first(context, type, count, 3);
  Values second(context, type, count, 4);
  for (float& x : second.host) x *= x;
  second.upload(context);
  std::vector<double> p = parameter.wide(), m1 = first.wide(), m2 = second.wide();
  const double* const s = on_device<double>(context, {0.5, 1e-2, 3});
  OptimizerStep call{};
  call.rule = rule, call.nesterov = 1;
  call.one = {0,
              count,
              static_cast<float*>(parameter.device),
              rule == OptimizerRule::muon_step ? nullptr : first.device,
              rule == OptimizerRule::adamw ? second.device : nullptr,
              gradient.device,
              nullptr,
              type,
              type,
              0.1,
              0.7};
  call.coefficient = s, call.learning_rate = s + 1, call.step = s + 2;
  call.beta1 = 0.9, call.beta2 = 0.95, call.epsilon = 1e-8;
  context.succeed(context.api.optimizer_step(&call, nullptr));
  const std::vector<double> g = gradient.wide();
  switch (rule) {
    case OptimizerRule::adamw:
      plain::adamw<double>(count, p.data(), m1.data(), m2.data(), g.data(), 0.5, 1e-2, 0.9, 0.95, 1e-8, 0.1, 3);
      break;
    case OptimizerRule::sgd:
      plain::sgd<double>(count, p.data(), m1.data(), g.data(), 0.5, 1e-2, 0.9, true, 0.1);
      break;
    case OptimizerRule::muon_momentum:
      plain::muon_momentum<double>(count, p.data(), m1.data(), g.data(), 0.5, 0.9, true);
      break;
    case OptimizerRule::muon_step:
      plain::muon_step<double>(count, p.data(), g.data(), 1e-2, 0.7, 0.1);
      break;
  }
  double error = error_of(context, Type::float32, parameter.device, p);
  if (rule != OptimizerRule::muon_step)  // in bfloat16 what is kept rounds more than the parameters may differ
    error = std::max(error, error_of(context, type, first.device, m1) * 1e-5 / bound_of(type));
  Measurement m =
      measured(context, call, &Api::optimizer_step,
               (known->bytes + bytes_of(type) * (1 + known->moment_bytes)) * static_cast<double>(count), 1e-5);
  m.error = error;
  return m;
}

// As many tensors of as many elements.
Measurement sums_of_squares(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count"), tensors = shape.number("tensors"), each = count / tensors;
  const Type type = type_of(shape);
  const Values x(context, type, each * tensors, 1);
  double* const results = on_device(context, std::vector<double>(static_cast<std::size_t>(tensors), 0));
  std::vector<SquaresTensor> rows;
  for (std::int64_t i = 0; i < tensors; i++)
    rows.push_back({0, each, static_cast<const char*>(x.device) + i * each * static_cast<std::int64_t>(bytes_of(type)),
                    results + i, type, 0});
  SquaresTable call{};
  call.tensors = static_cast<std::int32_t>(tensors);
  call.blocks = context.api.squares_blocks(rows.data(), call.tensors);
  call.tensor = on_device(context, rows);
  call.workspace = static_cast<double*>(context.allocate(static_cast<std::size_t>(call.blocks) * sizeof(double)));
  Measurement m =
      measured(context, call, &Api::sums_of_squares, bytes_of(type) * static_cast<double>(each * tensors), 1e-5);
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
  Type type;
  Values q, k, v, dout;
  std::vector<std::int32_t> index, start;
  GenericAttention problem;
  AttentionTensors(Context& context, const Shape& shape)
      : s(shape.number("s")),
        h(shape.number("h")),
        g(shape.number("g")),
        d(shape.number("d")),
        type(type_of(shape)),
        q(context, type, s * h * d, 1),
        k(context, type, s * g * d, 2),
        v(context, type, s * g * d, 3),
        dout(context, type, s * h * d, 4),
        start(static_cast<std::size_t>(s), 0) {
    for (std::int64_t i = 0; i < s; i++) index.push_back(static_cast<std::int32_t>(i));
    const std::int32_t* const d_index = on_device(context, index);
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
               on_device(context, start),
               d_index,
               type,
               q.device,
               k.device,
               v.device};
  }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(d))); }
  double flops() const { return 2.0 * static_cast<double>(s * s * h * d); }
};

// Results are float32 whatever the operands are.
Measurement attention(Context& context, const Shape& shape, bool backward) {
  const AttentionTensors t(context, shape);
  const Type wide = Type::float32;
  const Room out(context, wide, t.s * t.h * t.d), lse(context, wide, t.s * t.h), delta(context, wide, t.s * t.h),
      dq(context, wide, t.s * t.h * t.d), dk(context, wide, t.s * t.g * t.d), dv(context, wide, t.s * t.g * t.d);
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
  const GenericAttentionForward forward{t.problem, wide, out.device, lse.floats()};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.generic_attention_forward(&forward, nullptr)); });
  m.flops = t.flops(), m.bound = 1e-5;
  m.error = std::max(out.error(want), lse.error(want_lse));
  if (!backward) return m;
  const AttentionDelta sums{1,      t.problem.queries, t.problem.heads, t.problem.head_dim, wide,
                            t.type, out.device,        t.dout.device,   delta.floats()};
  const GenericAttentionBackward call{t.problem, t.dout.device, lse.floats(), delta.floats(), wide,
                                      wide,      dq.device,     dk.device,    dv.device,      0};
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

Measurement attention_delta(Context& context, const Shape& shape) {
  const std::int64_t s = shape.number("s"), h = shape.number("h"), d = shape.number("d");
  const Type type = type_of(shape);
  const Values out(context, type, s * h * d, 1), dout(context, type, s * h * d, 2);
  const Room delta(context, Type::float32, s * h);
  const AttentionDelta call{1,
                            static_cast<std::int32_t>(s),
                            static_cast<std::int32_t>(h),
                            static_cast<std::int32_t>(d),
                            type,
                            type,
                            out.device,
                            dout.device,
                            delta.floats()};
  Measurement m =
      measured(context, call, &Api::attention_delta,
               2 * bytes_of(type) * static_cast<double>(s * h * d) + 4.0 * static_cast<double>(s * h), 1e-5);
  std::vector<double> want(delta.count, 0.0);
  for (std::size_t i = 0; i < out.host.size(); i++)
    want[i / static_cast<std::size_t>(d)] += static_cast<double>(out.host[i]) * dout.host[i];
  m.error = delta.error(want);
  return m;
}

Measurement merge(Context& context, const Shape& shape) {
  const std::int64_t s = shape.number("s"), h = shape.number("h"), d = shape.number("d");
  const Type wide = Type::float32;
  const Values a(context, wide, s * h * d, 1), b(context, wide, s * h * d, 2), lse_a(context, wide, s * h, 3),
      lse_b(context, wide, s * h, 4);
  const Room out(context, wide, s * h * d), lse(context, wide, s * h);
  const auto floats = [](const Values& values) { return static_cast<const float*>(values.device); };
  const GenericMerge call{1,
                          static_cast<std::int32_t>(s),
                          static_cast<std::int32_t>(h),
                          static_cast<std::int32_t>(d),
                          floats(a),
                          floats(lse_a),
                          floats(b),
                          floats(lse_b),
                          out.floats(),
                          lse.floats()};
  Measurement m = measured(context, call, &Api::generic_merge, 12.0 * static_cast<double>(s * h * (d + 1)), 1e-5);
  std::vector<double> want(out.count), want_lse(lse.count);
  for (std::int64_t row = 0; row < s; row++)
    for (std::int64_t head = 0; head < h; head++) {
      const auto at = static_cast<std::size_t>(head * s + row);
      const double part_a = std::exp(static_cast<double>(lse_a.host[at])),
                   part_b = std::exp(static_cast<double>(lse_b.host[at]));
      want_lse[at] = std::log(part_a + part_b);
      for (std::int64_t i = 0; i < d; i++) {
        const auto k = static_cast<std::size_t>((row * h + head) * d + i);
        want[k] = (part_a * a.host[k] + part_b * b.host[k]) / (part_a + part_b);
      }
    }
  m.error = std::max(out.error(want), lse.error(want_lse));
  return m;
}

}  // namespace

std::vector<Op> generic_ops() {
  using std::placeholders::_1, std::placeholders::_2;
  // On the emulator in both types.
  const auto both = [](const std::string& shape) {
    return std::vector<std::string>{shape + ",dtype=float32", "dtype=bfloat16"};
  };
  const std::vector<std::string> rows = {"rows=8192,columns=4096", "rows=8192,columns=4096,dtype=bfloat16"},
                                 attended = {"s=1024,h=8,g=2,d=80", "s=1024,h=8,g=2,d=80,dtype=bfloat16"};
  return {
      {"generic_norm", {"generic_norm"}, rows, both("rows=21,columns=50"), norm},
      {"generic_norm_gradient", {"generic_norm_gradient"}, rows, both("rows=70,columns=50"), norm_gradient},
      {"loss_rows",
       {"loss_rows"},
       {"rows=512,vocabulary=128256,dtype=bfloat16"},
       both("rows=5,vocabulary=29"),
       loss_rows},
      {"optimizer_step",
       {"optimizer_step"},
       {"count=16777216", "count=16777216,dtype=bfloat16", "count=16777216,rule=sgd",
        "count=16777216,rule=muon_momentum", "count=16777216,rule=muon_step"},
       {"count=5001,rule=adamw,dtype=float32", "dtype=bfloat16", "rule=sgd", "rule=muon_momentum", "rule=muon_step"},
       optimizer_step},
      {"sums_of_squares",
       {"sums_of_squares"},
       {"count=67108864,tensors=64", "count=67108864,tensors=64,dtype=bfloat16"},
       both("count=520,tensors=5"),
       sums_of_squares},
      {"generic_attention_forward",
       {"generic_attention_forward"},
       attended,
       both("s=33,h=4,g=2,d=20"),
       std::bind(attention, _1, _2, false)},
      {"generic_attention_backward",
       {"generic_attention_backward"},
       attended,
       both("s=33,h=4,g=2,d=20"),
       std::bind(attention, _1, _2, true)},
      {"attention_delta",
       {"attention_delta"},
       {"s=8192,h=32,d=128,dtype=bfloat16"},
       both("s=33,h=4,d=20"),
       attention_delta},
      {"generic_merge", {"generic_merge"}, {"s=8192,h=32,d=80"}, {"s=33,h=4,d=20"}, merge},
  };
}

}  // namespace longhaul::cuda::bench
