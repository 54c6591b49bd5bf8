// What a graph reads of the data: the fields of a micro-batch, listed once.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace longhaul {

/// One micro-batch in host memory: [rows, slots] each, row-major. Targets are given a copy.
struct HostBatch {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> labels;     // the next token of the whole sequence, or ignored_label
  std::vector<std::int32_t> index;      // place in the padded sequence
  std::vector<std::int32_t> key_start;  // index of the first token of the own document; 0 when not packed
  std::vector<std::int32_t> position;   // index - key_start; 0 for padding

  void resize(std::size_t elements);
};

/// The label that the loss leaves out and does not count.
inline constexpr std::int32_t ignored_label = -100;

struct BatchField {
  std::string_view name;  // of the graph's input, int32 [batch, sequence]
  std::vector<std::int32_t> HostBatch::*values;
};
inline constexpr std::array<BatchField, 5> batch_fields = {{{"tokens", &HostBatch::tokens},
                                                            {"labels", &HostBatch::labels},
                                                            {"index", &HostBatch::index},
                                                            {"key_start", &HostBatch::key_start},
                                                            {"position", &HostBatch::position}}};

inline void HostBatch::resize(std::size_t elements) {
  for (const BatchField& field : batch_fields) (this->*field.values).resize(elements);
}

}  // namespace longhaul
