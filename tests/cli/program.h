// The built program as a child process that a test can kill, limit and time; and what it left in its run folder.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/environment.h"

namespace longhaul::testing {

namespace fs = std::filesystem;

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
inline void write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}
inline std::size_t lines_of(const fs::path& file) {
  return count_of(read_file(file), "\n");
}

/// A folder with a model, a text and an experiment whose steps take milliseconds; removed at the end.
class Workplace {
 public:
  Workplace() {
    std::string pattern = (fs::temp_directory_path() / "longhaul-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    folder_ = pattern;
    write_file(*this / "model.json", llama().dump());
    std::string text;
    for (std::uint32_t i = 0, state = 1; i < 3000; ++i) {
      state = state * 1664525u + 1013904223u;
      text += static_cast<char>('a' + (state >> 24) % 13);
    }
    write_file(*this / "text.txt", text);
    write_file(*this / "experiment.yaml",
               "model: {config: model.json}\n"
               "data: {files: [text.txt]}\n"
               "training: {seq_len: 16, micro_batch_size: 2, global_batch_size: 4, steps: 12, threads: 1}\n"
               "optimizer: {lr: 1e-2}\n"
               "checkpoint: {interval: 3, keep_latest_k: 2}\n");
  }
  Workplace(const Workplace&) = delete;
  ~Workplace() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }

  /// A Hugging Face configuration of a byte-level Llama.
  static nlohmann::ordered_json llama() {
    return {{"model_type", "llama"},
            {"hidden_size", 16},
            {"intermediate_size", 24},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 4},
            {"num_key_value_heads", 2},
            {"vocab_size", 257},
            {"max_position_embeddings", 64},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"tie_word_embeddings", false},
            {"hidden_act", "silu"}};
  }
  /// The same with some keys changed, as a file.
  fs::path model(const std::string& name, const nlohmann::ordered_json& changes) const {
    auto json = llama();
    for (const auto& [key, value] : changes.items()) json[key] = value;
    write_file(*this / name, json.dump());
    return *this / name;
  }

 private:
  fs::path folder_;
};

struct Ended {
  int code = -1;       ///< exit status; 128 + signal when a signal ended it
  std::string output;  ///< both streams
};

/// A started program; killed when the test leaves it.
class Program {
 public:
  /// `environment`: NAME=value added to the test's own. `file_limit`: bytes that a written file may have; 0: none.
  Program(const fs::path& log, const std::vector<std::string>& command,
          const std::vector<std::string>& environment = {}, std::size_t file_limit = 0)
      : log_(log) {
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (out < 0 || in < 0) throw std::runtime_error("cannot open " + log.string());
    std::vector<char*> arguments;
    for (const auto& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
    arguments.push_back(nullptr);
    process_ = ::fork();
    if (process_ == 0) {
      ::setpgid(0, 0);
      ::dup2(in, 0);
      ::dup2(out, 1);
      ::dup2(out, 2);
      for (const auto& one : environment) ::putenv(const_cast<char*>(one.c_str()));
      if (file_limit) {
        const rlimit limit{file_limit, file_limit};
        ::setrlimit(RLIMIT_FSIZE, &limit);
      }
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(out);
    ::close(in);
    if (process_ < 0) throw std::runtime_error("fork failed");
  }
  Program(const Program&) = delete;
  ~Program() { kill(); }

  pid_t id() const { return process_; }
  bool running() {
    if (code_ < 0) {
      int status = 0;
      if (::waitpid(process_, &status, WNOHANG) == process_) ended(status);
    }
    return code_ < 0;
  }
  void kill() {
    if (!running()) return;
    ::kill(-process_, SIGKILL);  // its group: under mpirun the ranks as well
    ::kill(process_, SIGKILL);   // should the group not be there yet
    int status = 0;
    ::waitpid(process_, &status, 0);
    ended(status);
  }
  /// Waits for its end; past the time it is killed, and the test fails.
  Ended wait(double seconds = 60) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (running() && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const bool hung = running();
    kill();
    Ended result{code_, read_file(log_)};
    if (hung) FAIL("no end within " << seconds << " s:\n" << result.output);
    return result;
  }

 private:
  void ended(int status) { code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
  fs::path log_;
  pid_t process_ = -1;
  int code_ = -1;
};

/// The command line of `longhaul` with arguments.
inline std::vector<std::string> longhaul_command(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {environment("LONGHAUL_BINARY")};
  if (command[0].empty()) throw std::runtime_error("run by ctest, or set LONGHAUL_BINARY to the longhaul program");
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

/// `longhaul train` of the workplace's experiment with further arguments.
inline std::vector<std::string> train_command(const Workplace& place, const std::vector<std::string>& arguments) {
  auto command = longhaul_command({"train", (place / "experiment.yaml").string()});
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}
inline Ended run_train(const Workplace& place, const std::vector<std::string>& arguments,
                       const std::vector<std::string>& environment = {}, std::size_t file_limit = 0) {
  return Program(place / "log", train_command(place, arguments), environment, file_limit).wait();
}

/// Checks the exit code and that the output holds every text.
inline void check_end(const Ended& ended, int code, const std::vector<std::string>& says) {
  INFO(ended.output);
  CHECK(ended.code == code);
  for (const auto& text : says) CHECK_THAT(ended.output, Catch::Contains(text));
}

/// step -> loss of a metrics file; every line must parse, and steps must ascend by one.
inline std::map<std::int64_t, double> losses_of(const fs::path& run) {
  std::map<std::int64_t, double> losses;
  std::ifstream file(run / "metrics.jsonl");
  std::int64_t previous = 0;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    const std::int64_t step = json.at("step");
    CHECK(step == previous + 1);
    previous = step;
    losses[step] = json.at("loss");
  }
  return losses;
}

/// Names of the folders in <run>/checkpoints, sorted.
inline std::vector<std::string> checkpoints_of(const fs::path& run) {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& item : fs::directory_iterator(run / "checkpoints", none))
    names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace longhaul::testing
