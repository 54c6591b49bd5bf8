#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "io/file.h"
#include "io/open_files.h"

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
  std::int64_t longest_chunk = 0;                                 // bytes
  OpenFiles files;

  std::shared_ptr<const ReadFile> file(std::size_t number) {
    const auto& described = manifest.files[number];
    return files.open((fs::path(path) / described.name).string(), described.bytes, "its manifest says");
  }

  // One chunk of an entry into `buffer`, its checksum verified every time: what was whole before may not be now.
  std::int64_t read_chunk(std::size_t number, std::size_t index, std::int64_t chunk, std::byte* buffer) {
    const auto& entry = manifest.files[number].entries[index];
    const std::int64_t begin = chunk * manifest.chunk_bytes;
    const std::int64_t bytes = std::min(manifest.chunk_bytes, entry.bytes() - begin);
    const auto from = file(number);
    from->read_at(entry.offset + begin, buffer, bytes, entry.name);
    if (XXH3_64bits(buffer, static_cast<std::size_t>(bytes)) != entry.hashes[static_cast<std::size_t>(chunk)])
      fail("{}: bytes [{}, {}) of tensor '{}' do not match their checksum: the file is corrupted", from->path(),
           entry.offset + begin, entry.offset + begin + bytes, entry.name);
    return bytes;
  }
  std::vector<std::byte> chunk_buffer() const {
    return std::vector<std::byte>(static_cast<std::size_t>(longest_chunk));
  }
};

Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint::Checkpoint(const std::string& path) : state_(std::make_unique<State>()) {
  auto& state = *state_;
  state.path = path;
  const std::string manifest_path = (fs::path(path) / manifest_name).string();
  // Not a fault of the system: a folder that was copied or removed half.
  std::error_code unreadable;
  if (fs::symlink_status(manifest_path, unreadable).type() == fs::file_type::not_found)
    fail("{} is missing: No such file or directory", manifest_path);
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
    const auto status = fs::status(file_path, error);
    if (status.type() == fs::file_type::not_found) fail("{} is missing: No such file or directory", file_path.string());
    if (!error && !fs::is_regular_file(status)) fail("{} is not a regular file", file_path.string());
    const auto bytes = error ? 0 : fs::file_size(file_path, error);
    if (error) fail_system("inspect", file_path.string(), -1, error.value());
    if (static_cast<std::int64_t>(bytes) != file.bytes)
      fail("{} has {} bytes, its manifest says {}", file_path.string(), bytes, file.bytes);
    for (std::size_t e = 0; e < file.entries.size(); ++e) {
      const auto& entry = file.entries[e];
      state.longest_chunk = std::max(state.longest_chunk, std::min(state.manifest.chunk_bytes, entry.bytes()));
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
  auto buffer = state.chunk_buffer();
  for (std::int64_t next = begin; next < end; ++piece) {
    const std::int64_t stop = std::min(end, piece->end);
    const std::int64_t byte = piece->byte + (next - piece->begin) * element;
    const std::int64_t bytes = (stop - next) * element;
    const std::int64_t chunk_bytes = state.manifest.chunk_bytes;
    for (std::int64_t done = 0; done < bytes;) {
      const std::int64_t chunk = (byte + done) / chunk_bytes, skip = (byte + done) % chunk_bytes;
      const std::int64_t chunk_size = state.read_chunk(piece->file, piece->entry, chunk, buffer.data());
      const std::int64_t wanted = std::min(bytes - done, chunk_size - skip);
      std::memcpy(out, buffer.data() + skip, static_cast<std::size_t>(wanted));
      out += wanted;
      done += wanted;
    }
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
  auto buffer = state.chunk_buffer();
  for (std::size_t f = 0; f < state.manifest.files.size(); ++f)
    for (std::size_t e = 0; e < state.manifest.files[f].entries.size(); ++e) {
      const auto chunks = static_cast<std::int64_t>(state.manifest.files[f].entries[e].hashes.size());
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk, ++number)
        if (number >= mine.begin && number < mine.end) state.read_chunk(f, e, chunk, buffer.data());
    }
}

std::vector<CheckpointLocation> list_checkpoints(const std::string& folder) {
  constexpr std::string_view prefix = "step-";
  std::vector<CheckpointLocation> found;
  std::error_code error;
  fs::directory_iterator item(folder, error);
  if (error == std::errc::no_such_file_or_directory) return found;
  for (; !error && item != fs::directory_iterator(); item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const std::string digits = name.substr(prefix.size());
    if (digits.size() < 8 || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    const std::int64_t step = std::stoll(digits);
    if (checkpoint_folder_name(step) != name) continue;
    const bool folder_or_link = item->is_directory(error);
    if (error) fail_system("inspect", item->path().string(), -1, error.value());
    if (folder_or_link) found.push_back({step, item->path().string()});
  }
  // A folder that cannot be read must not look like one without checkpoints: training would start again from nothing.
  if (error) fail_system("list folder", folder, -1, error.value());
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return found;
}

}  // namespace longhaul
