#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "io/file.h"
#include "io/uninterrupted.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t entry_alignment = 64;

std::string final_path(const std::string& folder, std::int64_t step) {
  return (fs::path(folder) / checkpoint_folder_name(step)).string();
}
std::string temporary_path(const std::string& folder, std::int64_t step) {
  return (fs::path(folder) / (std::string(temporary_prefix) + checkpoint_folder_name(step))).string();
}

constexpr std::string_view replaced_suffix = "-replaced";

int rename_path(const std::string& from, const std::string& to) {
  return uninterrupted([&] { return ::rename(from.c_str(), to.c_str()); });
}

// Puts `from` at the name `to`; when `to` exists the two trade places in one step, so that a whole checkpoint stands
// there at every moment.
void put_in_place(const std::string& from, const std::string& to) {
  const auto rename_with = [&](unsigned flags) {
    return uninterrupted([&] { return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags); });
  };
  if (rename_with(RENAME_NOREPLACE) == 0) return;
  if (errno == EEXIST) {
    if (rename_with(RENAME_EXCHANGE) == 0) return;
    if (errno != EINVAL && errno != ENOSYS) fail_system(fmt::format("exchange {} with", from), to, -1, errno);
  } else if (errno != EINVAL && errno != ENOSYS) {
    fail_system(fmt::format("rename {} to", from), to, -1, errno);
  }
  // A file system without these calls: move the old one aside first. Killed in between:
  // finish_interrupted_replacements.
  const std::string aside = from + std::string(replaced_suffix);
  if (rename_path(to, aside) != 0 && errno != ENOENT) fail_system(fmt::format("rename {} to", to), aside, -1, errno);
  if (rename_path(from, to) != 0) {
    const int code = errno;
    (void)rename_path(aside, to);
    fail_system(fmt::format("rename {} to", from), to, -1, code);
  }
}

// Removes older whole checkpoints beyond the newest k. What is damaged, cannot be read now, or is newer than `step` (a
// run resumed from before it) is not ours to judge and stays.
void remove_older(const std::string& folder, std::int64_t step, int keep_latest_k) {
  if (keep_latest_k <= 0) return;
  int kept = 1;
  for (const auto& [older, path] : list_checkpoints(folder)) {
    if (older >= step) continue;
    try {
      const Checkpoint whole(path);
    } catch (const Error& error) {
      log_debug("{} does not count as kept: {}", path, error.what());
      continue;
    }
    if (++kept <= keep_latest_k) continue;
    // Renamed first, so that a half-removed folder never carries a checkpoint's name.
    const std::string removed = temporary_path(folder, older);
    std::error_code error;
    if (rename_path(path, removed) != 0)
      error.assign(errno, std::generic_category());
    else
      fs::remove_all(removed, error);
    if (error) log_warn("cannot remove the old checkpoint {}: {}", path, error.message());
  }
}

void check_entry(const ShardEntry& entry) {
  const std::int64_t count = element_count(entry.shape);
  std::int64_t previous = 0;
  for (const auto& range : entry.ranges) {
    LONGHAUL_CHECK(range.begin >= previous && range.end >= range.begin && range.end <= count,
                   "checkpoint range [{}, {}) of tensor '{}' with {} elements, after {}", range.begin, range.end,
                   entry.name, count, previous);
    LONGHAUL_CHECK(entry.data || entry.read || range.begin == range.end, "no elements of tensor '{}'", entry.name);
    previous = range.end;
  }
}

}  // namespace

ShardEntry ShardEntry::whole(std::string name, DType dtype, std::vector<std::int64_t> shape, const void* data) {
  const std::int64_t count = element_count(shape);
  return {std::move(name), dtype, std::move(shape), {{0, count}}, data};
}

std::int64_t element_count(std::span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(count, size, &count))
      fail("shape [{}] has a negative size or more elements than 64 bits count", fmt::join(shape, ", "));
  return count;
}

ElementRange flat_split(std::int64_t count, int parts, int part) {
  const std::int64_t each = (count + parts - 1) / parts;
  return {std::min(count, each * part), std::min(count, each * (part + 1))};
}

CheckpointStore::CheckpointStore(std::string folder, int keep_latest_k)
    : folder_(std::move(folder)), keep_latest_k_(keep_latest_k) {}

void CheckpointStore::begin(std::int64_t step) {
  LONGHAUL_CHECK(step >= 0, "checkpoint of step {}", step);
  make_folders(folder_);
  finish_interrupted_replacements(folder_);
  remove_leftovers(folder_);
  const std::string path = temporary_path(folder_, step);
  if (uninterrupted([&] { return ::mkdir(path.c_str(), 0777); }) != 0) fail_system("create folder", path, -1, errno);
}

std::string CheckpointStore::write_shard(std::int64_t step, int rank, std::span<const ShardEntry> entries) {
  ManifestFile file{shard_file_name(rank), 0, {}};
  for (const auto& entry : entries) {
    check_entry(entry);
    ManifestEntry described{entry.name, {entry.dtype, entry.shape}, {}, file.bytes, {}};
    for (const auto& range : entry.ranges)
      if (range.end > range.begin) described.ranges.push_back(range);
    const std::int64_t bytes = described.bytes();
    file.bytes = (file.bytes + bytes + entry_alignment - 1) / entry_alignment * entry_alignment;
    file.entries.push_back(std::move(described));
  }
  AtomicFile out((fs::path(temporary_path(folder_, step)) / file.name).string(), file.bytes);
  std::vector<std::byte> room;
  for (std::size_t i = 0; i < file.entries.size(); ++i) {
    auto& entry = file.entries[i];
    const std::int64_t bytes = entry.bytes();
    for (std::int64_t done = 0; done < bytes; done += checkpoint_chunk_bytes) {
      const std::int64_t piece = std::min(checkpoint_chunk_bytes, bytes - done);
      const char* source = static_cast<const char*>(entries[i].data) + done;
      if (!entries[i].data) {
        room.resize(static_cast<std::size_t>(piece));
        entries[i].read(done, room);
        source = reinterpret_cast<const char*>(room.data());
      }
      entry.hashes.push_back(XXH3_64bits(source, static_cast<std::size_t>(piece)));
      out.write_at(entry.offset + done, source, piece);
    }
  }
  out.commit();
  return write_fragment(file);
}

void CheckpointStore::commit(std::int64_t step, std::span<const std::string> fragments, std::string_view state) {
  const std::string temporary = temporary_path(folder_, step);
  const std::string target = final_path(folder_, step);
  Manifest manifest;
  manifest.step = step;
  manifest.state = std::string(state);
  for (std::size_t rank = 0; rank < fragments.size(); ++rank)
    manifest.files.push_back(read_fragment(fragments[rank], fmt::format("checkpoint fragment of rank {}", rank)));
  for (const auto& file : manifest.files) {
    const fs::path path = fs::path(temporary) / file.name;
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (error) fail_system("find what a rank wrote:", path.string(), -1, error.value());
    if (static_cast<std::int64_t>(bytes) != file.bytes)
      fail("{} has {} bytes but its rank wrote {}: do all ranks see the same file system?", path.string(), bytes,
           file.bytes);
  }
  try {
    manifest.check();
  } catch (const Error& error) {
    fail("cannot write checkpoint {}: {}", target, error.what());
  }
  write_text_atomically((fs::path(temporary) / manifest_name).string(), write_manifest(manifest));
  put_in_place(temporary, target);
  // From here on the new checkpoint stands: nothing of what follows may end a run.
  try {
    flush_folder(folder_);
    remove_leftovers(folder_);
    remove_older(folder_, step, keep_latest_k_);
  } catch (const std::exception& error) {
    log_warn("checkpoint {} is written; what follows it, removing older ones, failed: {}", target, error.what());
  }
}

void finish_interrupted_replacements(const std::string& folder) noexcept {
  try {
    std::error_code error;
    std::vector<std::string> aside;
    for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
      const std::string name = item->path().filename().string();
      if (name.starts_with(temporary_prefix) && name.ends_with(replaced_suffix)) aside.push_back(item->path().string());
    }
    for (const auto& old : aside) {
      const std::string from = old.substr(0, old.size() - replaced_suffix.size());
      const std::string to =
          (fs::path(folder) / fs::path(from).filename().string().substr(temporary_prefix.size())).string();
      if (fs::exists(to, error) || error) continue;
      const bool whole = fs::exists(fs::path(from) / manifest_name, error);
      if (rename_path(whole ? from : old, to) == 0)
        log_warn("{} was being replaced when a run was killed: its {} one stands there again", to,
                 whole ? "new" : "earlier");
    }
  } catch (const std::exception& error) {
    log_warn("cannot look for interrupted replacements in {}: {}", folder, error.what());
  }
}

void CheckpointStore::abandon(std::int64_t step) noexcept {
  std::error_code ignored;
  try {
    fs::remove_all(temporary_path(folder_, step), ignored);
  } catch (...) {
  }
}

}  // namespace longhaul
