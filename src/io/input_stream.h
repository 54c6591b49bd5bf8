// Files read from the front, decompressed on the way: gzip and zstd, recognised by their first bytes.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace longhaul {

class InputStream {
 public:
  virtual ~InputStream() = default;
  /// Reads up to `size` bytes; 0 only at the end. Throws Error for what cannot be read, is truncated or corrupt.
  virtual std::size_t read(char* data, std::size_t size) = 0;
  /// Bytes of the file itself that have been read.
  virtual std::int64_t position() const = 0;
};

/// Throws Error when the file cannot be opened, or is compressed in a way that this program was built without.
std::unique_ptr<InputStream> open_input(const std::string& path);

/// The name without .gz or .zst.
std::string without_compression(const std::string& path);

}  // namespace longhaul
