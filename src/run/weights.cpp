#include "run/weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/huggingface.h"

namespace longhaul {
namespace {

// The element types of weight files that we convert.
enum class Stored : std::uint8_t { float64, float32, bfloat16, float16 };

std::optional<Stored> stored_type(std::string_view name) {
  if (name == "F64") return Stored::float64;
  if (name == "F32") return Stored::float32;
  if (name == "BF16") return Stored::bfloat16;
  if (name == "F16") return Stored::float16;
  return std::nullopt;
}

// IEEE half precision: 1 sign bit, 5 bits of exponent (bias 15), 10 of fraction. Every value is exact in float.
float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormal
  return sign ? -magnitude : magnitude;
}

// Tensors in a file are not aligned.
template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

struct Entry {
  WeightMapping mapping;
  std::string_view tensor;          // as the file names it
  const std::byte* data = nullptr;  // of the file's tensor
  Stored type = Stored::float32;
};

// Elements [begin, end) of the parameter; element(i) gives element i of the tensor.
template <typename T, typename Element>
void copy_elements(const WeightMapping& mapping, std::int64_t begin, std::int64_t end, T* target, Element element) {
  if (!mapping.transposed) {
    const std::int64_t offset = mapping.tensor_offset(begin);
    for (std::int64_t i = 0; i < end - begin; ++i) target[i] = static_cast<T>(element(offset + i));
    return;
  }
  // A block of outputs at a time, so that the lines of memory which a stored row brings in are used whole.
  constexpr std::int64_t block = 32;
  const std::int64_t inputs = mapping.tensor_shape[0], outputs = mapping.tensor_shape[1];
  for (std::int64_t first = begin / inputs; first * inputs < end; first += block) {
    const std::int64_t last = std::min(first + block, (end + inputs - 1) / inputs);
    for (std::int64_t in = 0; in < inputs; ++in)
      for (std::int64_t out = first; out < last; ++out) {
        const std::int64_t i = out * inputs + in;
        if (i >= begin && i < end) target[i - begin] = static_cast<T>(element(in * outputs + mapping.begin + out));
      }
  }
}

template <typename T>
void read_elements(const Entry& entry, std::int64_t begin, std::int64_t end, T* target) {
  const std::byte* data = entry.data;
  switch (entry.type) {
    case Stored::float64:
      return copy_elements(entry.mapping, begin, end, target,
                           [data](std::int64_t i) { return load<double>(data + i * 8); });
    case Stored::float32:
      return copy_elements(entry.mapping, begin, end, target,
                           [data](std::int64_t i) { return load<float>(data + i * 4); });
    case Stored::bfloat16:
      return copy_elements(entry.mapping, begin, end, target,
                           [data](std::int64_t i) { return static_cast<float>(load<bfloat16>(data + i * 2)); });
    case Stored::float16:
      return copy_elements(entry.mapping, begin, end, target,
                           [data](std::int64_t i) { return from_half(load<std::uint16_t>(data + i * 2)); });
  }
}

struct WeightFiles {
  SafetensorsReader reader;
  std::map<std::string, Entry, std::less<>> entries;  // by our name
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Entry find_entry(const SafetensorsReader& reader, const std::string& path, const WeightMapping& mapping,
                 std::string_view family) {
  const SafetensorsTensor* tensor = reader.find(mapping.tensor);
  if (!tensor && !mapping.other_name.empty()) tensor = reader.find(mapping.other_name);
  if (!tensor)
    fail("{}: tensor '{}' of shape {} is missing{}; the model ({} family) needs it for {}", path, mapping.tensor,
         shape_text(mapping.tensor_shape),
         mapping.other_name.empty() ? "" : fmt::format(" (as is '{}')", mapping.other_name), family, mapping.parameter);
  if (tensor->shape != mapping.tensor_shape)
    fail(
        "{}: tensor '{}' has shape {}; the model ({} family) needs {}: the weights and the configuration do not "
        "belong together",
        tensor->file, tensor->name, shape_text(tensor->shape), family, shape_text(mapping.tensor_shape));
  const std::optional<Stored> type = stored_type(tensor->dtype);
  if (!type)
    fail("{}: tensor '{}' of shape {} has dtype {}; supported are F64, F32, BF16 and F16: convert it first",
         tensor->file, tensor->name, shape_text(tensor->shape), tensor->dtype);
  return {mapping, tensor->name, tensor->data, *type};
}

}  // namespace

ParameterSource weights_source(const std::filesystem::path& path, const TransformerSpec& spec,
                               std::string_view family) {
  const auto files = std::make_shared<WeightFiles>(WeightFiles{SafetensorsReader(path.string()), {}});
  std::set<std::string_view> used;
  for (const WeightMapping& mapping : weight_mappings(spec, family)) {
    const Entry entry = find_entry(files->reader, path.string(), mapping, family);
    used.insert(entry.tensor);
    files->entries[mapping.parameter] = entry;
  }
  for (const auto& [name, tensor] : files->reader.tensors())
    if (!used.contains(name) && !is_ignored_tensor(name, spec, family))
      fail(
          "{}: tensor '{}' of shape {} is none of the model's ({} family): the weights and the configuration do not "
          "belong together",
          tensor.file, name, shape_text(tensor.shape), family);
  return [files](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target) {
    const auto found = files->entries.find(name);
    LONGHAUL_CHECK(found != files->entries.end(), "no parameter {}", name);
    const Entry& entry = found->second;
    LONGHAUL_CHECK(begin >= 0 && begin <= end && end <= entry.mapping.elements(), "elements [{}, {}) of {}", begin, end,
                   name);
    LONGHAUL_CHECK(dtype == DType::float64 || dtype == DType::float32, "{} asked for as {}", name, name_of(dtype));
    if (begin == end) return;
    if (dtype == DType::float64)
      read_elements(entry, begin, end, static_cast<double*>(target));
    else
      read_elements(entry, begin, end, static_cast<float*>(target));
  };
}

}  // namespace longhaul
