#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/file.h"
#include "io/ranges.h"
#include "io/safetensors.h"

namespace longhaul {
namespace {

struct Placed {
  const SafetensorsDeclaration* declaration;
  int bits;
  std::int64_t bytes;
};

std::int64_t bytes_of(const SafetensorsDeclaration& tensor, int bits) {
  std::int64_t bytes = bits / 8;
  for (const std::int64_t size : tensor.shape)
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes))
      fail("cannot write tensor '{}' of shape [{}]: a size is negative or the whole too large for 64 bits", tensor.name,
           fmt::join(tensor.shape, ", "));
  return bytes;
}

}  // namespace

struct SafetensorsWriter::State {
  struct Region {
    std::int64_t begin = 0;
    std::int64_t bytes = 0;
    RangeSet written;
  };
  std::string path;
  std::map<std::string, Region, std::less<>> regions;
  std::unique_ptr<AtomicFile> file;
  std::int64_t file_bytes = 0;
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : state_(std::make_unique<State>()) {
  std::vector<Placed> order;
  for (const auto& tensor : tensors) {
    const int bits = safetensors_bits(tensor.dtype);
    if (bits < 8) fail("cannot write tensor '{}': unknown or sub-byte dtype '{}'", tensor.name, tensor.dtype);
    if (tensor.name == "__metadata__") fail("cannot write a tensor named __metadata__: the format reserves that name");
    order.push_back({&tensor, bits, bytes_of(tensor, bits)});
  }
  // Wide elements first, so that each tensor is aligned to its own element size; then by name, as other writers do.
  std::sort(order.begin(), order.end(), [](const Placed& a, const Placed& b) {
    return std::tie(b.bits, a.declaration->name) < std::tie(a.bits, b.declaration->name);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t offset = 0;
  for (const auto& placed : order) {
    const auto& name = placed.declaration->name;
    if (!state_->regions.try_emplace(name, State::Region{offset, placed.bytes, {}}).second)
      fail("cannot write {}: tensor '{}' is declared twice", path, name);
    std::int64_t end = 0;
    if (__builtin_add_overflow(offset, placed.bytes, &end)) fail("cannot write {}: too large for 64 bits", path);
    header.emplace(name, nlohmann::ordered_json{{"dtype", placed.declaration->dtype},
                                                {"shape", placed.declaration->shape},
                                                {"data_offsets", {offset, end}}});
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    fail("cannot write {}: a tensor name or metadata string is not UTF-8: {}", path, error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  if (length > 100'000'000)
    fail("cannot write {}: its header would have {} bytes, 100000000 are allowed", path, length);
  const auto data_begin = static_cast<std::int64_t>(8 + length);
  for (auto& [name, region] : state_->regions) region.begin += data_begin;
  state_->path = path;
  state_->file_bytes = data_begin + offset;
  state_->file = std::make_unique<AtomicFile>(path, state_->file_bytes);
  state_->file->write_at(0, &length, 8);
  state_->file->write_at(8, text.data(), static_cast<std::int64_t>(text.size()));
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::string_view name, std::int64_t byte_offset, const void* data, std::int64_t bytes) {
  const auto found = state_->regions.find(name);
  LONGHAUL_CHECK(found != state_->regions.end(), "{}: tensor '{}' was not declared", state_->path, name);
  auto& region = found->second;
  LONGHAUL_CHECK(byte_offset >= 0 && bytes >= 0 && byte_offset <= region.bytes && bytes <= region.bytes - byte_offset,
                 "{}: bytes [{}, {}) of tensor '{}', which has {}", state_->path, byte_offset, byte_offset + bytes,
                 name, region.bytes);
  state_->file->write_at(region.begin + byte_offset, data, bytes);
  region.written.add(byte_offset, byte_offset + bytes);
}

void SafetensorsWriter::finish() {
  for (const auto& [name, region] : state_->regions)
    LONGHAUL_CHECK(region.written.covers(0, region.bytes), "{}: tensor '{}' was not written whole", state_->path, name);
  state_->file->commit();
}

std::int64_t SafetensorsWriter::file_bytes() const {
  return state_->file_bytes;
}

}  // namespace longhaul
