// Embedding and the loss head in plain loops.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace longhaul::cuda::plain {

/// out [tokens, columns] = table [vocabulary, columns] at token.
template <typename Scalar>
void embedding(std::int64_t tokens, std::int64_t columns, const std::int32_t* token, const Scalar* table, Scalar* out) {
  for (std::int64_t t = 0; t < tokens; t++)
    std::copy(table + token[t] * columns, table + (token[t] + 1) * columns, out + t * columns);
}
/// dtable is added to.
template <typename Scalar>
void embedding_gradient(std::int64_t tokens, std::int64_t columns, const std::int32_t* token, const Scalar* dout,
                        Scalar* dtable) {
  for (std::int64_t t = 0; t < tokens; t++)
    for (std::int64_t c = 0; c < columns; c++) dtable[token[t] * columns + c] += dout[t * columns + c];
}

/// logits [rows, vocabulary] become their gradients; loss [rows] = -log softmax(z)[label], 0 where label < 0.
template <typename Scalar>
void loss_tile(std::int64_t rows, std::int64_t vocabulary, Scalar* logits, const std::int32_t* label,
               Scalar logits_scale, Scalar soft_cap, Scalar gradient_scale, Scalar* loss) {
  for (std::int64_t r = 0; r < rows; r++) {
    Scalar* row = logits + r * vocabulary;
    loss[r] = 0;
    if (label[r] < 0) {
      std::fill(row, row + vocabulary, Scalar(0));
      continue;
    }
    auto z = [&](Scalar x) {
      return soft_cap > 0 ? soft_cap * std::tanh(logits_scale * x / soft_cap) : logits_scale * x;
    };
    Scalar top = -std::numeric_limits<Scalar>::infinity(), sum = 0;
    for (std::int64_t v = 0; v < vocabulary; v++) top = std::max(top, z(row[v]));
    for (std::int64_t v = 0; v < vocabulary; v++) sum += std::exp(z(row[v]) - top);
    loss[r] = top + std::log(sum) - z(row[label[r]]);
    for (std::int64_t v = 0; v < vocabulary; v++) {
      const Scalar value = z(row[v]);
      const Scalar slope = soft_cap > 0 ? logits_scale * (1 - value / soft_cap * value / soft_cap) : logits_scale;
      row[v] = gradient_scale * slope * (std::exp(value - top) / sum - (v == label[r] ? 1 : 0));
    }
  }
}

}  // namespace longhaul::cuda::plain
