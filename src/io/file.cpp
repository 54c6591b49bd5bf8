#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace longhaul {
namespace {

// Linux transfers at most 0x7ffff000 bytes a call; smaller pieces also keep an interrupted write short.
constexpr std::int64_t largest_transfer = std::int64_t{1} << 30;

std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

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
  throw Error(message);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) fail_system("open", path, -1, errno);
  struct stat status {};
  if (::fstat(file.value, &status) != 0) fail_system("inspect", path, -1, errno);
  if (!S_ISREG(status.st_mode)) fail("cannot map {}: it is not a regular file", path);
  size_ = status.st_size;
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, static_cast<std::size_t>(size_), PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) {
    size_ = 0;
    fail_system("map", path, -1, errno);
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept {
  *this = std::move(other);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
}

const std::byte* MappedFile::at(std::int64_t offset, std::int64_t bytes, std::string_view what) const {
  if (offset < 0 || bytes < 0 || offset > size_ || bytes > size_ - offset)
    fail("{}: {} needs {} bytes at byte {}, but the file has {} bytes: it is truncated or not what it is taken for",
         path_, what, bytes, offset, size_);
  return data_ + offset;
}

void write_fully(int descriptor, const std::string& path, std::int64_t offset, const void* data, std::int64_t bytes) {
  const char* next = static_cast<const char*>(data);
  std::int64_t done = 0;
  while (done < bytes) {
    const auto piece = static_cast<std::size_t>(std::min(bytes - done, largest_transfer));
    const ssize_t written =
        offset < 0 ? ::write(descriptor, next + done, piece) : ::pwrite(descriptor, next + done, piece, offset + done);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_system("write", path, std::max<std::int64_t>(offset, 0) + done, errno);
    }
    if (written == 0)
      fail("cannot write {} at byte {}: the system accepted none of {} bytes", path,
           std::max<std::int64_t>(offset, 0) + done, piece);
    done += written;
  }
}

void reserve_space(int descriptor, const std::string& path, std::int64_t bytes) {
  if (bytes <= 0) return;
  // Not posix_fallocate: where the file system cannot reserve, that one writes every block.
  int result = 0;
  do result = ::fallocate(descriptor, 0, 0, bytes);
  while (result != 0 && errno == EINTR);
  if (result == 0) return;
  if (errno != EOPNOTSUPP && errno != ENOSYS) fail_system(fmt::format("reserve {} bytes for", bytes), path, -1, errno);
  if (::ftruncate(descriptor, bytes) != 0) fail_system(fmt::format("extend to {} bytes", bytes), path, -1, errno);
}

AtomicFile::AtomicFile(std::string path, std::int64_t bytes) : path_(std::move(path)), partial_(path_ + ".partial") {
  descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
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
  if (::fsync(descriptor_) != 0) fail_system("flush", partial_, -1, errno);
  // Network file systems report delayed write errors at close.
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0) fail_system("close", partial_, -1, errno);
  if (::rename(partial_.c_str(), path_.c_str()) != 0)
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
  const MappedFile file(path);
  if (file.size() > limit)
    fail("{} has {} bytes; at most {} are read from a file of its kind", path, file.size(), limit);
  return std::string(reinterpret_cast<const char*>(file.data()), static_cast<std::size_t>(file.size()));
}

void flush_folder(const std::string& path) {
  Descriptor folder{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.value < 0) fail_system("open folder", path, -1, errno);
  // Some file systems cannot fsync a folder and say EINVAL; they have no stronger promise to give.
  if (::fsync(folder.value) != 0 && errno != EINVAL) fail_system("flush folder", path, -1, errno);
}

}  // namespace longhaul
