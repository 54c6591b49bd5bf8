#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t manifest_limit = std::int64_t{4} << 30;

}  // namespace

struct Checkpoint::State {
  // One range of one entry, where it lies.
  struct Piece {
    std::int64_t begin, end;  // elements of the tensor
    std::int64_t byte;        // of `begin`, from the start of the entry
    std::size_t file, entry;
  };
  std::string path;
  Manifest manifest;
  std::map<std::string, CheckpointTensor, std::less<>> tensors;
  std::map<std::string, std::vector<Piece>, std::less<>> pieces;  // ascending
  std::mutex mutex;                                               // of what follows
  std::vector<std::optional<MappedFile>> mapped;
  std::vector<std::vector<std::vector<bool>>> verified;  // file, entry, chunk

  const std::byte* data_of(std::size_t file) {
    const std::lock_guard lock(mutex);
    if (!mapped[file]) {
      const auto& described = manifest.files[file];
      MappedFile map((fs::path(path) / described.name).string());
      if (map.size() != described.bytes)
        fail("{} has {} bytes, its manifest says {}", map.path(), map.size(), described.bytes);
      mapped[file] = std::move(map);
    }
    return mapped[file]->data();
  }

  // Verifies one chunk once.
  void verify(std::size_t file, std::size_t index, std::int64_t chunk) {
    {
      const std::lock_guard lock(mutex);
      if (verified[file][index][static_cast<std::size_t>(chunk)]) return;
    }
    const auto& entry = manifest.files[file].entries[index];
    const std::int64_t begin = chunk * manifest.chunk_bytes;
    const std::int64_t bytes = std::min(manifest.chunk_bytes, entry.bytes() - begin);
    const auto* data = data_of(file) + entry.offset + begin;
    if (XXH3_64bits(data, static_cast<std::size_t>(bytes)) != entry.hashes[static_cast<std::size_t>(chunk)])
      fail("{}: bytes [{}, {}) of tensor '{}' do not match their checksum: the file is corrupted",
           (fs::path(path) / manifest.files[file].name).string(), entry.offset + begin, entry.offset + begin + bytes,
           entry.name);
    const std::lock_guard lock(mutex);
    verified[file][index][static_cast<std::size_t>(chunk)] = true;
  }
};

Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint::Checkpoint(const std::string& path) : state_(std::make_unique<State>()) {
  auto& state = *state_;
  state.path = path;
  const std::string manifest_path = (fs::path(path) / manifest_name).string();
  state.manifest = read_manifest(read_text(manifest_path, manifest_limit), manifest_path);
  try {
    state.tensors = state.manifest.check();
  } catch (const Error& error) {
    fail("{}: {}", manifest_path, error.what());
  }
  for (std::size_t f = 0; f < state.manifest.files.size(); ++f) {
    const auto& file = state.manifest.files[f];
    const fs::path file_path = fs::path(path) / file.name;
    std::error_code error;
    const auto bytes = fs::file_size(file_path, error);
    if (error) fail_system("find", file_path.string(), -1, error.value());
    if (static_cast<std::int64_t>(bytes) != file.bytes)
      fail("{} has {} bytes, its manifest says {}", file_path.string(), bytes, file.bytes);
    auto& verified = state.verified.emplace_back();
    for (std::size_t e = 0; e < file.entries.size(); ++e) {
      const auto& entry = file.entries[e];
      verified.emplace_back(entry.hashes.size(), false);
      const auto element = static_cast<std::int64_t>(size_of(entry.tensor.dtype));
      std::int64_t byte = 0;
      for (const auto& range : entry.ranges) {
        state.pieces[entry.name].push_back({range.begin, range.end, byte, f, e});
        byte += (range.end - range.begin) * element;
      }
    }
  }
  for (auto& [name, pieces] : state.pieces)
    std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  state.mapped.resize(state.manifest.files.size());
}

const std::string& Checkpoint::path() const {
  return state_->path;
}
std::int64_t Checkpoint::step() const {
  return state_->manifest.step;
}
int Checkpoint::world() const {
  return static_cast<int>(state_->manifest.files.size());
}
const std::string& Checkpoint::state() const {
  return state_->manifest.state;
}
const std::map<std::string, CheckpointTensor, std::less<>>& Checkpoint::tensors() const {
  return state_->tensors;
}

void Checkpoint::read(std::string_view name, DType dtype, std::span<const std::int64_t> shape, std::int64_t begin,
                      std::int64_t end, void* destination) const {
  auto& state = *state_;
  const auto tensor = state.tensors.find(name);
  if (tensor == state.tensors.end())
    fail("checkpoint {} holds no tensor '{}', which this run has as {} [{}]; resume with the model that wrote it",
         state.path, name, name_of(dtype), fmt::join(shape, ", "));
  const auto& stored = tensor->second;
  if (stored.dtype != dtype || !std::equal(shape.begin(), shape.end(), stored.shape.begin(), stored.shape.end()))
    fail(
        "checkpoint {}: tensor '{}' is {} [{}] but this run has {} [{}]; resume with the model and dtypes that wrote "
        "it",
        state.path, name, name_of(stored.dtype), fmt::join(stored.shape, ", "), name_of(dtype), fmt::join(shape, ", "));
  LONGHAUL_CHECK(begin >= 0 && begin <= end && end <= element_count(shape), "range [{}, {}) of tensor '{}'", begin, end,
                 name);
  if (begin == end) return;
  const auto& pieces = state.pieces.find(name)->second;
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  auto piece = std::upper_bound(pieces.begin(), pieces.end(), begin,
                                [](std::int64_t value, const auto& candidate) { return value < candidate.end; });
  auto* out = static_cast<std::byte*>(destination);
  for (std::int64_t next = begin; next < end; ++piece) {
    const std::int64_t stop = std::min(end, piece->end);
    const std::int64_t byte = piece->byte + (next - piece->begin) * element;
    const std::int64_t bytes = (stop - next) * element;
    const std::int64_t chunk_bytes = state.manifest.chunk_bytes;
    for (std::int64_t chunk = byte / chunk_bytes; chunk * chunk_bytes < byte + bytes; ++chunk)
      state.verify(piece->file, piece->entry, chunk);
    const auto offset = state.manifest.files[piece->file].entries[piece->entry].offset;
    std::memcpy(out, state.data_of(piece->file) + offset + byte, static_cast<std::size_t>(bytes));
    out += bytes;
    next = stop;
  }
}

void Checkpoint::verify(int part, int parts) const {
  LONGHAUL_CHECK(parts > 0 && part >= 0 && part < parts, "part {} of {}", part, parts);
  auto& state = *state_;
  std::int64_t total = 0;
  for (const auto& file : state.manifest.files)
    for (const auto& entry : file.entries) total += static_cast<std::int64_t>(entry.hashes.size());
  const ElementRange mine = flat_split(total, parts, part);
  std::int64_t number = 0;
  for (std::size_t f = 0; f < state.manifest.files.size(); ++f)
    for (std::size_t e = 0; e < state.manifest.files[f].entries.size(); ++e) {
      const auto chunks = static_cast<std::int64_t>(state.manifest.files[f].entries[e].hashes.size());
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk, ++number)
        if (number >= mine.begin && number < mine.end) state.verify(f, e, chunk);
    }
}

std::vector<CheckpointLocation> list_checkpoints(const std::string& folder) {
  constexpr std::string_view prefix = "step-";
  std::vector<CheckpointLocation> found;
  std::error_code error;
  fs::directory_iterator items(folder, error);
  if (error == std::errc::no_such_file_or_directory) return found;
  // A folder that cannot be read must not look like one without checkpoints: training would start again from nothing.
  if (error) fail_system("list folder", folder, -1, error.value());
  for (const auto& item : items) {
    const std::string name = item.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const std::string digits = name.substr(prefix.size());
    if (digits.size() < 8 || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    const std::int64_t step = std::stoll(digits);
    if (checkpoint_folder_name(step) == name && item.is_directory(error)) found.push_back({step, item.path().string()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

}  // namespace longhaul
