// Small models and batches that the equivalence tests share.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "comm/launch.h"
#include "ir/op_definition.h"
#include "model/initialise.h"
#include "runtime/cpu/target.h"
#include "verify/compare.h"
#include "verify/reference_run.h"

namespace longhaul::testing {

inline LayerSpec small_layer(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t size) {
  LayerSpec layer;
  layer.attention.heads = heads;
  layer.attention.kv_heads = kv_heads;
  layer.attention.head_dim = head_dim;
  layer.attention.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  layer.rope.kind = RopeKind::plain;
  layer.rope.rotary_dim = head_dim;
  layer.norm.epsilon = 1e-5;
  layer.mlp.size = size;
  return layer;
}

inline TransformerSpec small_llama() {
  TransformerSpec spec;
  spec.vocabulary = 29;
  spec.hidden_size = 16;
  spec.max_positions = 64;
  spec.layers = {{2, small_layer(4, 2, 8, 24)}};
  spec.final_norm.epsilon = 1e-5;
  spec.initializer_range = 0.3;  // large, so that no gradient is lost in rounding
  return spec;
}

inline TransformerSpec small_gpt2() {
  TransformerSpec spec = small_llama();
  LayerSpec layer = small_layer(4, 4, 4, 20);
  layer.rope = {};
  layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias = true;
  layer.norm.kind = NormKind::layer;
  layer.mlp.gated = false;
  layer.mlp.activation = Activation::gelu_tanh;
  layer.mlp.bias = true;
  spec.layers = {{2, layer}};
  spec.final_norm.kind = NormKind::layer;
  spec.learned_positions = true;
  spec.tied_head = true;
  return spec;
}

inline TransformerSpec small_qwen3() {
  TransformerSpec spec = small_llama();
  LayerSpec full = small_layer(8, 2, 8, 20), window = full;
  full.attention.qk_norm = window.attention.qk_norm = true;
  window.attention.window = 5;
  spec.layers = {{1, full}, {1, window}};
  return spec;
}

/// Parameters from the initialiser, norms and biases perturbed so that nothing is special.
inline ParameterSource random_parameters(const TransformerSpec& spec, std::uint64_t seed) {
  return [all = parameters(spec), seed](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype,
                                        void* target) {
    for (const auto& parameter : all) {
      if (parameter.name != name) continue;
      Parameter random = parameter;
      const double mean = parameter.initialisation == Initialisation::ones ? 1 : 0;
      if (parameter.initialisation != Initialisation::normal) {
        random.initialisation = Initialisation::normal;
        random.standard_deviation = 0.1;
      }
      std::vector<double> values(static_cast<std::size_t>(end - begin));
      initialise(random, seed, begin, end, values.data());
      for (std::size_t i = 0; i < values.size(); ++i) {
        // Through float32 in any dtype, so that runs of all dtypes start from the same numbers.
        const float value = static_cast<float>(values[i] + mean);
        if (dtype == DType::float64)
          static_cast<double*>(target)[i] = value;
        else
          static_cast<float*>(target)[i] = value;
      }
      return;
    }
  };
}

/// one_rank_ignored: whatever the split into up to four ranks and the token order, the first of those that share a
/// sequence has no label. first_row_ignored: the same of ranks that hold whole sequences.
enum class Masking { plain, uneven, one_rank_ignored, first_row_ignored, packed };

/// Micro-batch `number` of a run: tokens from a counter-based stream; labels are the next tokens, some ignored as
/// `masking` says.
inline HostBatch make_batch(const TransformerSpec& spec, std::int64_t rows, std::int64_t sequence, int number,
                            Masking masking) {
  HostBatch batch;
  const auto token = [&](std::int64_t row, std::int64_t at) {
    return static_cast<std::int32_t>(
        philox({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(number), 7},
               {1, 2})[0] %
        static_cast<std::uint32_t>(spec.vocabulary));
  };
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < sequence; ++i) {
      batch.tokens.push_back(token(row, i));
      bool ignored = false;
      std::int64_t start = 0;
      if (masking == Masking::uneven) ignored = i < sequence / 2 ? i % 3 != 0 : i % 7 == 0;
      // The first half of a sequence, and the last quarter, of which zigzag gives the first rank a part.
      if (masking == Masking::one_rank_ignored) ignored = i < sequence / 2 || i >= sequence - sequence / 4;
      if (masking == Masking::first_row_ignored) ignored = row < 2;
      if (masking == Masking::packed) {
        for (std::int64_t end :
             {std::int64_t{3}, sequence / 2 + 1, sequence - 2})  // documents end inside and across shards
          if (i >= end) start = end;
        for (std::int64_t end : {std::int64_t{3}, sequence / 2 + 1, sequence - 2}) ignored |= i + 1 == end;
      }
      batch.labels.push_back(ignored ? -100 : token(row, i + 1));
      batch.index.push_back(static_cast<std::int32_t>(i));
      batch.key_start.push_back(static_cast<std::int32_t>(start));
      batch.position.push_back(static_cast<std::int32_t>(i - start));
    }
  return batch;
}

/// This rank's slice of a whole micro-batch, padded as the loader pads.
inline void fill_slice(Session& session, const HostBatch& batch, std::int64_t sequence) {
  HostBatch& target = session.micro_batch();
  std::size_t at = 0;
  for (std::int64_t r = 0; r < session.rows(); ++r) {
    const std::int64_t row = (session.data_rank() * session.rows() + r) * sequence;
    std::array<std::int32_t, 16> starts;  // of documents
    std::size_t documents = 0;
    for (std::int64_t i = 0; i < sequence; ++i)
      if (i == 0 || batch.key_start[static_cast<std::size_t>(row + i)] == i)
        starts.at(documents++) = static_cast<std::int32_t>(i);
    for (std::int32_t index : session.order({starts.data(), documents}, static_cast<std::int32_t>(sequence))) {
      const bool padding = index >= sequence;
      const auto from = static_cast<std::size_t>(row + (padding ? 0 : index));
      target.tokens[at] = padding ? 0 : batch.tokens[from];
      target.labels[at] = padding ? -100 : batch.labels[from];
      target.index[at] = index;
      target.key_start[at] = padding ? index : batch.key_start[from];
      target.position[at] = padding ? 0 : batch.position[from];
      ++at;
    }
  }
}

inline CompileOptions options_for(const TransformerSpec& spec, DType dtype, int zero_stage) {
  CompileOptions options;
  for (const auto& parameter : parameters(spec))
    options.meaning.parameters.push_back({parameter.name, parameter.shape, parameter.matrix});
  options.precision.dtype = dtype;
  options.precision.gradient = options.precision.gradient_reduce = master_dtype(dtype);
  options.placement.sharded = state_placement(zero_stage);
  options.meaning.optimizer.max_norm = 0.5;  // small: clipping is active, so a wrong norm shows in the parameters
  options.meaning.logits_scale = spec.logits_scale;
  options.meaning.logits_soft_cap = spec.logits_soft_cap;
  return options;
}

}  // namespace longhaul::testing
