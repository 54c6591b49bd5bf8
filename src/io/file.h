// Files by RAII: read-only mappings and durable writes. Every error names the path, the offset where there is one, and
// the system's reason. Offsets and sizes are 64-bit bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace longhaul {

/// A whole file mapped read-only. An empty file maps to size() == 0 and data() == nullptr. Movable. The mapping stays
/// valid when the file is renamed or unlinked; a file that another program truncates meanwhile raises SIGBUS.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error when the path cannot be opened, is not a regular file, or cannot be mapped.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::int64_t size() const { return size_; }
  const std::byte* data() const { return data_; }
  /// data() + offset after checking that [offset, offset + bytes) lies inside the file; throws Error saying what is
  /// missing ("`what` needs bytes ...").
  const std::byte* at(std::int64_t offset, std::int64_t bytes, std::string_view what) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// A file that appears under its name only when it is whole: bytes go to `path` + ".partial"; commit() flushes them to
/// the disk (fsync), renames the file and flushes its folder. Destroyed without commit(), it removes the partial file
/// and leaves whatever was at `path` as it was.
class AtomicFile {
 public:
  /// Creates the partial file (replacing a leftover one). `bytes` > 0 reserves that much space at once and makes the
  /// file that long, so that a full disk is noticed before any work is done. Throws Error.
  explicit AtomicFile(std::string path, std::int64_t bytes = 0);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Writes all `bytes` at byte `offset`; throws Error on any failure, a full disk included.
  void write_at(std::int64_t offset, const void* data, std::int64_t bytes);
  /// Makes the file durable and visible under its final name. Throws Error; then nothing changed at the final name.
  void commit();

 private:
  std::string path_;
  std::string partial_;
  int descriptor_ = -1;
};

/// Writes all `bytes` at `offset` of an open descriptor, or, with offset < 0, at its current position. A short write is
/// continued; one that makes no progress is an error. `path` is for the message. Throws Error.
void write_fully(int descriptor, const std::string& path, std::int64_t offset, const void* data, std::int64_t bytes);

/// Reserves `bytes` for an open file and makes it that long (a sparse file where the file system cannot reserve).
/// Throws Error, on a full disk in particular.
void reserve_space(int descriptor, const std::string& path, std::int64_t bytes);

/// Replaces `path` by `text`, durably and atomically. Throws Error.
void write_text_atomically(const std::string& path, std::string_view text);

/// The whole file as text. Throws Error, also when it is larger than `limit` bytes.
std::string read_text(const std::string& path, std::int64_t limit);

/// Flushes a folder's entries (created, renamed and removed names) to the disk. Throws Error.
void flush_folder(const std::string& path);

/// Throws Error: "cannot `action` `path`[ at byte `offset`]: reason of errno `code`[ (advice)]". offset < 0: none.
[[noreturn]] void fail_system(std::string_view action, const std::string& path, std::int64_t offset, int code);

}  // namespace longhaul
