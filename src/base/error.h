// Errors carry their context: what was asked, what is allowed, what to do. Deep code throws; only main() exits.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace longhaul {

/// What a user can act on: a bad file, key, argument, environment, or an impossible request.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

/// Another rank failed first; this rank stops because of it. Its own message is that rank's.
class PeerFailure : public Error {
 public:
  using Error::Error;
};

/// Throws Error with a fmt-formatted message.
template <typename... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Error(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// Throws std::logic_error: a defect of ours, never the user's. Stays on in release builds.
#define LONGHAUL_CHECK(condition, ...)                                                               \
  do {                                                                                               \
    if (!(condition))                                                                                \
      throw std::logic_error(                                                                        \
          fmt::format("internal error at {}:{}: {}", __FILE__, __LINE__, fmt::format(__VA_ARGS__))); \
  } while (false)

}  // namespace longhaul
