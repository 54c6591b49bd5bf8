// What all fuzz targets share. A target feeds bytes to one parser and holds it to: an Error or a result that is
// consistent; any other exception, a signal, a sanitizer's complaint, too much time or memory is a finding.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"

namespace longhaul::fuzz {

/// Ends the process when a property does not hold.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

/// Runs a parser on an input that may be anything. True when it was taken.
template <typename Function>
bool taken(Function&& function) {
  try {
    function();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A folder in memory, of this process; removed at its end.
inline const std::string& folder() {
  struct Folder {
    std::string path = "/dev/shm/longhaul-fuzz-XXXXXX";
    Folder() { require(::mkdtemp(path.data()) != nullptr, "a folder in /dev/shm"); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder one;
  return one.path;
}

inline std::string write(const std::string& name, std::string_view bytes) {
  const std::string path = folder() + "/" + name;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  return path;
}

/// The input as parts: each ends at a line "====" of its own; what is missing is empty.
class Parts {
 public:
  explicit Parts(std::string_view input) : rest_(input) {}
  std::string_view next() {
    constexpr std::string_view mark = "\n====\n";
    const std::size_t end = rest_.find(mark);
    const std::string_view part = rest_.substr(0, end);
    rest_ = end == std::string_view::npos ? std::string_view() : rest_.substr(end + mark.size());
    return part;
  }

 private:
  std::string_view rest_;
};

inline std::string_view text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace longhaul::fuzz
