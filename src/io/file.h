// Files by RAII: reading by offset, read-only mappings and durable writes. Calls that a signal interrupts are made
// again. Every error names the path, the offset where there is one, and the system's reason. Offsets and sizes are
// 64-bit bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/system_error.h"

namespace longhaul {

struct MappingEntry;

/// One place of a file cannot be read, its other places can: a bad sector. The file is damaged; the system is not.
class UnreadablePlace : public Error {
 public:
  using Error::Error;
};

/// A regular file read by offset; nothing of it is mapped. Movable; may be read from several threads.
class ReadFile {
 public:
  /// Throws SystemError when the path cannot be opened, Error when it is not a regular file (a pipe is not waited for).
  explicit ReadFile(const std::string& path);
  ReadFile(ReadFile&& other) noexcept;
  ReadFile& operator=(ReadFile&& other) noexcept;
  ~ReadFile();

  const std::string& path() const { return path_; }
  /// When it was opened.
  std::int64_t size() const { return size_; }
  /// Copies bytes [offset, offset + bytes). What a signal interrupts goes on; what the disk refuses is tried three
  /// times. Throws Error when the file ends before (`what` needs them), UnreadablePlace when only this place cannot be
  /// read, SystemError otherwise.
  void read_at(std::int64_t offset, void* to, std::int64_t bytes, std::string_view what) const;

 private:
  bool other_places_can_be_read(std::int64_t offset, std::int64_t bytes) const;
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

/// A whole file mapped read-only. An empty file maps to size() == 0 and data() == nullptr. Movable. The mapping stays
/// valid when the file is renamed or unlinked. What cannot be read when it is touched (another program shortened the
/// file, a disk failed) raises SIGBUS: see report_unreadable_mappings.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws SystemError when the path cannot be opened or mapped, Error when it is not a regular file.
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
  /// Throws Error when the path no longer leads to the file that was mapped, with the size and the time of change that
  /// it had then. One system call.
  void require_unchanged() const;

 private:
  struct Stamp {
    std::uint64_t file = 0;                     // inode
    std::int64_t seconds = 0, nanoseconds = 0;  // of the last change of its contents
  };
  std::string path_;
  const std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
  Stamp stamp_;
  MappingEntry* registered_ = nullptr;
};

/// From now on a SIGBUS on the pages of a MappedFile ends the process with exit code 1 and a line on standard error
/// that names the file and the byte, instead of a signal that says nothing. For main().
void report_unreadable_mappings();

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

/// The whole file as text, by ReadFile. Throws Error, also when it is larger than `limit` bytes.
std::string read_text(const std::string& path, std::int64_t limit);

/// Flushes a folder's entries (created, renamed and removed names) to the disk. Throws Error.
void flush_folder(const std::string& path);

/// Makes a folder and what is missing above it, and flushes the entry of each new one. True when `path` was not there.
/// Throws SystemError.
bool make_folders(const std::string& path);

/// Lines appended to a file, one a call. A line that the disk refuses (it is full) is kept and comes before the next
/// one; the file never holds a part of a line.
class LineFile {
 public:
  /// Opens or creates the file. Throws SystemError.
  explicit LineFile(const std::string& path);
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  ~LineFile();
  /// `line` without its end. Returns the system's reason when lines wait now; empty when all are written.
  std::string append(std::string_view line);
  /// Writes what waits and flushes the file to the disk. Throws SystemError.
  void finish();

 private:
  void write_waiting();
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;  // of whole lines
  std::string waiting_;
};

/// Removes what runs that died left in a folder: files and folders whose name begins with ".tmp-" or ends with
/// ".partial". Never throws: what cannot be removed only costs space, and is logged.
void remove_leftovers(const std::string& folder) noexcept;

/// Throws SystemError: "cannot `action` `path`[ at byte `offset`]: reason of errno `code`[ (advice)]". offset < 0:
/// none.
[[noreturn]] void fail_system(std::string_view action, const std::string& path, std::int64_t offset, int code);

}  // namespace longhaul
