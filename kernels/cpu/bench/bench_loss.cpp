// Cross-entropy of logits with its gradient, and the loss head that computes the logits tile by tile.
//
//   rows, v, d       tokens, vocabulary, hidden size; an eighth of the labels is ignored
//   cap              soft cap of the logits; 0: none
//   gradient         1: the gradient too
//   tile             (loss_head) rows a tile; 0: as training chooses
//   add              (loss_head) 1: adds to the weight's gradient
#include <memory>

#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/loss_head.h"
#include "kernels/cpu/reductions.h"

namespace longhaul::cpu::bench {
namespace {

const std::int32_t* labels_of(Case& c, std::int64_t rows, std::int64_t v) {
  std::vector<std::int32_t>& labels = c.integers(rows, v);
  for (std::size_t i = 3; i < labels.size(); i += 8) labels[i] = -100;
  return labels.data();
}

const double gradient_scale = 1.0 / 1000;

void cross_entropy(Case& c) {
  const std::int64_t rows = c.size("rows"), v = c.size("v");
  const LogitTransform transform{0.9, static_cast<double>(c.size("cap"))};
  const bool gradient = c.flag("gradient");
  const std::int32_t* labels = labels_of(c, rows, v);
  const Tensor &logits = c.input(rows * v, 2), &loss = c.output_of(DType::float64, 1);
  const Tensor* dlogits = gradient ? &c.output(rows * v) : nullptr;
  c.scratch_bytes = cross_entropy_scratch_bytes(c.dtype, rows, v, c.threads());
  c.call = [=, &logits, &loss](Side side) {
    CrossEntropy p{};
    p.type = side.type(logits);
    p.logits = side(logits);
    p.labels = labels;
    p.rows = rows;
    p.v = v;
    p.transform = transform;
    p.loss_sum = static_cast<double*>(side(loss));
    if (dlogits) p.gradient_type = side.type(*dlogits), p.dlogits = side(*dlogits), p.scale = &gradient_scale;
    p.scratch = side.scratch;
    side.exact ? reference::cross_entropy(p) : longhaul::cpu::cross_entropy(side.pool, p);
  };
  c.tolerance = 64;
  c.bytes = (gradient ? 2.0 : 1.0) * static_cast<double>(logits.narrow.bytes());
}

void loss_head(Case& c) {
  const std::int64_t rows = c.size("rows"), v = c.size("v"), d = c.size("d");
  const bool gradient = c.flag("gradient"), adds = c.flag("add");
  LossHeadProblem problem{};
  problem.type = c.dtype;
  problem.rows = rows;
  problem.d = d;
  problem.v = v;
  problem.dweight_type = c.dtype == DType::float64 ? DType::float64 : DType::float32;
  problem.accumulate = adds;
  problem.gradients = gradient;
  problem.transform = {1, static_cast<double>(c.size("cap"))};
  problem.tile_rows = c.size("tile");
  const std::int32_t* labels = labels_of(c, rows, v);
  const Tensor &x = c.input(rows * d), &w = c.input(v * d, 0.05), &loss = c.output_of(DType::float64, 1);
  const Tensor *dx = gradient ? &c.output(rows * d) : nullptr, *dw = nullptr;
  if (gradient)
    dw = adds ? &c.updated(c.input_of(problem.dweight_type, v * d, 1e-4)) : &c.output_of(problem.dweight_type, v * d);
  const auto head = std::make_shared<LossHead>(problem, c.threads());
  c.scratch_bytes = head->scratch_bytes();
  // The plain loops; where they would take minutes, the loss head in float64, which tests hold against them.
  const bool plain = rows * v * d <= 300000000;
  c.call = [=, &x, &w, &loss](Side side) {
    const LossHeadArguments arguments{side(x),
                                      side(w),
                                      labels,
                                      &gradient_scale,
                                      static_cast<double*>(side(loss)),
                                      dx ? side(*dx) : nullptr,
                                      dw ? side(*dw) : nullptr,
                                      side.scratch};
    if (!side.exact) {
      head->run(side.pool, arguments);
      return;
    }
    LossHeadProblem exact = problem;
    exact.type = exact.dweight_type = DType::float64;
    if (plain) {
      reference::loss_head(exact, arguments);
      return;
    }
    LossHead oracle(exact, side.pool.threads());
    const Memory scratch(oracle.scratch_bytes());
    LossHeadArguments with_scratch = arguments;
    with_scratch.scratch = scratch.data();
    oracle.run(side.pool, with_scratch);
  };
  // In bfloat16 the logits' gradient is rounded to bfloat16 before the products.
  c.tolerance = c.dtype == DType::bfloat16 ? 16.0 * 32768 : 256;
  c.flops = (gradient ? 6.0 : 2.0) * static_cast<double>(rows * v) * static_cast<double>(d);
}

void count_valid(Case& c) {
  const std::int64_t count = c.size("count");
  const std::int32_t* labels = labels_of(c, count, 50257);
  const Tensor& result = c.output_of(DType::float64, 1);
  c.call = [=, &result](Side side) {
    auto* to = static_cast<double*>(side(result));
    if (!side.exact) {
      longhaul::cpu::count_valid(labels, count, to);
      return;
    }
    *to = 0;
    for (std::int64_t i = 0; i < count; ++i) *to += labels[i] >= 0 ? 1 : 0;
  };
  c.bytes = 4.0 * static_cast<double>(count);
}

}  // namespace

std::vector<Entry> loss_entries() {
  return {
      {"cross_entropy", {"cross_entropy"}, "rows=512 v=50257 cap=0 gradient=1 dtype=float32 threads=1", cross_entropy},
      {"loss_head",
       {"LossHead"},
       "rows=1024 v=50257 d=768 cap=0 gradient=1 tile=0 add=0 dtype=float32 threads=1",
       loss_head},
      {"count_valid", {"count_valid"}, "count=16777216 dtype=float32 threads=1", count_valid},
  };
}

}  // namespace longhaul::cpu::bench
