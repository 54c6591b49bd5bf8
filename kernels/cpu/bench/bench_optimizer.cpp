// AdamW, SGD, Muon and the norm of the gradients.
//
//   count        elements
//   gradient     (adamw, sgd) dtype of the gradient: same as the parameters', float32 or bfloat16
//   moment       (adamw, sgd) dtype of moments: same as the parameters', or bfloat16
//   rows, columns  (orthogonalize) of the matrix
//   copy         (adamw) 1: also writes the parameter in bfloat16
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cpu/adamw_8bit.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/dynamic_map.h"
#include "kernels/cpu/muon.h"
#include "kernels/cpu/reductions.h"
#include "kernels/cpu/sgd.h"

namespace longhaul::cpu::bench {
namespace {

void adamw(Case& c) {
  const std::int64_t count = c.size("count");
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; parameters and moments are float32 or float64");
  Tensor &parameter = c.updated(c.input(count)), &m = c.updated(c.input_of(c.type("moment"), count, 0.1));
  Tensor& v = c.input_of(c.type("moment"), count, 1e-3, 0.02);
  for (std::int64_t i = 0; i < count; ++i) {  // squares: never negative
    auto* wide = static_cast<double*>(v.wide.data());
    if (wide[i] >= 0) continue;
    wide[i] = -wide[i];
    dispatch_floating(v.type,
                      [&](auto t) { static_cast<decltype(t)*>(v.narrow.data())[i] = convert<decltype(t)>(wide[i]); });
  }
  c.updated(v);
  const Tensor& gradient = c.input_of(c.type("gradient"), count);
  const Tensor* copy = c.flag("copy") ? &c.output_of(DType::bfloat16, count, 1.5) : nullptr;
  c.call = [=, &parameter, &m, &v, &gradient](Side side) {
    const double coefficient = 0.8, learning_rate = 1e-2, step = 3;
    AdamW p{side.type(parameter),
            side(parameter),
            side(m),
            side(v),
            side.type(gradient),
            side(gradient),
            count,
            &coefficient,
            &learning_rate,
            &step,
            0.9,
            0.95,
            1e-8,
            0.1,
            side.type(m)};
    if (!side.exact) {
      p.copy = copy ? static_cast<bfloat16*>(side(*copy)) : nullptr;
      longhaul::cpu::adamw(side.pool, p);
      return;
    }
    reference::adamw(p);
    if (copy) std::copy_n(static_cast<const double*>(side(parameter)), count, static_cast<double*>(side(*copy)));
  };
  c.tolerance = 16;
  c.bytes = static_cast<double>(2 * parameter.narrow.bytes() + 4 * m.narrow.bytes() + gradient.narrow.bytes()) +
            (copy ? 2.0 : 0.0) * static_cast<double>(count);
}

void adamw_8bit(Case& c) {
  const std::int64_t count = c.size("count");
  if (c.dtype != DType::float32) fail("dtype={}; parameters are float32", name_of(c.dtype));
  Tensor& parameter = c.updated(c.input(count));
  const Tensor& gradient = c.input_of(c.type("gradient"), count);
  // After one step from nothing: moments are (1 - beta1) g and (1 - beta2) g^2, decoded from what was kept of them.
  const Tensor &m = c.output_of(DType::float32, count, 0.0075 / unit_roundoff(DType::float32)),
               &v = c.output_of(DType::float32, count, 0.0075 / unit_roundoff(DType::float32));
  struct Kept {
    std::vector<std::uint8_t> m_codes, v_codes;
    std::vector<float> m_scales, v_scales;
  };
  const auto elements = static_cast<std::size_t>(count);
  const auto blocks = static_cast<std::size_t>(moment_blocks(count));
  const auto kept =
      std::make_shared<Kept>(Kept{std::vector<std::uint8_t>(elements), std::vector<std::uint8_t>(elements),
                                  std::vector<float>(blocks), std::vector<float>(blocks)});
  c.call = [=, &parameter, &gradient, &m, &v](Side side) {
    const double coefficient = 0.8, learning_rate = 1e-2, step = 1;
    AdamW one{side.type(parameter),
              side(parameter),
              side(m),
              side(v),
              side.type(gradient),
              side(gradient),
              count,
              &coefficient,
              &learning_rate,
              &step,
              0.9,
              0.95,
              1e-8,
              0.1,
              side.type(m)};
    if (side.exact) {
      std::fill_n(static_cast<double*>(side(m)), count, 0.0);
      std::fill_n(static_cast<double*>(side(v)), count, 0.0);
      reference::adamw(one);
      return;
    }
    std::fill(kept->m_scales.begin(), kept->m_scales.end(), 0.0F);
    std::fill(kept->v_scales.begin(), kept->v_scales.end(), 0.0F);
    longhaul::cpu::adamw_8bit(
        side.pool, {one, kept->m_codes.data(), kept->v_codes.data(), kept->m_scales.data(), kept->v_scales.data()});
  };
  c.check = [=, &m, &v](Case& problem, Check& check) {
    problem.call(Side(true, problem.pool(), nullptr));
    for (std::int64_t block = 0; block < moment_blocks(count); ++block) {
      const std::int64_t first = block * moment_block, size = std::min(moment_block, count - first);
      const auto i = static_cast<std::size_t>(block);
      decode_block(DynamicMap::of(true), kept->m_codes.data() + first, kept->m_scales[i], size,
                   static_cast<float*>(m.narrow.data()) + first);
      decode_block(DynamicMap::of(false), kept->v_codes.data() + first, kept->v_scales[i], size,
                   static_cast<float*>(v.narrow.data()) + first);
    }
    for (const auto& output : problem.outputs())
      check.compare(
          count, [&](std::int64_t at) { return output.tensor->narrow_at(at); },
          [&](std::int64_t at) { return output.tensor->wide_at(at); },
          problem.bound(output.tensor->type, output.tolerance));
  };
  c.tolerance = 16;
  c.bytes = static_cast<double>(2 * parameter.narrow.bytes() + gradient.narrow.bytes()) +
            4.0 * static_cast<double>(count + 4 * moment_blocks(count));
}

void sgd(Case& c) {
  const std::int64_t count = c.size("count");
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; parameters are float32 or float64");
  Tensor &parameter = c.updated(c.input(count)), &m = c.updated(c.input_of(c.type("moment"), count, 0.1));
  const Tensor& gradient = c.input_of(c.type("gradient"), count);
  c.call = [=, &parameter, &m, &gradient](Side side) {
    const double coefficient = 0.8, learning_rate = 1e-2;
    const Sgd p{side.type(parameter),
                side(parameter),
                side.type(m),
                side(m),
                side.type(gradient),
                side(gradient),
                count,
                &coefficient,
                &learning_rate,
                0.9,
                0.1,
                true};
    side.exact ? reference::sgd(p) : longhaul::cpu::sgd(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = static_cast<double>(2 * parameter.narrow.bytes() + 2 * m.narrow.bytes() + gradient.narrow.bytes());
}

void muon_momentum(Case& c) {
  const std::int64_t count = c.size("count");
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; updates are float32 or float64");
  Tensor& m = c.updated(c.input_of(c.type("moment"), count, 0.1));
  const Tensor &gradient = c.input_of(c.type("gradient"), count), &update = c.output(count);
  c.call = [=, &m, &gradient, &update](Side side) {
    const double coefficient = 0.8;
    const MuonMomentum p{side.type(update), side.type(m), side(m),      side(update), side.type(gradient),
                         side(gradient),    count,        &coefficient, 0.95,         true};
    side.exact ? reference::muon_momentum(p) : longhaul::cpu::muon_momentum(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = static_cast<double>(2 * m.narrow.bytes() + gradient.narrow.bytes() + update.narrow.bytes());
}

void muon_step(Case& c) {
  const std::int64_t count = c.size("count");
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; parameters are float32 or float64");
  const Tensor &parameter = c.updated(c.input(count)), &update = c.input(count);
  c.call = [=, &parameter, &update](Side side) {
    const double rate = 1e-2;
    const MuonStep p{side.type(parameter), side(parameter), side(update), count, &rate, 6.4, 0.1};
    side.exact ? reference::muon_step(p) : longhaul::cpu::muon_step(side.pool, p);
  };
  c.bytes = static_cast<double>(2 * parameter.narrow.bytes() + update.narrow.bytes());
}

void orthogonalize(Case& c) {
  const std::int64_t rows = c.size("rows"), columns = c.size("columns"), least = std::min(rows, columns);
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; it is computed in float32 or float64");
  const Tensor &x = c.input(rows * columns), &y = c.output(rows * columns);
  const auto plan = std::make_shared<Orthogonalizer>(c.dtype, rows, columns, c.threads(), nullptr);
  c.scratch_bytes = plan->scratch_bytes();
  c.call = [=, &x, &y](Side side) {
    const Orthogonalize p{side.type(y), rows, columns, side(x), side(y)};
    side.exact ? reference::orthogonalize(p) : plan->run(side.pool, side(x), side(y), side.scratch);
  };
  c.tolerance = 4096;  // fifteen products, one of another
  c.flops = 5 * (4.0 * static_cast<double>(least * rows * columns) + 2.0 * static_cast<double>(least * least * least));
}

void sum_of_squares(Case& c) {
  const std::int64_t count = c.size("count");
  const Tensor &x = c.input(count), &result = c.output_of(DType::float64, 1);
  c.scratch_bytes = sum_of_squares_scratch_bytes(count);
  c.call = [=, &x, &result](Side side) {
    const SumOfSquares p{side.type(x), side(x), count, static_cast<double*>(side(result)), side.scratch};
    side.exact ? reference::sum_of_squares(p) : longhaul::cpu::sum_of_squares(side.pool, p);
  };
  c.tolerance = c.dtype == DType::float64 ? 2048 : 64;  // the oracle adds one by one, less exactly than the kernel
  c.bytes = static_cast<double>(x.narrow.bytes());
}

void clip_coefficient(Case& c) {
  const Tensor &sum = c.input_of(DType::float64, 1, 1, 9), &coefficient = c.output_of(DType::float64, 1),
               &norm = c.output_of(DType::float64, 1);
  c.call = [&sum, &coefficient, &norm](Side side) {
    const double squares = *static_cast<const double*>(side(sum)), most = 1.5;
    auto *to_coefficient = static_cast<double*>(side(coefficient)), *to_norm = static_cast<double*>(side(norm));
    if (!side.exact) {
      longhaul::cpu::clip_coefficient(squares, most, to_coefficient, to_norm);
      return;
    }
    *to_norm = std::sqrt(squares);
    *to_coefficient = std::min(1.0, most / (*to_norm + 1e-6));
  };
  c.bytes = 24;
}

}  // namespace

std::vector<Entry> optimizer_entries() {
  return {
      {"adamw", {"adamw"}, "count=16777216 gradient=same moment=same copy=0 dtype=float32 threads=1", adamw},
      {"adamw_8bit", {"adamw_8bit"}, "count=16777216 gradient=same dtype=float32 threads=1", adamw_8bit},
      {"sgd", {"sgd"}, "count=16777216 gradient=same moment=same dtype=float32 threads=1", sgd},
      {"muon_momentum",
       {"muon_momentum"},
       "count=16777216 gradient=same moment=same dtype=float32 threads=1",
       muon_momentum},
      {"muon_step", {"muon_step"}, "count=16777216 dtype=float32 threads=1", muon_step},
      {"orthogonalize", {"Orthogonalizer"}, "rows=1024 columns=4096 dtype=float32 threads=1", orthogonalize},
      {"sum_of_squares", {"sum_of_squares"}, "count=67108864 dtype=float32 threads=1", sum_of_squares},
      {"clip_coefficient", {"clip_coefficient"}, "dtype=float64 threads=1", clip_coefficient},
  };
}

}  // namespace longhaul::cpu::bench
