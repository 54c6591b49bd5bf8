// A file beside standard error that gets what is logged.
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace longhaul {

/// While it lives, what this process logs is appended to a file, with dates; of it, or with `warnings_only` nothing
/// less. A file that cannot be written is said once on standard error and ends nothing. Any thread may log meanwhile.
class LogFile {
 public:
  explicit LogFile(const std::string& path, bool warnings_only = false);
  ~LogFile();
  LogFile(const LogFile&) = delete;

  /// A line for the file alone.
  void write(const std::string& line);
  /// The warnings and errors since it was opened, the first thousand.
  std::vector<std::string> warnings() const;

 private:
  class Sink;
  std::shared_ptr<Sink> sink_;
};

}  // namespace longhaul
