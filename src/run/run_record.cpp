#include "run/run_record.h"

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>

#include "base/build_info.h"
#include "base/environment_facts.h"
#include "base/host.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "io/file.h"
#include "run/target.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

std::string now_text() {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

ordered_json read_record(const std::filesystem::path& file) {
  const ordered_json empty = {{"version", 1}, {"starts", ordered_json::array()}};
  std::error_code none;
  if (!std::filesystem::exists(file, none)) return empty;
  try {
    ordered_json json = ordered_json::parse(read_text(file.string(), std::int64_t{64} << 20));
    if (json.at("starts").is_array()) return json;
  } catch (const std::exception&) {
  }
  log_warn("{} is not what a run writes there: it begins anew", file.string());
  return empty;
}

// Host -> its ranks, processes and CPU, in the order of ranks.
ordered_json hosts_of(Communicator& world) {
  const ordered_json mine = {{"host", host_name()},
                             {"process", getpid()},
                             {"cpu", cpu_model()},
                             {"cores", machine_cores()},
                             {"usable_cores", usable_cores()},
                             {"memory_bytes", host_memory()}};
  ordered_json hosts = ordered_json::array();
  std::map<std::string, std::size_t> places;
  int rank = 0;
  for (const std::string& text : gather_texts(world, mine.dump())) {
    const ordered_json one = ordered_json::parse(text);
    const auto [place, is_new] = places.emplace(one["host"].get<std::string>(), hosts.size());
    if (is_new) {
      hosts.push_back(one);
      hosts.back().erase("process");
      hosts.back()["ranks"] = ordered_json::array();
      hosts.back()["processes"] = ordered_json::array();
    }
    hosts[place->second]["ranks"].push_back(rank++);
    hosts[place->second]["processes"].push_back(one["process"]);
  }
  return hosts;
}

ordered_json start_entry(Communicator& world, const RunSetup& setup, ordered_json hosts) {
  const BuildInfo& build = build_info();
  ordered_json libraries = ordered_json::object();
  for (const auto& [name, version] : library_versions()) libraries[name] = version;
  if (mpi_available()) libraries["MPI"] = mpi_library();
  ordered_json environment = ordered_json::object();
  for (const auto& [name, value] : deciding_environment()) environment[name] = value;
  for (const auto& [name, value] : narrowing_environment()) environment[name] = value;
  return {{"start", now_text()},
          {"end", nullptr},
          {"outcome", "running"},
          {"from_step", 0},
          {"to_step", nullptr},
          {"reason", nullptr},
          {"version", build.version},
          {"commit", build.commit},
          {"compiler", build.compiler},
          {"build", build.build},
          {"back_ends", build.back_ends},
          {"libraries", std::move(libraries)},
          {"instruction_set", instruction_set()},
          {"environment", std::move(environment)},
          {"job", batch_job()},
          {"transport", std::string(world.transport())},
          {"ranks", world.size()},
          {"hosts", std::move(hosts)},
          {"decisions", setup.decisions},
          {"warnings", ordered_json::array()}};
}

}  // namespace

RunRecord::RunRecord(Communicator& world, const RunSetup& setup) : file_(setup.experiment.job.folder / "run.json") {
  ordered_json hosts = hosts_of(world);
  const bool first = world.rank() == 0;
  // Ranks that are threads have one log.
  if (first || !world.one_process())
    log_ = std::make_unique<LogFile>((setup.experiment.job.folder / "log.txt").string(), !first);
  if (!first) return;
  json_ = std::make_unique<ordered_json>(read_record(file_));
  for (auto& start : (*json_)["starts"])
    if (start.is_object() && start.value("outcome", "") == "running")
      start["outcome"] = "unknown: killed, or its machine failed";
  (*json_)["starts"].push_back(start_entry(world, setup, std::move(hosts)));
  write();
}

RunRecord::~RunRecord() {
  if (json_ && (*json_)["starts"].back()["outcome"] == "running") ended("unknown: left without a word", -1, "");
}

void RunRecord::resumed(std::int64_t step) {
  if (!json_) return;
  (*json_)["starts"].back()["from_step"] = step;
  write();
}

void RunRecord::decided(const std::string& decision) {
  if (json_) (*json_)["starts"].back()["decisions"].push_back(decision);
}

void RunRecord::ended(const std::string& outcome, std::int64_t step, const std::string& reason) {
  if (!json_) return;
  ordered_json& entry = (*json_)["starts"].back();
  entry["end"] = now_text();
  entry["outcome"] = outcome;
  if (step >= 0) entry["to_step"] = step;
  if (!reason.empty()) entry["reason"] = reason;
  if (log_) log_->write(outcome + (reason.empty() ? "" : ": " + reason));
  write();
}

void RunRecord::write() {
  if (log_) (*json_)["starts"].back()["warnings"] = log_->warnings();
  try {
    write_text_atomically(file_.string(), json_->dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  } catch (const std::exception& error) {
    log_warn("the account of this run could not be written: {}", error.what());
  }
}

}  // namespace longhaul
