#include "base/log_file.h"

#include <fcntl.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>

#include "base/log_sinks.h"

namespace longhaul {

class LogFile::Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Sink(const std::string& path) : path_(path) {
    set_formatter_(std::make_unique<spdlog::pattern_formatter>("%Y-%m-%d %H:%M:%S %L %v"));
    do descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    while (descriptor_ < 0 && errno == EINTR);
    if (descriptor_ < 0) complain();
  }
  ~Sink() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  std::vector<std::string> warnings() {
    const std::lock_guard lock(mutex_);
    return warnings_;
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (message.level >= spdlog::level::warn && warnings_.size() < 1000)
      warnings_.emplace_back(message.payload.data(), message.payload.size());
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    append({line.data(), line.size()});
  }
  void flush_() override {}

 private:
  // One write a line: several processes append to the file.
  void append(std::string_view text) {
    while (descriptor_ >= 0 && !text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return complain();
      text.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  void complain() {
    if (!complained_)
      std::fprintf(stderr, "longhaul: cannot write %s (error %d); the run goes on\n", path_.c_str(), errno);
    complained_ = true;
  }

  std::string path_;
  int descriptor_ = -1;
  bool complained_ = false;
  std::vector<std::string> warnings_;
};

LogFile::LogFile(const std::string& path, bool warnings_only) : sink_(std::make_shared<Sink>(path)) {
  sink_->set_level(warnings_only ? spdlog::level::warn : spdlog::level::trace);
  log_sinks().add_sink(sink_);
}

LogFile::~LogFile() {
  log_sinks().remove_sink(sink_);
}

void LogFile::write(const std::string& line) {
  spdlog::details::log_msg message("longhaul", spdlog::level::info, line);
  sink_->log(message);
}

std::vector<std::string> LogFile::warnings() const {
  return sink_->warnings();
}

}  // namespace longhaul
