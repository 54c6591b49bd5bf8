#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/json.h"
#include "io/file.h"
#include "io/open_files.h"
#include "io/safetensors.h"

namespace longhaul {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie in the file");

constexpr std::int64_t header_limit = 100'000'000;

struct HeaderTensor {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::int64_t>> shape;
  std::optional<std::vector<std::int64_t>> offsets;
};

// Reads the header as a stream of events: nothing is built but the entries themselves, keys cannot silently repeat, and
// numbers arrive as the exact integers that were written.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(const std::string& path) : path_(path) {}

  std::vector<HeaderTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool null() override {
    // Other writers say with it that there is none.
    if (depth_ == 1 && in_metadata_) return true;
    refuse("null");
  }
  bool boolean(bool) override { refuse("true or false"); }
  bool number_integer(number_integer_t value) override { refuse(fmt::format("the negative number {}", value)); }
  bool number_float(number_float_t, const string_t& text) override {
    refuse(fmt::format("the number {}", text.substr(0, 40)));
  }
  bool binary(binary_t&) override { refuse("binary"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (!list_) refuse(fmt::format("the number {}", value));
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
      refuse(fmt::format("the number {}, larger than any file,", value));
    list_->push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ != 2 || list_) refuse("a string");
    if (in_metadata_) {
      metadata[key_] = value;
      return true;
    }
    if (key_ != "dtype") refuse("a string");
    tensors.back().dtype = value;
    return true;
  }
  bool start_object(std::size_t) override {
    if (list_ || depth_ >= 2) refuse("an object");
    ++depth_;
    keys_.clear();
    return true;
  }
  bool key(string_t& value) override {
    key_ = value;
    if (depth_ == 1) {
      if (!names_.insert(value).second) fail("{}: the header names tensor '{}' twice", path_, value);
      in_metadata_ = value == "__metadata__";
      if (!in_metadata_) tensors.push_back({value, {}, {}, {}});
      return true;
    }
    if (!keys_.insert(value).second) fail("{}: the header gives '{}' of '{}' twice", path_, value, owner());
    if (!in_metadata_ && value != "dtype" && value != "shape" && value != "data_offsets")
      fail("{}: tensor '{}' has the key '{}'; dtype, shape and data_offsets are allowed", path_, owner(), value);
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || list_ || (key_ != "shape" && key_ != "data_offsets")) refuse("a list");
    auto& slot = key_ == "shape" ? tensors.back().shape : tensors.back().offsets;
    list_ = &slot.emplace();
    return true;
  }
  bool end_array() override {
    list_ = nullptr;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    fail("{}: the header is not valid JSON at byte {}: {}", path_, 8 + position, error.what());
  }

 private:
  std::string owner() const { return in_metadata_ ? "__metadata__" : tensors.empty() ? "" : tensors.back().name; }
  [[noreturn]] void refuse(const std::string& what) const {
    if (depth_ == 0) fail("{}: the header is {}, not an object", path_, what);
    if (depth_ == 1)
      fail("{}: '{}' of the header is {}, not an object", path_, in_metadata_ ? "__metadata__" : owner(), what);
    fail("{}: '{}' of '{}' has {} where {} must stand", path_, key_, owner(), what,
         in_metadata_       ? "a string"
         : key_ == "dtype"  ? "a dtype name"
         : list_ == nullptr ? "a list of whole numbers"
                            : "a whole number");
  }

  const std::string& path_;
  int depth_ = 0;
  bool in_metadata_ = false;
  std::string key_;
  std::set<std::string> names_;
  std::set<std::string> keys_;
  std::vector<std::int64_t>* list_ = nullptr;
};

// Not by the first bytes alone: they are the header's length, which may be any number.
[[noreturn]] void refuse_file(const ReadFile& file, const std::string& why) {
  std::string head(static_cast<std::size_t>(std::min<std::int64_t>(file.size(), file_kind_bytes)), '\0');
  file.read_at(0, head.data(), static_cast<std::int64_t>(head.size()), "its kind");
  const std::string kind = file_kind(head, TakenFor::weights);
  fail("{}: {}", file.path(), kind.empty() ? why : "this is not a safetensors file, it is " + kind);
}

std::string list_of_names(const std::vector<std::string>& names) {
  constexpr std::size_t most = 12;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > most) text += fmt::format(" and {} more", names.size() - most);
  return names.empty() ? "nothing" : text;
}

// What weights of other kinds are called.
std::string advice_on_weight_files(const std::vector<std::string>& names) {
  for (const auto& name : names) {
    if (name.ends_with(".bin.index.json") || name.starts_with("pytorch_model"))
      return "convert pytorch_model.bin to safetensors first (save_pretrained of transformers writes them)";
    if (name.ends_with(".gguf")) return "GGUF files are quantized for inference; take the model's safetensors";
    if (name.ends_with(".pth") || name.ends_with(".pt") || name.ends_with(".ckpt"))
      return "convert PyTorch's .pt, .pth and .ckpt files to safetensors first";
    if (name == "adapter_config.json") return "an adapter (LoRA) is no model: merge it into its base model first";
    if (name.starts_with("tf_model") || name.starts_with("flax_model"))
      return "convert TensorFlow's and Flax's weights to safetensors first";
  }
  return "";
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Bytes of a tensor by its own dtype and shape.
std::int64_t bytes_of(const std::string& path, const HeaderTensor& tensor) {
  const int bits = safetensors_bits(*tensor.dtype);
  if (bits == 0)
    fail("{}: tensor '{}' has the dtype '{}', which safetensors does not know", path, tensor.name, *tensor.dtype);
  std::int64_t total = 1;
  for (const std::int64_t size : *tensor.shape)
    if (__builtin_mul_overflow(total, size, &total))
      fail("{}: tensor '{}' of shape {} has more elements than 64 bits count", path, tensor.name,
           text_of(*tensor.shape));
  if (__builtin_mul_overflow(total, static_cast<std::int64_t>(bits), &total))
    fail("{}: tensor '{}' of shape {} has more bits than 64 bits count", path, tensor.name, text_of(*tensor.shape));
  if (total % 8 != 0)
    fail("{}: tensor '{}' ({} {}) does not end on a byte", path, tensor.name, *tensor.dtype, text_of(*tensor.shape));
  return total / 8;
}

// Checks one file's header against its size; the tensors come in the order of their bytes.
std::vector<SafetensorsTensor> parse(const ReadFile& file, std::map<std::string, std::string>& metadata) {
  const std::string& path = file.path();
  if (file.size() < 8)
    refuse_file(file, fmt::format("it has {} bytes, less than the header length at byte 0 needs: it is truncated",
                                  file.size()));
  std::uint64_t length = 0;
  file.read_at(0, &length, 8, "the header length");
  if (length > static_cast<std::uint64_t>(header_limit))
    refuse_file(file,
                fmt::format("byte 0 gives a header of {} bytes; at most {} are allowed: this is not a safetensors "
                            "file",
                            length, header_limit));
  const auto header_bytes = static_cast<std::int64_t>(length);
  if (header_bytes > file.size() - 8)
    refuse_file(file, fmt::format("the header needs {} bytes at byte 8, but the file has {} bytes: it is truncated or "
                                  "not what it is taken for",
                                  header_bytes, file.size()));
  std::string header(static_cast<std::size_t>(header_bytes), '\0');
  file.read_at(8, header.data(), header_bytes, "the header");
  if (header_bytes == 0 || header[0] != '{') refuse_file(file, "the header at byte 8 does not begin with '{'");
  HeaderEvents events(path);
  nlohmann::json::sax_parse(header, &events);
  metadata.merge(events.metadata);

  const std::int64_t data_begin = 8 + header_bytes;
  const std::int64_t data_bytes = file.size() - data_begin;
  std::vector<SafetensorsTensor> result;
  for (const auto& tensor : events.tensors) {
    if (!tensor.dtype || !tensor.shape || !tensor.offsets)
      fail("{}: tensor '{}' lacks {}", path, tensor.name,
           !tensor.dtype   ? "dtype"
           : !tensor.shape ? "shape"
                           : "data_offsets");
    const auto& offsets = *tensor.offsets;
    if (offsets.size() != 2)
      fail("{}: tensor '{}' has {} data_offsets instead of 2", path, tensor.name, offsets.size());
    if (offsets[0] > offsets[1] || offsets[1] > data_bytes)
      fail("{}: tensor '{}' claims bytes [{}, {}) of the data, which has {} bytes: the file is truncated or garbled",
           path, tensor.name, offsets[0], offsets[1], data_bytes);
    const std::int64_t bytes = bytes_of(path, tensor);
    if (bytes != offsets[1] - offsets[0])
      fail("{}: tensor '{}' ({} {}) needs {} bytes but its data_offsets [{}, {}) hold {}", path, tensor.name,
           *tensor.dtype, text_of(*tensor.shape), bytes, offsets[0], offsets[1], offsets[1] - offsets[0]);
    result.push_back({tensor.name, *tensor.dtype, *tensor.shape, data_begin + offsets[0], bytes, path});
  }
  std::sort(result.begin(), result.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  std::int64_t expected = 0;
  for (const auto& tensor : result) {
    const std::int64_t begin = tensor.offset - data_begin;
    if (begin != expected)
      fail("{}: tensor '{}' begins at byte {} of the data, but the one before it ends at {}: {}", path, tensor.name,
           begin, expected, begin < expected ? "they overlap" : "there is a hole");
    expected = begin + tensor.bytes;
  }
  if (expected != data_bytes)
    fail("{}: the tensors end at byte {} of the data, which has {} bytes", path, expected, data_bytes);
  return result;
}

}  // namespace

std::string_view safetensors_name(DType type) {
  switch (type) {
    case DType::float64:
      return "F64";
    case DType::float32:
      return "F32";
    case DType::bfloat16:
      return "BF16";
    case DType::uint8:
      return "U8";
    case DType::int32:
      return "I32";
  }
  return "?";
}

std::optional<DType> from_safetensors_name(std::string_view name) {
  for (DType type : {DType::float64, DType::float32, DType::bfloat16, DType::uint8, DType::int32})
    if (safetensors_name(type) == name) return type;
  return std::nullopt;
}

int safetensors_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int> table[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  for (const auto& [name, bits] : table)
    if (name == dtype) return bits;
  return 0;
}

std::int64_t SafetensorsTensor::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;  // known not to overflow
  return count;
}

struct SafetensorsReader::Files {
  OpenFiles open;
  std::map<std::string, std::int64_t> sizes;  // by path, as they were when their headers were read
};

SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;
SafetensorsReader::~SafetensorsReader() = default;

SafetensorsReader::SafetensorsReader(const std::string& path) : path_(path), files_(std::make_unique<Files>()) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const fs::path single = fs::path(path) / "model.safetensors";
    const fs::path index = fs::path(path) / "model.safetensors.index.json";
    if (fs::exists(single, ignored))
      add_file(single.string());
    else if (fs::exists(index, ignored))
      add_index(index.string());
    else
      add_folder(path);
  } else if (path.ends_with(".json")) {
    add_index(path);
  } else {
    add_file(path);
  }
}

void SafetensorsReader::add_file(const std::string& path) {
  const ReadFile file(path);
  files_->sizes[path] = file.size();
  for (auto& tensor : parse(file, metadata_)) {
    const std::string name = tensor.name;
    const auto [there, added] = tensors_.emplace(name, std::move(tensor));
    if (!added) fail("tensor '{}' is in both {} and {}", name, there->second.file, path);
  }
}

// No usual name: one file, or shards without their index, are plain enough.
void SafetensorsReader::add_folder(const std::string& path) {
  namespace fs = std::filesystem;
  std::vector<std::string> weights, others;
  std::error_code error;
  for (fs::directory_iterator item(path, error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    (name.ends_with(".safetensors") && !name.starts_with('.') ? weights : others).push_back(name);
  }
  if (error) fail_system("list folder", path, -1, error.value());
  std::sort(weights.begin(), weights.end());
  std::sort(others.begin(), others.end());
  const std::string advice = advice_on_weight_files(others);
  if (weights.empty())
    fail("folder {} holds no .safetensors file; it holds {}{}", path, list_of_names(others),
         advice.empty() ? "" : ": " + advice);
  // Meta's own layout has other tensors under other names.
  if (std::any_of(weights.begin(), weights.end(), [](const auto& one) { return one.starts_with("consolidated"); }))
    fail(
        "folder {} holds {}: weights in the layout of their first publisher (consolidated), with other names and "
        "orders "
        "of rows; convert them, or take the Hugging Face files (model.safetensors) of that model",
        path, list_of_names(weights));
  // "name-00001-of-00003.safetensors": all of them must be there, and nothing else.
  if (weights.size() > 1) {
    const auto dash = weights.front().rfind("-of-");
    const std::size_t wanted =
        dash == std::string::npos ? 0 : std::strtoul(weights.front().c_str() + dash + 4, nullptr, 10);
    if (wanted != weights.size())
      fail(
          "folder {} holds {} .safetensors files ({}) and no model.safetensors.index.json that says what is in which: "
          "{}",
          path, weights.size(), list_of_names(weights),
          wanted == 0 ? "name the one that is meant" : fmt::format("their names speak of {} shards", wanted));
  }
  for (const auto& name : weights) add_file((fs::path(path) / name).string());
}

void SafetensorsReader::add_index(const std::string& path) {
  const std::string text = read_text(path, header_limit);
  std::set<std::string> files;
  std::map<std::string, std::string> weight_map;
  const auto index = parse_json(text, path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail("{}: not an index of safetensors shards: an object \"weight_map\" from tensor to file is missing", path);
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail("{}: the file of tensor '{}' is {}, not a text", path, name, file.dump());
    weight_map[name] = file;
  }
  for (const auto& [name, file] : weight_map) {
    // A shard lies beside its index: a path that leads elsewhere is a trap, not a checkpoint.
    if (file.empty() || file.find('/') != std::string::npos || file == "..")
      fail("{}: tensor '{}' is said to be in '{}'; only a file name in the index's own folder is allowed", path, name,
           file);
    files.insert(file);
  }
  const auto folder = std::filesystem::path(path).parent_path();
  for (const auto& file : files) add_file((folder / file).string());
  for (const auto& [name, file] : weight_map) {
    const auto* tensor = find(name);
    const std::string expected = (folder / file).string();
    if (!tensor || tensor->file != expected)
      fail("{}: tensor '{}' is said to be in {} but is {}", path, name, expected,
           tensor ? "in " + tensor->file : "in no shard");
  }
  for (const auto& [name, tensor] : tensors_)
    if (!weight_map.contains(name)) fail("{}: tensor '{}' of {} is not in the index", path, name, tensor.file);
}

void SafetensorsReader::read(const SafetensorsTensor& tensor, std::int64_t begin, void* to, std::int64_t bytes) const {
  LONGHAUL_CHECK(begin >= 0 && bytes >= 0 && begin <= tensor.bytes && bytes <= tensor.bytes - begin,
                 "bytes [{}, {}) of tensor '{}', which has {}", begin, begin + bytes, tensor.name, tensor.bytes);
  if (bytes == 0) return;
  files_->open.open(tensor.file, files_->sizes.at(tensor.file), "when it was opened it had")
      ->read_at(tensor.offset + begin, to, bytes, tensor.name);
}

const SafetensorsTensor* SafetensorsReader::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const SafetensorsTensor& SafetensorsReader::at(std::string_view name) const {
  const auto* tensor = find(name);
  if (!tensor) fail("{} holds no tensor '{}' (it holds {} tensors)", path_, name, tensors_.size());
  return *tensor;
}

}  // namespace longhaul
