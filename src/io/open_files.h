// A few of many files held open for reading. Private to src/io.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/file.h"

namespace longhaul {

/// A rank may read the files of thousands of others, or hundreds of shards: the eight used last stay open. May be used
/// from several threads.
class OpenFiles {
 public:
  /// The file, which must have `bytes` bytes; `source` says who says so ("its manifest says"). Throws as ReadFile does,
  /// and Error for another size.
  std::shared_ptr<const ReadFile> open(const std::string& path, std::int64_t bytes, const char* source) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(files_.begin(), files_.end(), [&](const auto& one) { return one->path() == path; });
    if (found != files_.end()) {
      std::rotate(found, found + 1, files_.end());
      return files_.back();
    }
    auto file = std::make_shared<const ReadFile>(path);
    if (file->size() != bytes) fail("{} has {} bytes, {} {}", path, file->size(), source, bytes);
    if (files_.size() == most) files_.erase(files_.begin());
    files_.push_back(file);
    return file;
  }

 private:
  static constexpr std::size_t most = 8;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const ReadFile>> files_;  // the last used last
};

}  // namespace longhaul
