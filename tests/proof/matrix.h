// The matrix: families x splits x ZeRO stages x data x dtypes, each cell held to the specification on one rank. One
// table a dimension; matrix_test.cpp and mpi_test.cpp choose among the cells.
#pragma once
#include <array>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "../train/ranks.h"
#include "base/error.h"
#include "plan/mesh.h"

namespace longhaul::testing {

struct Family {
  const char* name;
  TransformerSpec spec;
  /// Gradients that are zero by symmetry, by the end of their name: a bias on all keys moves every score of a row
  /// alike, and softmax does not see it. Every other gradient must not be zero.
  const char* zero = nullptr;
};

inline const std::vector<Family>& families() {
  static const std::vector<Family> table = [] {
    TransformerSpec llama = small_llama();
    llama.layers = {{2, small_layer(8, 2, 4, 24)}};
    // Of no family: layers of different head counts, head dimensions, ratios of heads to KV heads, windows and widths,
    // places of norms and branches, and what only some families have: soft caps, norms by 1 + weight, without bias or
    // over a projection, queries that grow, part of a head that turns, a bias on the head.
    TransformerSpec own = small_llama();
    LayerSpec wide = small_layer(8, 2, 4, 20), window = small_layer(12, 3, 8, 16), narrow = small_layer(4, 1, 16, 24);
    wide.branches = Branches::parallel_shared_norm;
    wide.norm.kind = NormKind::layer_without_bias;
    wide.rope.rotary_dim = 2;
    window.attention.window = 4;
    window.attention.soft_cap = 0.7;
    window.norm_placement = NormPlacement::both;
    window.norm.unit_offset = own.final_norm.unit_offset = true;
    narrow.norm_placement = NormPlacement::post;
    narrow.attention.qk_norm = true;
    narrow.attention.qk_norm_span = QkNormSpan::projection;
    narrow.attention.position_growth = 0.3;
    narrow.attention.position_growth_length = 5;
    own.head_bias = true;
    own.logits_soft_cap = 2;
    own.layers = {{1, wide}, {1, window}, {1, narrow}};
    return std::vector<Family>{{"llama 8:2", llama},
                               {"gpt2", small_gpt2(), "attention.k.bias"},
                               {"qwen3 windows", small_qwen3()},
                               {"own, layers differ", own}};
  }();
  return table;
}

struct Split {
  const char* name;
  int data, ulysses, ring, gather;
  TokenOrder order;
  int world() const { return data * ulysses * ring * gather; }
};

inline const std::vector<Split>& all_splits() {
  constexpr TokenOrder contiguous = TokenOrder::contiguous, zigzag = TokenOrder::zigzag,
                       balanced = TokenOrder::balanced;
  static const std::vector<Split> table = {
      {"ulysses 2", 1, 2, 1, 1, contiguous},
      {"ulysses 4", 1, 4, 1, 1, contiguous},
      {"ring 2", 1, 1, 2, 1, contiguous},
      {"ring 2 zigzag", 1, 1, 2, 1, zigzag},
      {"ring 3", 1, 1, 3, 1, contiguous},
      {"ring 3 zigzag", 1, 1, 3, 1, zigzag},
      {"ring 4", 1, 1, 4, 1, contiguous},
      {"ring 4 zigzag", 1, 1, 4, 1, zigzag},
      {"gather 2", 1, 1, 1, 2, contiguous},
      {"gather 2 zigzag", 1, 1, 1, 2, zigzag},
      {"gather 3", 1, 1, 1, 3, contiguous},
      {"gather 3 zigzag", 1, 1, 1, 3, zigzag},
      {"ulysses 2 x ring 2", 1, 2, 2, 1, contiguous},
      {"ulysses 2 x ring 2 zigzag", 1, 2, 2, 1, zigzag},
      {"ulysses 2 x gather 2", 1, 2, 1, 2, contiguous},
      {"ulysses 2 x gather 2 zigzag", 1, 2, 1, 2, zigzag},
      {"ring 2 balanced", 1, 1, 2, 1, balanced},
      {"gather 3 balanced", 1, 1, 1, 3, balanced},
      {"ulysses 2 x ring 2 balanced", 1, 2, 2, 1, balanced},
      {"data 2", 2, 1, 1, 1, contiguous},
      {"data 4", 4, 1, 1, 1, contiguous},
      {"data 2 x ulysses 2", 2, 2, 1, 1, contiguous},
      {"data 2 x ring 2 zigzag", 2, 1, 2, 1, zigzag},
      {"data 2 x gather 2", 2, 1, 1, 2, contiguous},
  };
  return table;
}

struct DataCase {
  const char* name;
  Masking masking;
  std::int64_t micro_batches, rows, sequence;  // rows of each data-parallel group
};

inline const std::vector<DataCase>& data_cases() {
  static const std::vector<DataCase> table = {
      {"plain", Masking::plain, 1, 2, 24},
      {"uneven ignore labels", Masking::uneven, 1, 2, 24},
      {"one rank wholly ignored", Masking::one_rank_ignored, 1, 2, 24},
      {"packed documents", Masking::packed, 1, 2, 24},
      {"S not divisible", Masking::uneven, 1, 2, 17},
      {"accumulation 3", Masking::uneven, 3, 2, 24},
      {"batch 3", Masking::plain, 1, 3, 24},
  };
  return table;
}

inline constexpr std::array<DType, 3> matrix_dtypes = {DType::float64, DType::float32, DType::bfloat16};

/// family, split, ZeRO stage, data, dtype.
using CellIndex = std::array<std::size_t, 5>;
inline std::vector<std::size_t> matrix_sizes() {
  return {families().size(), all_splits().size(), 4, data_cases().size(), matrix_dtypes.size()};
}

inline Cell cell_of(const CellIndex& index) {
  const Split& split = all_splits()[index[1]];
  const DataCase& data = data_cases()[index[3]];
  Cell cell{.spec = families()[index[0]].spec,
            .data = split.data,
            .sequence_ranks = split.ulysses,
            .zero_stage = static_cast<int>(index[2]),
            .micro_batches = data.micro_batches,
            .rows = data.rows * split.data,
            .sequence = data.sequence,
            .masking = data.masking,
            .dtype = matrix_dtypes[index[4]]};
  cell.ring = split.ring;
  cell.gather = split.gather;
  cell.order = split.order;
  if (cell.dtype != DType::float64) {
    // Larger: the error of a tensor of few elements is a matter of luck, on one rank and on more.
    cell.spec.hidden_size *= 3;
    cell.spec.initializer_range /= std::sqrt(3);
    for (auto& group : cell.spec.layers) {
      group.layer.mlp.size *= 2;
      group.layer.attention.head_dim *= 2;
      group.layer.rope.rotary_dim *= 2;
    }
    cell.rows *= 2;
  }
  // Without a split of sequences a rank is its rows.
  if (cell.masking == Masking::one_rank_ignored && split.data == split.world())
    cell.masking = Masking::first_row_ignored;
  return cell;
}

inline std::string name_of_cell(const CellIndex& index) {
  return fmt::format("{} | {} | zero {} | {} | {}", families()[index[0]].name, all_splits()[index[1]].name, index[2],
                     data_cases()[index[3]].name, name_of(matrix_dtypes[index[4]]));
}

/// The specification of every cell, and one rank of every low precision, on a CPU whatever the cell runs on, so that
/// what all ranks of a device share shows: made when first asked for, kept.
class References {
 public:
  const Outcome& specification(Cell cell) {
    cell.dtype = DType::float64;
    auto& kept = specifications_[key(cell)];
    if (!kept) kept = std::make_unique<Outcome>(run_reference(cell));
    return *kept;
  }
  const Outcome& one_rank(Cell cell) {
    cell.data = cell.sequence_ranks = cell.ring = cell.gather = 1;
    cell.order = TokenOrder::contiguous;
    cell.zero_stage = 0;
    cell.device = nullptr;
    auto& kept = alone_[{key(cell), cell.dtype}];
    if (!kept) {
      std::string problem;
      kept = std::make_unique<Outcome>(run_ranks(cell, problem));
      if (!problem.empty()) fail("one rank alone: {}", problem);
    }
    return *kept;
  }

 private:
  using Key = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, Masking>;
  static Key key(const Cell& cell) {
    return {spec_text(cell.spec), cell.micro_batches, cell.rows, cell.sequence, cell.masking};
  }
  std::map<Key, std::unique_ptr<Outcome>> specifications_;
  std::map<std::pair<Key, DType>, std::unique_ptr<Outcome>> alone_;
};

/// The worst that was seen: float64 as an error, low precisions as error / (what the rule allows).
struct Worst {
  std::array<double, 3> value{};
  std::array<std::string, 3> where;
  void see(std::size_t dtype, double error, const std::string& what) {
    if (error > value[dtype]) value[dtype] = error, where[dtype] = what;
  }
};

/// Empty when the outcome is as near to the specification as src/verify/compare.h asks, else what is not.
inline std::string judge(const CellIndex& index, const Cell& cell, const Outcome& outcome, References& references,
                         Worst& worst) {
  const Outcome& wanted = references.specification(cell);
  const std::string name = name_of_cell(index);
  if (cell.dtype == DType::float64) {
    worst.see(0, std::abs(outcome.first.loss - wanted.first.loss) / std::abs(wanted.first.loss), name + ": loss");
    for (const auto& [tensor, error] : tensor_errors(outcome.gradients, wanted.gradients))
      worst.see(0, error, name + ": " + tensor);
    return difference(outcome, wanted, tolerance::float64);
  }
  const Outcome& alone = references.one_rank(cell);
  const double roundoff = unit_roundoff(cell.dtype);
  const LowPrecisionLimits limits(alone.gradients, wanted.gradients, roundoff);
  if (!(limits.whole() <= tolerance::one_rank_roundoffs * roundoff))
    return fmt::format("one rank on a CPU is itself off by {} of the whole gradient", limits.whole());
  std::string problem;
  const auto hold = [&](const std::string& what, double error, double limit) {
    worst.see(index[4], error / limit, name + ": " + what);
    if (!(error <= limit) && problem.empty()) problem = fmt::format("{}: error {}, allowed {}", what, error, limit);
  };
  if (outcome.first.valid_tokens != wanted.first.valid_tokens) return "valid tokens differ";
  hold("loss", relative_error(outcome.first.loss, wanted.first.loss),
       limits.of_number(relative_error(alone.first.loss, wanted.first.loss), roundoff));
  // Of what was found of the gradients: how far those are off is asked below.
  double squares = 0;
  for (const auto& [tensor, values] : outcome.gradients) squares += norm(values) * norm(values);
  hold("gradient norm", relative_error(outcome.first.grad_norm, std::sqrt(squares)), unit_roundoff(DType::float32));
  // After an update, which magnifies the rounding of small gradients (docs/numerics.md): what is more than that, where
  // it has not magnified one rank's beyond what that may be.
  const double most = tolerance::one_rank_roundoffs * roundoff;
  if (relative_error(alone.second.loss, wanted.second.loss) <= most)
    hold("second loss", relative_error(outcome.second.loss, wanted.second.loss), tolerance::ratio_to_one_rank * most);
  for (const auto& [tensor, error] : tensor_errors(outcome.gradients, wanted.gradients))
    hold(tensor, error, limits.of_tensor(tensor));
  return problem;
}

}  // namespace longhaul::testing
