#include "run/weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "run/dropped_tensors.h"
#include "run/stored_numbers.h"
#include "run/tensor_names.h"

namespace longhaul {
namespace {

struct Entry {
  WeightMapping mapping;
  const SafetensorsTensor* tensor = nullptr;  // of the reader
  Stored type = Stored::float32;
  std::int64_t width() const { return tensor->elements() ? tensor->bytes / tensor->elements() : 0; }
};

constexpr std::int64_t buffer_bytes = std::int64_t{4} << 20;

// Elements [begin, end) of a parameter that its tensor holds transposed: the file's rows are our columns. A row's part
// is read alone when it is a small one of a long row; else whole rows are, many at once.
template <typename T>
void read_transposed(const SafetensorsReader& reader, const Entry& entry, std::int64_t begin, std::int64_t end,
                     T* target) {
  const std::int64_t inputs = entry.mapping.tensor_shape[0], outputs = entry.mapping.tensor_shape[1],
                     width = entry.width();
  const std::int64_t first = begin / inputs, last = (end + inputs - 1) / inputs;  // of our rows
  const bool parts = (last - first) * 4 < outputs && (last - first) * width >= 4096;
  const std::int64_t row_bytes = parts ? (last - first) * width : outputs * width;
  const std::int64_t skipped = parts ? 0 : (entry.mapping.begin + first) * width;
  const std::int64_t rows_at_once = parts ? 1 : std::max<std::int64_t>(1, buffer_bytes / row_bytes);
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(rows_at_once, inputs) * row_bytes));
  for (std::int64_t in = 0; in < inputs; in += rows_at_once) {
    const std::int64_t rows = std::min(rows_at_once, inputs - in);
    const std::int64_t from = in * outputs * width + (parts ? (entry.mapping.begin + first) * width : 0);
    reader.read(*entry.tensor, from, buffer.data(), rows * row_bytes);
    for (std::int64_t row = 0; row < rows; ++row) {
      // Element `in + row` of each of our rows; of the first and the last perhaps not ours.
      const std::int64_t column = in + row;
      const std::int64_t own_first = first * inputs + column < begin ? first + 1 : first;
      const std::int64_t own_last = (last - 1) * inputs + column >= end ? last - 1 : last;
      if (own_first >= own_last) continue;
      convert(buffer.data() + row * row_bytes + skipped + (own_first - first) * width, entry.type, own_last - own_first,
              inputs, target + (own_first * inputs + column - begin));
    }
  }
}

template <typename T>
void read_elements(const SafetensorsReader& reader, const Entry& entry, std::int64_t begin, std::int64_t end,
                   T* target) {
  if (entry.mapping.transposed) return read_transposed(reader, entry, begin, end, target);
  const std::int64_t width = entry.width(), at_once = buffer_bytes / width;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(at_once, end - begin) * width));
  for (std::int64_t i = begin, count = 0; i < end; i += count) {
    count = std::min({at_once, end - i, entry.mapping.run(i)});
    reader.read(*entry.tensor, entry.mapping.tensor_offset(i) * width, buffer.data(), count * width);
    convert(buffer.data(), entry.type, count, 1, target + (i - begin));
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
                 std::string_view family, const TensorNames& names) {
  const SafetensorsTensor* tensor = reader.find(names.in_file(mapping.tensor));
  if (!tensor && !mapping.other_name.empty()) tensor = reader.find(names.in_file(mapping.other_name));
  if (!tensor)
    fail("{}: tensor '{}' of shape {} is missing{}; the model ({} family) needs it for {}{}", path, mapping.tensor,
         shape_text(mapping.tensor_shape),
         mapping.other_name.empty() ? "" : fmt::format(" (as is '{}')", mapping.other_name), family, mapping.parameter,
         names.advice(mapping.tensor));
  if (tensor->shape != mapping.tensor_shape)
    fail(
        "{}: tensor '{}' has shape {}; the model ({} family) needs {}: the weights and the configuration do not "
        "belong together",
        tensor->file, tensor->name, shape_text(tensor->shape), family, shape_text(mapping.tensor_shape));
  const std::optional<Stored> type = stored_type(tensor->dtype);
  if (!type)
    fail("{}: tensor '{}' of shape {} has dtype {}; supported are F64, F32, BF16 and F16: convert it first",
         tensor->file, tensor->name, shape_text(tensor->shape), tensor->dtype);
  return {mapping, tensor, *type};
}

}  // namespace

ParameterSource weights_source(const std::filesystem::path& path, const TransformerSpec& spec,
                               std::string_view family) {
  const auto files = std::make_shared<WeightFiles>(WeightFiles{SafetensorsReader(path.string()), {}});
  const std::vector<WeightMapping> mappings = weight_mappings(spec, family);
  const TensorNames names(files->reader, mappings);
  if (!names.difference().empty()) log_info("{}: {}", path.string(), names.difference());
  std::set<std::string_view> used;
  DroppedTensors dropped(files->reader, spec);
  for (const WeightMapping& mapping : mappings) {
    const Entry entry = find_entry(files->reader, path.string(), mapping, family, names);
    used.insert(entry.tensor->name);
    files->entries[mapping.parameter] = entry;
  }
  for (const auto& [name, tensor] : files->reader.tensors()) {
    if (used.contains(name)) continue;
    const std::string usual = names.usual(name);
    if (!is_ignored_tensor(usual, spec, family) && !is_ignored_tensor(name, spec, family))
      fail(
          "{}: tensor '{}' of shape {} is none of the model's ({} family): the weights and the configuration do not "
          "belong together",
          tensor.file, name, shape_text(tensor.shape), family);
    dropped.check(usual, tensor, *files->entries.at("embedding.tokens").tensor);
  }
  if (const std::string text = dropped.summary(); !text.empty()) log_info("{}: {}", path.string(), text);
  return [files](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target) {
    const auto found = files->entries.find(name);
    LONGHAUL_CHECK(found != files->entries.end(), "no parameter {}", name);
    const Entry& entry = found->second;
    LONGHAUL_CHECK(begin >= 0 && begin <= end && end <= entry.mapping.elements(), "elements [{}, {}) of {}", begin, end,
                   name);
    LONGHAUL_CHECK(dtype == DType::float64 || dtype == DType::float32, "{} asked for as {}", name, name_of(dtype));
    if (begin == end) return;
    if (dtype == DType::float64)
      read_elements(files->reader, entry, begin, end, static_cast<double*>(target));
    else
      read_elements(files->reader, entry, begin, end, static_cast<float*>(target));
  };
}

}  // namespace longhaul
