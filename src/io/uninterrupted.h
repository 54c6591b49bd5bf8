// System calls that signals interrupt. For files alone.
#pragma once
#include <cerrno>

namespace longhaul {

/// A system call, made again while signals interrupt it; errno is that of the last. Not for close, after which Linux
/// has closed in any case.
template <typename Call>
auto uninterrupted(Call&& call) {
  while (true) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

}  // namespace longhaul
