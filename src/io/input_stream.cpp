#include "io/input_stream.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "io/file.h"

#ifdef LONGHAUL_WITH_ZLIB
#include <zlib.h>
#endif
#ifdef LONGHAUL_WITH_ZSTD
#include <zstd.h>
#endif

namespace longhaul {
namespace {

class PlainInput : public InputStream {
 public:
  explicit PlainInput(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) fail_system("open", path, -1, errno);
  }
  PlainInput(const PlainInput&) = delete;
  ~PlainInput() override { std::fclose(file_); }
  std::size_t read(char* data, std::size_t size) override {
    const std::size_t count = std::fread(data, 1, size, file_);
    if (count < size && std::ferror(file_)) fail_system("read", path_, position_, errno);
    position_ += static_cast<std::int64_t>(count);
    return count;
  }
  std::int64_t position() const override { return position_; }
  void rewind() {
    std::rewind(file_);
    position_ = 0;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::FILE* file_;
  std::int64_t position_ = 0;
};

#ifdef LONGHAUL_WITH_ZLIB
class GzipInput : public InputStream {
 public:
  explicit GzipInput(std::unique_ptr<PlainInput> file) : file_(std::move(file)), buffer_(1 << 18) {
    LONGHAUL_CHECK(inflateInit2(&stream_, 15 + 16) == Z_OK, "zlib does not start");
  }
  ~GzipInput() override { inflateEnd(&stream_); }
  std::size_t read(char* data, std::size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(size, 1u << 30));
    const uInt asked = stream_.avail_out;
    while (stream_.avail_out == asked) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
        stream_.avail_in = static_cast<uInt>(file_->read(buffer_.data(), buffer_.size()));
        if (stream_.avail_in == 0) {
          if (inside_) fail("{}: its gzip data end before they are whole: the file is truncated", file_->path());
          return 0;
        }
      }
      if (!inside_) inflateReset(&stream_);  // members follow each other
      inside_ = true;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_STREAM_END)
        inside_ = false;
      else if (result != Z_OK && result != Z_BUF_ERROR)
        fail("{}: its gzip data are corrupt before byte {}: {}", file_->path(), file_->position(),
             stream_.msg ? stream_.msg : "no reason given");
    }
    return asked - stream_.avail_out;
  }
  std::int64_t position() const override { return file_->position(); }

 private:
  std::unique_ptr<PlainInput> file_;
  std::vector<char> buffer_;
  z_stream stream_{};
  bool inside_ = false;
};
#endif

#ifdef LONGHAUL_WITH_ZSTD
class ZstdInput : public InputStream {
 public:
  explicit ZstdInput(std::unique_ptr<PlainInput> file)
      : file_(std::move(file)), buffer_(1 << 18), stream_(ZSTD_createDStream()) {
    LONGHAUL_CHECK(stream_, "zstd does not start");
  }
  ~ZstdInput() override { ZSTD_freeDStream(stream_); }
  std::size_t read(char* data, std::size_t size) override {
    ZSTD_outBuffer out{data, size, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        in_ = {buffer_.data(), file_->read(buffer_.data(), buffer_.size()), 0};
        if (in_.size == 0) {
          if (inside_) fail("{}: its zstd data end before they are whole: the file is truncated", file_->path());
          return 0;
        }
      }
      const std::size_t result = ZSTD_decompressStream(stream_, &out, &in_);
      if (ZSTD_isError(result))
        fail("{}: its zstd data are corrupt before byte {}: {}", file_->path(), file_->position(),
             ZSTD_getErrorName(result));
      inside_ = result != 0;
    }
    return out.pos;
  }
  std::int64_t position() const override { return file_->position(); }

 private:
  std::unique_ptr<PlainInput> file_;
  std::vector<char> buffer_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool inside_ = false;
};
#endif

}  // namespace

std::unique_ptr<InputStream> open_input(const std::string& path) {
  auto file = std::make_unique<PlainInput>(path);
  char head[4] = {};
  const std::size_t count = file->read(head, sizeof head);
  file->rewind();
  if (count >= 2 && std::memcmp(head, "\x1f\x8b", 2) == 0) {
#ifdef LONGHAUL_WITH_ZLIB
    return std::make_unique<GzipInput>(std::move(file));
#else
    fail(
        "{} is gzip data, and this program was built without zlib: install zlib1g-dev and build again, or decompress "
        "it",
        path);
#endif
  }
  if (count == 4 && std::memcmp(head, "\x28\xb5\x2f\xfd", 4) == 0) {
#ifdef LONGHAUL_WITH_ZSTD
    return std::make_unique<ZstdInput>(std::move(file));
#else
    fail(
        "{} is zstd data, and this program was built without zstd: install libzstd-dev and build again, or decompress "
        "it",
        path);
#endif
  }
  return file;
}

std::string without_compression(const std::string& path) {
  for (const std::string ending : {".gz", ".zst"})
    if (path.ends_with(ending)) return path.substr(0, path.size() - ending.size());
  return path;
}

}  // namespace longhaul
