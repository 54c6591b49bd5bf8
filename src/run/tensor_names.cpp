#include "run/tensor_names.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace longhaul {
namespace {

constexpr std::array<std::string_view, 2> own_prefixes = {"model.", "transformer."};
constexpr std::array<std::string_view, 2> wrappers = {"module.", "_orig_mod."};

// True for any sequence of wrappers, also none.
bool only_wrappers(std::string_view prefix) {
  while (!prefix.empty()) {
    const auto one = std::find_if(wrappers.begin(), wrappers.end(), [&](auto w) { return prefix.starts_with(w); });
    if (one == wrappers.end()) return false;
    prefix.remove_prefix(one->size());
  }
  return true;
}

// A name without the model's own prefix.
std::string_view stem_of(std::string_view name) {
  for (const auto prefix : own_prefixes)
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  return name;
}

// The tensor of the file whose name ends with `stem`, at a dot.
const SafetensorsTensor* ending_with(const SafetensorsReader& reader, std::string_view stem) {
  for (const auto& [name, tensor] : reader.tensors())
    if (name.ends_with(stem) && (name.size() == stem.size() || name[name.size() - stem.size() - 1] == '.'))
      return &tensor;
  return nullptr;
}

// Who puts such prefixes there.
std::string_view origin_of(std::string_view name) {
  if (name.find("lora_") != std::string_view::npos || name.find("base_layer.") != std::string_view::npos ||
      name.starts_with("base_model."))
    return "an adapter's (LoRA): merge it into its base model first";
  if (name.find("language_model.") != std::string_view::npos)
    return "those of a model for images and text: save its language model alone first";
  if (name.starts_with("student.") || name.starts_with("policy.") || name.starts_with("actor."))
    return "those of a larger program's part: save that part alone first";
  return "";
}

}  // namespace

TensorNames::TensorNames(const SafetensorsReader& reader, const std::vector<WeightMapping>& mappings)
    : reader_(reader) {
  if (mappings.empty()) return;
  const WeightMapping& first = mappings.front();
  if (reader.find(first.tensor) || (!first.other_name.empty() && reader.find(first.other_name))) return;
  const std::string_view stem = stem_of(first.tensor);
  const SafetensorsTensor* found = ending_with(reader, stem);
  if (!found) return;
  std::string prefix = found->name.substr(0, found->name.size() - stem.size());
  const std::string own(std::string_view(first.tensor).substr(0, first.tensor.size() - stem.size()));
  if (!own.empty() && prefix.ends_with(own) &&
      only_wrappers(std::string_view(prefix).substr(0, prefix.size() - own.size()))) {
    added_ = prefix.substr(0, prefix.size() - own.size());
  } else if (only_wrappers(prefix)) {
    added_ = prefix;
    removed_ = own;
  }
}

std::string TensorNames::in_file(std::string_view usual) const {
  if (!removed_.empty() && usual.starts_with(removed_)) usual.remove_prefix(removed_.size());
  return added_ + std::string(usual);
}

std::string TensorNames::usual(std::string_view in_file) const {
  if (!in_file.starts_with(added_)) return std::string(in_file);
  in_file.remove_prefix(added_.size());
  // The head stands beside the model, not in it.
  return in_file.starts_with("lm_head.") ? std::string(in_file) : removed_ + std::string(in_file);
}

std::string TensorNames::difference() const {
  if (added_.empty() && removed_.empty()) return "";
  return fmt::format(
      "tensors are named {}{}{}; read all the same", added_.empty() ? "" : fmt::format("behind '{}'", added_),
      added_.empty() || removed_.empty() ? "" : " and ", removed_.empty() ? "" : fmt::format("without '{}'", removed_));
}

std::string TensorNames::advice(std::string_view missing) const {
  if (missing.starts_with("lm_head."))
    return "; a base model, as an embedding model is, has no head: take a causal language model, or set "
           "tie_word_embeddings in its config.json if the embedding is to be the head";
  const SafetensorsTensor* near = ending_with(reader_, stem_of(missing));
  if (!near && !reader_.tensors().empty()) near = &reader_.tensors().begin()->second;
  if (!near) return "; the file holds no tensors";
  const std::string_view origin = origin_of(near->name);
  return fmt::format("; the file's {} tensors have names as '{}'{}{}", reader_.tensors().size(), near->name,
                     origin.empty() ? "" : ", ", origin);
}

}  // namespace longhaul
