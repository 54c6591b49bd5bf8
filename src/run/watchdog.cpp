#include "run/watchdog.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// A rank's place as its file says it.
struct Written {
  int rank = 0;
  std::int64_t step = 0, instruction = -1;
  std::string program, op, phase;
  std::vector<int> ranks;
  double seconds = 0;

  bool same_place(const Written& other) const {
    return step == other.step && instruction == other.instruction && program == other.program && phase == other.phase;
  }
  std::string text() const {
    if (instruction < 0) return phase.empty() ? fmt::format("between programs, after step {}", step) : phase;
    std::string said = fmt::format("step {}, program {}, instruction {}, {}", step + 1, program, instruction, op);
    if (!phase.empty()) said += " (" + phase + ")";
    return said;
  }
};

std::optional<Written> read_place(const std::string& file, int rank) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(read_text(file, 1 << 20), nullptr, false);
  } catch (const Error&) {  // not there yet, or cannot be read: as good as nothing said
    return std::nullopt;
  }
  if (!json.is_object()) return std::nullopt;
  try {
    Written written{rank,          json.at("step"),  json.at("instruction"), json.at("program"),
                    json.at("op"), json.at("phase"), json.at("ranks"),       json.at("seconds")};
    return written;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

constexpr std::size_t kept_steps = 32;

}  // namespace

Watchdog::Watchdog(Communicator& world, const std::string& folder, const Times& times, std::function<void()> end)
    : rank_(world.rank()),
      folder_((fs::path(folder) / "watch").string()),
      times_(times),
      end_(end ? std::move(end) : [&world] { end_job(world, exit_hung); }),
      hosts_(gather_texts(world, host_name())),
      processes_(all_gather(world, std::int64_t{getpid()})) {
  std::error_code none;
  if (rank_ == 0) fs::remove_all(folder_, none);  // places of an earlier run
  world.barrier();
  recent_.reserve(kept_steps);
  thread_ = std::thread([this] { look_on(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::phase(const char* what) {
  phase_.store(what, std::memory_order_relaxed);
  phases_.store(phases_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void Watchdog::finished_step(std::int64_t step, double seconds) {
  step_.store(step, std::memory_order_relaxed);
  const double median = median_.load(std::memory_order_relaxed);
  if (recent_.size() >= 3 && seconds > std::max(times_.step, 2 * times_.medians * median))
    log_warn("step {} took {:.1f} s, {:.0f} times the median of {:.3g} s", step, seconds, seconds / median, median);
  if (recent_.size() < kept_steps)
    recent_.push_back(seconds);
  else
    recent_[next_recent_++ % kept_steps] = seconds;
  median_.store(median_of(recent_), std::memory_order_relaxed);
}

Watchdog::Place Watchdog::place() const {
  Place place;
  place.moves = phases_.load(std::memory_order_acquire);
  place.phase = phase_.load(std::memory_order_relaxed);
  place.step = step_.load(std::memory_order_relaxed);
  if (const Activity* activity = activity_.load(std::memory_order_acquire)) {
    place.moves += activity->moves.load(std::memory_order_acquire);
    place.program = activity->place.load(std::memory_order_relaxed);
  }
  return place;
}

double Watchdog::patience(const Place& place) const {
  const double median = median_.load(std::memory_order_relaxed);
  if (place.phase || median <= 0) return std::max(times_.elsewhere, times_.medians * median);
  return std::max(times_.step, times_.medians * median);
}

void Watchdog::look_on() {
  set_log_rank(rank_, static_cast<int>(hosts_.size()));
  using Clock = std::chrono::steady_clock;
  Place last = place();
  auto before = Clock::now();
  double still = 0, next_report = 0;  // seconds without a move; at which the next report comes
  bool written = false, said = false;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, std::chrono::duration<double>(times_.look), [&] { return ends_; })) {
    const auto now = Clock::now();
    // A process that was stopped for an hour has not waited for one.
    const double passed = std::min(std::chrono::duration<double>(now - before).count(), 3 * times_.look);
    before = now;
    const Place current = place();
    if (!(current == last)) {
      std::error_code none;
      if (written) fs::remove(file_of(rank_), none);
      if (said) spdlog::warn("rank {}: it goes on, after {:.0f} s", rank_, still);
      last = current;
      still = 0;
      written = said = false;
      continue;
    }
    still += passed;
    if (still < patience(current)) continue;
    if (hosts_.size() == 1 && current.phase && !current.program) continue;  // nobody waits for it: it is busy
    if (!written) {
      write_place(current, still);
      written = true;
      next_report = still + std::max(1.0, times_.look);  // until then the others have written theirs
    } else if (still >= next_report) {
      const std::string text = report(still);
      if (!text.empty()) spdlog::warn("{}", text);
      said |= !text.empty();
      next_report = 4 * still;
    }
    if (times_.timeout > 0 && still >= std::max(times_.timeout, patience(current) + 2 * times_.look)) {
      const std::string text = report(still);
      if (!text.empty())
        spdlog::error(
            "{}; distributed.timeout of {} s is over: the job is ended with exit code {}. The same command goes "
            "on from the last checkpoint",
            text, times_.timeout, exit_hung);
      else  // the lowest rank speaks and ends it; should it be unable to, the others do
        std::this_thread::sleep_for(std::chrono::seconds(5));
      end_();
      return;
    }
  }
  std::error_code none;
  if (written) fs::remove(file_of(rank_), none);
}

std::string Watchdog::file_of(int rank) const {
  return fmt::format("{}/rank-{:05}.json", folder_, rank);
}

void Watchdog::write_place(const Place& place, double seconds) const {
  nlohmann::ordered_json json = {{"rank", rank_},
                                 {"host", hosts_[static_cast<std::size_t>(rank_)]},
                                 {"process", processes_[static_cast<std::size_t>(rank_)]},
                                 {"step", place.step},
                                 {"phase", place.phase ? place.phase : ""},
                                 {"program", ""},
                                 {"instruction", -1},
                                 {"op", ""},
                                 {"ranks", nlohmann::json::array()},
                                 {"seconds", seconds}};
  if (place.program) {
    json["program"] = place.program->program;
    json["instruction"] = place.program->instruction;
    json["op"] = place.program->op;
    json["ranks"] = place.program->ranks;
  }
  std::error_code none;
  fs::create_directories(folder_, none);
  // Whole or not there, without an error of ours: a hang is no time to fail.
  const std::string file = file_of(rank_), partial = file + ".partial";
  std::ofstream(partial) << json.dump() << "\n";
  fs::rename(partial, file, none);
}

// On this host the system knows what became of it.
std::string Watchdog::state_of(int rank) const {
  const auto place = static_cast<std::size_t>(rank);
  const std::string who = fmt::format("rank {} (host {}, process {})", rank, hosts_[place], processes_[place]);
  if (hosts_[place] != hosts_[static_cast<std::size_t>(rank_)]) return who + ": gives no sign";
  std::ifstream status(fmt::format("/proc/{}/status", processes_[place]));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("State:")) {
      const std::size_t word = line.find_first_not_of(" \t", 6);
      return fmt::format("{}: gives no sign; its process's state is {}", who,
                         word == std::string::npos ? "unknown" : line.substr(word));
    }
  return who + ": its process is gone";
}

std::string Watchdog::report(double seconds) const {
  std::map<int, Written> places;
  for (int rank = 0; rank < static_cast<int>(hosts_.size()); ++rank)
    if (const auto place = read_place(file_of(rank), rank)) places[rank] = *place;
  if (places.empty() || places.begin()->first != rank_) return "";
  const Written& here = places.begin()->second;
  std::vector<int> waiting;
  for (const auto& [rank, place] : places)
    if (place.same_place(here)) waiting.push_back(rank);
  std::string text = fmt::format("no move for {:.0f} s: {} {} in {}", seconds, waiting.size() == 1 ? "rank" : "ranks",
                                 fmt::join(waiting, ", "), here.text());
  // Of a collective those of its group, elsewhere all.
  std::vector<int> expected = here.ranks;
  if (here.instruction < 0) {
    expected.resize(hosts_.size());
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<int>(i);
  } else if (expected.size() > 1) {
    text += fmt::format(" over ranks {}", fmt::join(expected, ", "));
  }
  std::string missing;
  for (const int rank : expected) {
    if (std::find(waiting.begin(), waiting.end(), rank) != waiting.end()) continue;
    const auto found = places.find(rank);
    missing += missing.empty() ? "; missing: " : "; ";
    missing += found == places.end() ? state_of(rank)
                                     : fmt::format("rank {} (host {}, process {}), which is in {}", rank,
                                                   hosts_[static_cast<std::size_t>(rank)],
                                                   processes_[static_cast<std::size_t>(rank)], found->second.text());
  }
  text += missing;
  for (const auto& [rank, place] : places)
    if (!place.same_place(here) && std::find(expected.begin(), expected.end(), rank) == expected.end())
      text += fmt::format("; rank {} is in {}", rank, place.text());
  return text;
}

}  // namespace longhaul
