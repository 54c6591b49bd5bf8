#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "io/mapping_registry.h"
#include "io/uninterrupted.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// Linux transfers at most 0x7ffff000 bytes a call; smaller pieces also keep an interrupted write short.
constexpr std::int64_t largest_transfer = std::int64_t{1} << 30;
// What a disk refuses may be the cable's fault.
constexpr int read_attempts = 3;
constexpr std::int64_t page = 4096;

std::string folder_of(const std::string& path) {
  const auto parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

// Opens a regular file for reading. Not blocking: a pipe would wait for a writer that may never come.
int open_regular(const std::string& path, struct stat& status) {
  const int file = uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); });
  if (file < 0) fail_system("open", path, -1, errno);
  if (uninterrupted([&] { return ::fstat(file, &status); }) != 0) {
    const int code = errno;
    ::close(file);
    fail_system("inspect", path, -1, code);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(file);
    fail("cannot read {}: it is not a regular file", path);
  }
  return file;
}

}  // namespace

void fail_system(std::string_view action, const std::string& path, std::int64_t offset, int code) {
  // std::strerror is not safe when ranks are threads; the category's message is.
  std::string message = fmt::format("cannot {} {}", action, path);
  if (offset >= 0) message += fmt::format(" at byte {}", offset);
  message += ": " + std::generic_category().message(code);
  if (code == ENOSPC || code == EDQUOT)
    message += " (free space on that file system or choose another folder)";
  else if (code == EFBIG)
    message += " (the limit on file sizes, ulimit -f, or the file system's own)";
  else if (code == EMFILE)
    message += " (the limit on open files of a process, ulimit -n)";
  throw SystemError(message, code);
}

ReadFile::ReadFile(const std::string& path) : path_(path) {
  struct stat status {};
  descriptor_ = open_regular(path, status);
  size_ = status.st_size;
}

ReadFile::ReadFile(ReadFile&& other) noexcept {
  *this = std::move(other);
}

ReadFile& ReadFile::operator=(ReadFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

ReadFile::~ReadFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void ReadFile::read_at(std::int64_t offset, void* to, std::int64_t bytes, std::string_view what) const {
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset)
    fail("{}: {} needs {} bytes at byte {}, but the file has {} bytes: it is truncated or not what it is taken for",
         path_, what, bytes, offset, size_);
  char* next = static_cast<char*>(to);
  int attempts = 0;
  while (bytes > 0) {
    const auto piece = static_cast<std::size_t>(std::min(bytes, largest_transfer));
    const ssize_t done = uninterrupted([&] { return ::pread(descriptor_, next, piece, offset); });
    if (done < 0) {
      const int code = errno;
      if (code == EIO && ++attempts < read_attempts) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        continue;
      }
      if (code == EIO && other_places_can_be_read(offset, bytes))
        throw UnreadablePlace(
            fmt::format("cannot read {} at byte {}: {} ({} times; other places of the file can be read: a bad sector?)",
                        path_, offset, std::generic_category().message(code), attempts));
      fail_system("read", path_, offset, code);
    }
    if (done == 0)
      fail(
          "{}: {} needs {} more bytes at byte {}, but the file ends there: it had {} bytes when it was opened and was "
          "shortened since",
          path_, what, bytes, offset, size_);
    next += done;
    offset += done;
    bytes -= done;
  }
}

bool ReadFile::other_places_can_be_read(std::int64_t offset, std::int64_t bytes) const {
  for (const std::int64_t place : {std::int64_t{0}, size_ / 4, size_ / 2, size_ / 4 * 3, size_ - 1}) {
    char byte = 0;
    const bool elsewhere = place / page < offset / page || place / page > (offset + bytes - 1) / page;
    if (elsewhere && uninterrupted([&] { return ::pread(descriptor_, &byte, 1, place); }) == 1) return true;
  }
  return false;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct stat status {};
  const Descriptor file{open_regular(path, status)};
  size_ = status.st_size;
  stamp_ = {status.st_ino, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) {
    size_ = 0;
    fail_system("map", path, -1, errno);
  }
  data_ = static_cast<const std::byte*>(address);
  registered_ = MappingRegistry::add(data_, size_, path_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept {
  *this = std::move(other);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(stamp_, other.stamp_);
  std::swap(registered_, other.registered_);
  return *this;
}

MappedFile::~MappedFile() {
  if (registered_) MappingRegistry::remove(registered_);
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
}

const std::byte* MappedFile::at(std::int64_t offset, std::int64_t bytes, std::string_view what) const {
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset)
    fail("{}: {} needs {} bytes at byte {}, but the file has {} bytes: it is truncated or not what it is taken for",
         path_, what, bytes, offset, size_);
  return data_ + offset;
}

void MappedFile::require_unchanged() const {
  struct stat now {};
  if (uninterrupted([&] { return ::stat(path_.c_str(), &now); }) != 0) {
    if (errno == ENOENT) fail("{} is gone: it was removed or renamed while the run was reading it", path_);
    fail_system("inspect", path_, -1, errno);
  }
  if (now.st_size != size_)
    fail("{} has {} bytes; it had {} when the run opened it: {} while the run was reading it", path_, now.st_size,
         size_, now.st_size < size_ ? "it was shortened" : "something was added");
  if (now.st_ino != stamp_.file) fail("{} is another file now: it was replaced while the run was reading it", path_);
  if (now.st_mtim.tv_sec != stamp_.seconds || now.st_mtim.tv_nsec != stamp_.nanoseconds)
    fail("{} was changed while the run was reading it (its time of change is another)", path_);
}

void write_fully(int descriptor, const std::string& path, std::int64_t offset, const void* data, std::int64_t bytes) {
  const char* next = static_cast<const char*>(data);
  std::int64_t done = 0;
  while (done < bytes) {
    const auto piece = static_cast<std::size_t>(std::min(bytes - done, largest_transfer));
    const ssize_t written = uninterrupted([&] {
      return offset < 0 ? ::write(descriptor, next + done, piece)
                        : ::pwrite(descriptor, next + done, piece, offset + done);
    });
    if (written < 0) fail_system("write", path, std::max<std::int64_t>(offset, 0) + done, errno);
    if (written == 0)
      fail("cannot write {} at byte {}: the system accepted none of {} bytes", path,
           std::max<std::int64_t>(offset, 0) + done, piece);
    done += written;
  }
}

void reserve_space(int descriptor, const std::string& path, std::int64_t bytes) {
  if (bytes <= 0) return;
  // Not posix_fallocate: where the file system cannot reserve, that one writes every block.
  if (uninterrupted([&] { return ::fallocate(descriptor, 0, 0, bytes); }) == 0) return;
  if (errno != EOPNOTSUPP && errno != ENOSYS) fail_system(fmt::format("reserve {} bytes for", bytes), path, -1, errno);
  if (uninterrupted([&] { return ::ftruncate(descriptor, bytes); }) != 0)
    fail_system(fmt::format("extend to {} bytes", bytes), path, -1, errno);
}

AtomicFile::AtomicFile(std::string path, std::int64_t bytes) : path_(std::move(path)), partial_(path_ + ".partial") {
  descriptor_ = uninterrupted([&] { return ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (descriptor_ < 0) fail_system("create", partial_, -1, errno);
  try {
    reserve_space(descriptor_, partial_, bytes);
  } catch (...) {
    ::close(descriptor_);
    ::unlink(partial_.c_str());
    throw;
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

void AtomicFile::write_at(std::int64_t offset, const void* data, std::int64_t bytes) {
  LONGHAUL_CHECK(descriptor_ >= 0 && offset >= 0 && bytes >= 0, "write to {} at {} of {} bytes", path_, offset, bytes);
  write_fully(descriptor_, partial_, offset, data, bytes);
}

void AtomicFile::commit() {
  LONGHAUL_CHECK(descriptor_ >= 0, "{} committed twice", path_);
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) fail_system("flush", partial_, -1, errno);
  // Network file systems report delayed write errors at close. Interrupted, it has closed all the same.
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 && errno != EINTR) fail_system("close", partial_, -1, errno);
  if (uninterrupted([&] { return ::rename(partial_.c_str(), path_.c_str()); }) != 0)
    fail_system(fmt::format("rename {} to", partial_), path_, -1, errno);
  partial_.clear();
  flush_folder(folder_of(path_));
}

void write_text_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write_at(0, text.data(), static_cast<std::int64_t>(text.size()));
  file.commit();
}

std::string read_text(const std::string& path, std::int64_t limit) {
  const ReadFile file(path);
  if (file.size() > limit)
    fail("{} has {} bytes; at most {} are read from a file of its kind", path, file.size(), limit);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, text.data(), file.size(), "the text");
  return text;
}

void flush_folder(const std::string& path) {
  const Descriptor folder{uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); })};
  if (folder.value < 0) fail_system("open folder", path, -1, errno);
  // Some file systems cannot fsync a folder and say EINVAL; they have no stronger promise to give.
  if (uninterrupted([&] { return ::fsync(folder.value); }) != 0 && errno != EINVAL)
    fail_system("flush folder", path, -1, errno);
}

bool make_folders(const std::string& path) {
  const std::string parent = folder_of(path);
  const auto make = [&] { return uninterrupted([&] { return ::mkdir(path.c_str(), 0777); }) == 0 ? 0 : errno; };
  int code = make();
  if (code == ENOENT && parent != path) {
    make_folders(parent);
    code = make();
  }
  if (code == EEXIST) {
    struct stat status {};
    if (uninterrupted([&] { return ::stat(path.c_str(), &status); }) == 0 && S_ISDIR(status.st_mode)) return false;
    fail_system("create folder", path, -1, ENOTDIR);
  }
  if (code != 0) fail_system("create folder", path, -1, code);
  flush_folder(parent);
  return true;
}

LineFile::LineFile(const std::string& path) : path_(path) {
  descriptor_ = uninterrupted([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666); });
  if (descriptor_ < 0) fail_system("open", path, -1, errno);
  struct stat status {};
  if (uninterrupted([&] { return ::fstat(descriptor_, &status); }) != 0) {
    const int code = errno;
    ::close(descriptor_);
    fail_system("inspect", path, -1, code);
  }
  size_ = status.st_size;
}

LineFile::~LineFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void LineFile::write_waiting() {
  try {
    write_fully(descriptor_, path_, -1, waiting_.data(), static_cast<std::int64_t>(waiting_.size()));
  } catch (const SystemError&) {
    // A part may have come through: the next line must not follow it. What cannot be cut off now is cut the next time.
    (void)uninterrupted([&] { return ::ftruncate(descriptor_, size_); });
    throw;
  }
  size_ += static_cast<std::int64_t>(waiting_.size());
  waiting_.clear();
}

std::string LineFile::append(std::string_view line) {
  waiting_.append(line).push_back('\n');
  try {
    write_waiting();
  } catch (const SystemError& error) {
    return error.what();
  }
  return "";
}

void LineFile::finish() {
  write_waiting();
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) fail_system("flush", path_, -1, errno);
}

void remove_leftovers(const std::string& folder) noexcept {
  try {
    std::error_code error;
    std::vector<fs::path> leftovers;
    for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
      const std::string name = item->path().filename().string();
      if (name.starts_with(".tmp-") || name.ends_with(".partial")) leftovers.push_back(item->path());
    }
    for (const auto& path : leftovers) {
      fs::remove_all(path, error);
      if (error)
        log_warn("cannot remove {}, which an unfinished run left: {}", path.string(), error.message());
      else
        log_debug("removed {}, which an unfinished run left", path.string());
    }
  } catch (const std::exception& error) {
    log_warn("cannot look for leftovers in {}: {}", folder, error.what());
  }
}

}  // namespace longhaul
