#include "run/agreement.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/build_info.h"
#include "base/environment_facts.h"
#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "cost/profile.h"
#include "data/expand_files.h"
#include "plan/mesh.h"
#include "run/data_groups.h"
#include "run/target.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

std::string to_text(const Facts& facts) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const auto& [name, value] : facts) json.push_back({name, value});
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Facts from_text(const std::string& text) {
  Facts facts;
  for (const auto& fact : nlohmann::json::parse(text)) facts.emplace_back(fact.at(0), fact.at(1));
  return facts;
}

// "training.seed is 2 here, but 1 on rank 0": the first fact of theirs that mine lack or have otherwise, or the first
// of mine that they lack.
std::string first_difference(const Facts& mine, const Facts& theirs) {
  const std::map<std::string, std::string> here(mine.begin(), mine.end()), there(theirs.begin(), theirs.end());
  for (const auto& [name, value] : theirs) {
    const auto found = here.find(name);
    if (found == here.end()) return fmt::format("{} is not there, but {} on rank 0", name, value);
    if (found->second != value) return fmt::format("{} is {} here, but {} on rank 0", name, found->second, value);
  }
  for (const auto& [name, value] : mine)
    if (!there.contains(name)) return fmt::format("{} is {} here, but not there on rank 0", name, value);
  return "";
}

// Everything that may hold weights where `weights` points: the file and what an index names beside it, or the folder's.
void add_weights(const fs::path& weights, std::set<fs::path>& files) {
  std::error_code none;
  const bool whole_folder = fs::is_directory(weights, none) || weights.extension() == ".json";
  if (!whole_folder) {
    files.insert(weights);
    return;
  }
  const fs::path folder = fs::is_directory(weights, none) ? weights : weights.parent_path();
  for (const auto& item : fs::directory_iterator(folder, none))
    if (item.path().extension() == ".safetensors" || item.path().filename().string().ends_with(".index.json"))
      files.insert(item.path());
}

std::string machine_text(const Facts& machine) {
  std::string text;
  for (const auto& [name, value] : machine) text += (text.empty() ? "" : ", ") + name + " " + value;
  return text;
}

// What differs between machines changes numbers in the last digits only, and a user may want that.
void log_machines(Communicator& world, const Facts& machine) {
  const std::vector<std::string> texts = gather_texts(world, machine_text(machine)),
                                 hosts = gather_texts(world, host_name());
  std::map<std::string, std::string> ranks;
  for (std::size_t rank = 0; rank < texts.size(); ++rank)
    ranks[texts[rank]] += fmt::format("{}{} ({})", ranks[texts[rank]].empty() ? "" : ", ", rank, hosts[rank]);
  if (ranks.size() == 1) return;
  log_warn(
      "ranks run on different CPUs, as distributed.different_cpus allows: numbers differ from those of equal ones "
      "in their last digits, and copies of parameters may drift apart");
  for (const auto& [text, who] : ranks) log_warn("  {}: ranks {}", text, who);
}

}  // namespace

Facts given_facts(const Experiment& experiment) {
  Facts facts;
  const BuildInfo& build = build_info();
  facts.emplace_back("longhaul's version", build.version);
  facts.emplace_back("its commit", build.commit);
  facts.emplace_back("its compiler", build.compiler);
  facts.emplace_back("its build", build.build);
  for (const auto& [name, version] : library_versions()) facts.emplace_back("library " + name, version);
  if (mpi_available()) facts.emplace_back("MPI", mpi_library());
  for (const auto& [name, value] : deciding_environment()) facts.emplace_back(name, value);
  for (const auto& [name, value] : values_without_paths(experiment))
    if (name != "job.name") facts.emplace_back(name, value);
  return facts;
}

Facts machine_facts(const RunSetup& setup) {
  Facts facts;
  facts.emplace_back("CPU", cpu_model());
  facts.emplace_back("instruction set", instruction_set());
  facts.emplace_back("library's kernels", library_kernels());
  for (const auto& [name, value] : narrowing_environment()) facts.emplace_back(name, value);
  facts.emplace_back("threads", std::to_string(setup.target->options().threads));
  return facts;
}

Facts setup_facts(const RunSetup& setup) {
  Facts facts;
  const nlohmann::json spec = nlohmann::json::parse(spec_text(setup.model.spec)).flatten();
  for (const auto& [place, value] : spec.items()) facts.emplace_back("model.config, " + place, value.dump());
  const CompileRequest& request = setup.request;
  facts.emplace_back("parallelism", describe(setup.parallel));
  facts.emplace_back("micro-batches", std::to_string(setup.parallel.accumulation_steps));
  facts.emplace_back("sequences of a micro-batch", std::to_string(request.batch));
  facts.emplace_back("tokens of a padded sequence", std::to_string(request.sequence));
  facts.emplace_back("mesh", request.mesh.text());
  facts.emplace_back("keep_gathered", std::to_string(static_cast<int>(request.options.schedule.keep_gathered)));
  std::string profile = "none";
  if (setup.profile) {
    const std::string text = profile_text(*setup.profile);
    profile = fmt::format("{}, contents {:016x}", setup.profile->name, XXH3_64bits(text.data(), text.size()));
  }
  facts.emplace_back("device.profile", profile);
  facts.emplace_back("what layers make again",
                     fmt::format("{}", fmt::join(request.options.schedule.recompute_steps, " ")));
  return facts;
}

Facts file_facts(const RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  std::vector<std::pair<std::string, std::vector<fs::path>>> groups;
  const auto add = [&](const std::string& key, const std::vector<fs::path>& named, auto&& expand) {
    std::set<fs::path> seen;
    std::vector<fs::path> ordered;
    for (const fs::path& one : named) {
      std::set<fs::path> files;
      expand(one, files);
      for (const fs::path& file : files)
        if (seen.insert(file).second) ordered.push_back(file);
    }
    groups.emplace_back(key, ordered);
  };
  for (const DataGroup& group : data_groups(experiment)) {
    // Patterns and folders stand for the files that a run reads.
    std::vector<std::string> names;
    for (const fs::path& one : group.files) names.push_back(one.string());
    const std::vector<std::string> files = expand_files(names, group.format);
    add(group.key, std::vector<fs::path>(files.begin(), files.end()),
        [&](const fs::path& file, std::set<fs::path>& all) {
          for (const auto& one : files_of_data(file, group.format)) all.insert(one);
        });
  }
  if (!experiment.model.weights.empty()) add("model.weights", {experiment.model.weights}, add_weights);

  std::size_t count = 0;
  for (const auto& [key, files] : groups) count += files.size();
  // As much of a few large files as of many.
  const int blocks = std::max(8, static_cast<int>(1024 / std::max<std::size_t>(1, count)));
  Facts facts;
  for (const auto& [key, files] : groups) {
    facts.emplace_back("number of files of " + key, std::to_string(files.size()));
    for (std::size_t i = 0; i < files.size(); ++i) {
      // Without its name: ranks may have the same bytes elsewhere.
      const std::string name = fmt::format("file {} of {} of {}", i + 1, files.size(), key);
      facts.emplace_back("the size of " + name, std::to_string(fs::file_size(files[i])));
      facts.emplace_back("the contents of " + name, sampled_hash(files[i].string(), blocks));
    }
  }
  return facts;
}

std::string sampled_hash(const std::string& file, int blocks) {
  constexpr std::int64_t block = 4096;
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  const std::int64_t size = stream ? static_cast<std::int64_t>(stream.tellg()) : -1;
  if (size < 0) fail("cannot read {}", file);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  LONGHAUL_CHECK(state, "no memory for a hash");
  XXH3_64bits_reset(state.get());
  XXH3_64bits_update(state.get(), &size, sizeof size);
  const std::int64_t pieces = std::min<std::int64_t>(blocks, (size + block - 1) / block);
  const bool all = pieces * block >= size;
  std::vector<char> bytes(static_cast<std::size_t>(block));
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = all ? i * block : i == pieces - 1 ? size - block : (size - block) / (pieces - 1) * i;
    const std::int64_t length = std::min(block, size - begin);
    stream.seekg(begin);
    if (!stream.read(bytes.data(), length)) fail("cannot read {} at byte {}", file, begin);
    XXH3_64bits_update(state.get(), bytes.data(), static_cast<std::size_t>(length));
  }
  return fmt::format("{:016x}", XXH3_64bits_digest(state.get()));
}

void check_facts(Communicator& world, const Facts& facts, const std::string& advice) {
  if (world.size() == 1) return;
  const std::string mine = to_text(facts);
  const std::vector<std::uint64_t> hashes = all_gather(world, std::uint64_t{XXH3_64bits(mine.data(), mine.size())});
  if (std::all_of(hashes.begin(), hashes.end(), [&](std::uint64_t one) { return one == hashes[0]; })) return;
  const Facts theirs = from_text(broadcast_text(world, mine));
  const std::string host = broadcast_text(world, host_name());
  const std::string difference = first_difference(facts, theirs);
  agree(world, difference.empty() ? ""
                                  : fmt::format("on host {} was not given what rank 0 on host {} has: {}. {}",
                                                host_name(), host, difference, advice));
}

void check_files(Communicator& world, const RunSetup& setup) {
  if (world.size() == 1 || world.one_process()) return;
  Facts facts;
  phase(world, [&] { facts = file_facts(setup); });
  check_facts(world, facts);
}

RunSetup prepare_agreed_run(Communicator& world, const Experiment& experiment, Purpose purpose) {
  check_facts(world, given_facts(experiment));
  Hosts hosts = find_hosts(world);
  phase(world, [&] { hosts.device_memory = device_memory(experiment); });
  const std::vector<std::int64_t> memories = all_gather(world, hosts.device_memory);
  hosts.device_memory = *std::min_element(memories.begin(), memories.end());
  RunSetup setup;
  phase(world, [&] { setup = prepare_run(experiment, world.size(), hosts, purpose); });
  const Facts machine = machine_facts(setup);
  if (experiment.distributed.different_cpus)
    log_machines(world, machine);
  else
    check_facts(
        world, machine,
        "CPUs that differ round differently; use equal ones (and training.threads to use as many cores of each), "
        "or set distributed.different_cpus=true to allow it");
  check_facts(world, setup_facts(setup));
  return setup;
}

}  // namespace longhaul
