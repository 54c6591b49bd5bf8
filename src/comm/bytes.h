// Byte offsets into untyped buffers.
#pragma once
#include <cstddef>
#include <cstring>

namespace longhaul {

inline const std::byte* offset_by(const void* buffer, std::size_t bytes) {
  return static_cast<const std::byte*>(buffer) + bytes;
}
inline std::byte* offset_by(void* buffer, std::size_t bytes) {
  return static_cast<std::byte*>(buffer) + bytes;
}
/// Nothing when both are the same place or bytes == 0 (pointers may then be null); no other overlap.
inline void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (bytes != 0 && to != from) std::memcpy(to, from, bytes);
}

}  // namespace longhaul
