#include "run/dropped_tensors.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "model/rope.h"
#include "run/stored_numbers.h"

namespace longhaul {
namespace {

constexpr std::int64_t piece_bytes = std::int64_t{4} << 20;

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Elements [begin, begin + count); numbers, bytes and booleans.
std::vector<double> values_of(const SafetensorsReader& reader, const SafetensorsTensor& tensor, std::int64_t begin,
                              std::int64_t count) {
  const std::int64_t width = tensor.elements() ? tensor.bytes / tensor.elements() : 0;
  std::vector<std::byte> bytes(static_cast<std::size_t>(count * width));
  reader.read(tensor, begin * width, bytes.data(), count * width);
  std::vector<double> values(static_cast<std::size_t>(count));
  if (const auto type = stored_type(tensor.dtype)) {
    convert(bytes.data(), *type, count, 1, values.data());
  } else if (width == 1) {
    std::transform(bytes.begin(), bytes.end(), values.begin(), [](std::byte one) { return std::to_integer<int>(one); });
  } else {
    fail("{}: tensor '{}' of shape {} has dtype {}, which is not read there; remove the tensor", tensor.file,
         tensor.name, shape_text(tensor.shape), tensor.dtype);
  }
  return values;
}

// The N of "...layers.N..." and "...h.N..."; 0 when there is none.
std::int64_t layer_of(std::string_view name) {
  for (std::size_t at = 0; (at = name.find('.', at)) != std::string_view::npos;) {
    std::int64_t number = 0;
    const auto read = std::from_chars(name.data() + ++at, name.data() + name.size(), number);
    if (read.ec == std::errc() && read.ptr != name.data() + name.size() && *read.ptr == '.') return number;
  }
  return 0;
}

// How far a stored number may be off: the dtype's rounding.
double rounding(const std::string& dtype) {
  return dtype == "BF16" ? 0x1p-7 : dtype == "F16" ? 0x1p-9 : 1e-5;
}

}  // namespace

void DroppedTensors::check(std::string_view usual, const SafetensorsTensor& tensor,
                           const SafetensorsTensor& embedding) {
  if (usual.ends_with("inv_freq")) {
    check_frequencies(usual, tensor);
    ++frequencies_;
  } else if (usual.ends_with(".masked_bias")) {
    check_masked_value(tensor);
    ++masks_;
  } else if (usual.ends_with(".bias")) {
    check_mask(tensor);
    ++masks_;
  } else {
    check_head(tensor, embedding);
    ++heads_;
  }
}

void DroppedTensors::check_frequencies(std::string_view usual, const SafetensorsTensor& tensor) const {
  const std::int64_t layer = std::min(layer_of(usual), spec_.layer_count() - 1);
  const RopeSpec& rope = spec_.layer(layer).rope;
  // Old files hold them as they were before scaling.
  RopeSpec plain = rope;
  plain.kind = rope.kind == RopeKind::none ? RopeKind::none : RopeKind::plain;
  const std::vector<double> stored = values_of(reader_, tensor, 0, tensor.elements());
  const std::vector<double> scaled = rope_frequencies(rope).inverse, unscaled = rope_frequencies(plain).inverse;
  // The smallest float16 numbers have few digits.
  const double tolerance = rounding(tensor.dtype), least = tensor.dtype == "F16" ? 0x1p-24 : 0;
  const auto first_other = [&](const std::vector<double>& expected) {
    std::size_t i = 0;
    while (i < stored.size() && std::abs(stored[i] - expected[i]) <= tolerance * expected[i] + least) ++i;
    return i;
  };
  if (stored.size() != scaled.size())
    fail("{}: tensor '{}' holds {} rotary frequencies; the configuration makes {} (rotary dimensions / 2)", tensor.file,
         tensor.name, stored.size(), scaled.size());
  const std::size_t at = first_other(scaled);
  if (at == stored.size() || first_other(unscaled) == stored.size()) return;
  fail(
      "{}: tensor '{}' holds the rotary frequency {:.6g} at [{}], where the configuration makes {:.6g} (rope_theta "
      "{}): "
      "the weights were made with another RoPE than config.json says; correct rope_theta or rope_scaling there, or "
      "remove the tensor if the configuration is right",
      tensor.file, tensor.name, stored[at], at, scaled[at], rope.theta);
}

void DroppedTensors::check_mask(const SafetensorsTensor& tensor) const {
  const auto& shape = tensor.shape;
  const bool square = shape.size() >= 2 && shape[shape.size() - 1] == shape[shape.size() - 2] &&
                      tensor.elements() == shape.back() * shape.back();
  if (!square)
    fail("{}: tensor '{}' of shape {} is taken for a causal mask, which is square", tensor.file, tensor.name,
         shape_text(shape));
  const std::int64_t size = shape.back(), rows_at_once = std::max<std::int64_t>(1, piece_bytes / 8 / size);
  for (std::int64_t begin = 0; begin < size; begin += rows_at_once) {
    const std::int64_t rows = std::min(rows_at_once, size - begin);
    const std::vector<double> values = values_of(reader_, tensor, begin * size, rows * size);
    for (std::int64_t i = 0; i < rows * size; ++i) {
      const std::int64_t row = begin + i / size, column = i % size;
      if ((values[static_cast<std::size_t>(i)] != 0) != (column <= row))
        fail(
            "{}: tensor '{}' is taken for a causal mask, but is {} at [{}, {}]: that model's attention is another one, "
            "which is not supported",
            tensor.file, tensor.name, values[static_cast<std::size_t>(i)], row, column);
    }
  }
}

void DroppedTensors::check_masked_value(const SafetensorsTensor& tensor) const {
  const std::vector<double> values = values_of(reader_, tensor, 0, tensor.elements());
  if (values.size() != 1 || !(values[0] <= -1e4))
    fail("{}: tensor '{}' of shape {} is taken for the score of masked keys, one number of at most -10000{}",
         tensor.file, tensor.name, shape_text(tensor.shape),
         values.empty() ? "" : fmt::format("; it is {}", values[0]));
}

void DroppedTensors::check_head(const SafetensorsTensor& head, const SafetensorsTensor& embedding) const {
  bool equal = head.shape == embedding.shape && head.dtype == embedding.dtype;
  std::vector<std::byte> one(static_cast<std::size_t>(piece_bytes)), other(one.size());
  for (std::int64_t at = 0; equal && at < head.bytes; at += piece_bytes) {
    const std::int64_t bytes = std::min(piece_bytes, head.bytes - at);
    reader_.read(head, at, one.data(), bytes);
    reader_.read(embedding, at, other.data(), bytes);
    equal = std::memcmp(one.data(), other.data(), static_cast<std::size_t>(bytes)) == 0;
  }
  if (!equal)
    fail(
        "{}: tensor '{}' ({} {}) is not equal to '{}' ({} {}), but the configuration ties the two (tie_word_embeddings "
        "is true, by the file or by the family's default): set it to false to train the head of its own, or remove "
        "that tensor",
        head.file, head.name, head.dtype, shape_text(head.shape), embedding.name, embedding.dtype,
        shape_text(embedding.shape));
}

std::string DroppedTensors::summary() const {
  std::vector<std::string> parts;
  if (frequencies_) parts.push_back(fmt::format("{} of rotary frequencies", frequencies_));
  if (masks_) parts.push_back(fmt::format("{} of causal masks", masks_));
  if (heads_) parts.push_back(fmt::format("{} equal to the embedding, which is the head", heads_));
  if (parts.empty()) return "";
  return fmt::format("left out {} tensors that say what the configuration says: {}", frequencies_ + masks_ + heads_,
                     fmt::join(parts, ", "));
}

}  // namespace longhaul
