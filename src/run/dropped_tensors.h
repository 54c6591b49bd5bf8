// Tensors of weight files that are no parameters here: what they hold must be what they are taken for. Private to
// src/run.
#pragma once
#include <string>
#include <string_view>

#include "io/safetensors.h"
#include "model/spec.h"

namespace longhaul {

/// Files carry rotary frequencies, causal masks, and the head of a model whose head is its embedding. Each is compared
/// with what the configuration says; one that says something else belongs to another model.
class DroppedTensors {
 public:
  /// Both must outlive this.
  DroppedTensors(const SafetensorsReader& reader, const TransformerSpec& spec) : reader_(reader), spec_(spec) {}

  /// `usual`: the tensor's name as the family writes it. Throws Error, with file, tensor and both values, when it is
  /// not what it is taken for.
  void check(std::string_view usual, const SafetensorsTensor& tensor, const SafetensorsTensor& embedding);

  /// "left out 2 tensors that say what the configuration says: 1 of rotary frequencies, ..."; empty: none were there.
  std::string summary() const;

 private:
  void check_frequencies(std::string_view usual, const SafetensorsTensor& tensor) const;
  void check_mask(const SafetensorsTensor& tensor) const;
  void check_masked_value(const SafetensorsTensor& tensor) const;
  void check_head(const SafetensorsTensor& head, const SafetensorsTensor& embedding) const;

  const SafetensorsReader& reader_;
  const TransformerSpec& spec_;
  int frequencies_ = 0, masks_ = 0, heads_ = 0;
};

}  // namespace longhaul
