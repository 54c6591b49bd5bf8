#include "base/environment.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "base/environment_facts.h"
#include "base/error.h"

extern char** environ;

namespace longhaul {

const std::vector<EnvironmentVariable>& environment_variables() {
  static const std::vector<EnvironmentVariable> table = {
      {"LONGHAUL_LOG",
       "log level: trace, debug, info, warn, error (default info); debug names the kernel chosen for each op and why "
       "faster ones refused"},
      {"LONGHAUL_KERNELS",
       "'reference' runs every op with the plain-loop reference kernels (default: the first kernel that accepts)"},
      {"LONGHAUL_CHECK_OPS",
       "'1', with a device: every op is run again by the CPU's reference kernel on the same operands, and the first "
       "that "
       "differs stops the run (slow)"},
      {"LONGHAUL_DUMP",
       "a folder: the IR after every pass, the program and the memory table are written there by any command"},
      {"LONGHAUL_ISA",
       "the widest instruction set that the CPU kernels may use: avx512bf16, avx512, avx2, generic (default: what the "
       "CPU has)"},
      {"LONGHAUL_STREAM_BYTES",
       "outputs of at least so many bytes are stored past the CPU's caches (default: half of the last-level cache); "
       "numbers are the same"},
      {"LONGHAUL_DELAY",
       "'LATENCY:BANDWIDTH', seconds and bytes a second: the collectives of CPU ranks take as long as on such a link, "
       "by timers, to measure what runs beside them (docs/parallelism.md)"},
      {"LONGHAUL_CUDA_LIBRARY",
       "path of liblonghaul_cuda.so, when it is not beside the program; the only place then looked at"},
      {"LONGHAUL_JOB_TOKEN",
       "with --transport sockets: a text that only the processes of one job know; those that show another are sent "
       "away"},
      {"LONGHAUL_TEST_DATA", "set by ctest: the tests' folder"},
      {"LONGHAUL_SOURCE", "set by ctest: the source folder"},
      {"LONGHAUL_BINARY", "set by ctest: the longhaul program"},
  };
  return table;
}

const std::vector<EnvironmentVariable>& foreign_variables() {
  static const std::vector<EnvironmentVariable> table = {
      {"OMPI_COMM_WORLD_SIZE", "the processes that Open MPI's launcher started"},
      {"PMI_SIZE", "the processes that MPICH's launcher, or Slurm with PMI, started"},
      {"SLURM_STEP_NUM_TASKS", "the processes of a Slurm step"},
      {"OMPI_COMM_WORLD_RANK", "which of them this is, for --transport sockets"},
      {"PMI_RANK", "the same by MPICH's launcher, or Slurm with PMI"},
      {"SLURM_PROCID", "the same of a Slurm step"},
      {"SLURM_STEP_ID", "the step's number, for its port and token"},
      {"SLURM_STEP_NODELIST", "its hosts, of which the first has rank 0"},
      {"SLURM_RESTART_COUNT", "how often the job was requeued, for its token"},
      {"RANK", "which process this is, as torchrun and Kubernetes' training operators say"},
      {"WORLD_SIZE", "how many there are, by the same"},
      {"MASTER_ADDR", "the host of rank 0"},
      {"MASTER_PORT", "its port"},
      {"SLURM_JOB_ID", "the number of the batch job, for the run folder's lock and record"},
      {"PBS_JOBID", "the same under PBS"},
      {"LSB_JOBID", "the same under LSF"},
      {"OMP_WAIT_POLICY", "whether OpenMP threads spin while they wait"},
  };
  return table;
}

std::optional<std::string> foreign_variable(std::string_view name) {
  bool listed = false;
  for (const auto& variable : foreign_variables()) listed |= variable.name == name;
  LONGHAUL_CHECK(listed, "environment variable {} is not in the table of foreign ones", name);
  const char* value = std::getenv(std::string(name).c_str());
  return value ? std::optional<std::string>(value) : std::nullopt;
}

std::string environment(std::string_view name, std::string_view fallback) {
  bool listed = false;
  for (const auto& variable : environment_variables()) listed |= variable.name == name;
  LONGHAUL_CHECK(listed, "environment variable {} is not in the table", name);
  const char* value = std::getenv(std::string(name).c_str());
  return value && *value ? value : std::string(fallback);
}

namespace {

template <typename Condition>
std::vector<std::pair<std::string, std::string>> variables(Condition&& wanted) {
  std::vector<std::pair<std::string, std::string>> found;
  for (char** entry = environ; *entry; ++entry) {
    const std::string name(*entry, std::strcspn(*entry, "="));
    if (wanted(name) && (*entry)[name.size()] == '=') found.emplace_back(name, *entry + name.size() + 1);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> deciding_environment() {
  constexpr std::array others = {"LONGHAUL_LOG",       "LONGHAUL_DUMP",      "LONGHAUL_CUDA_LIBRARY",
                                 "LONGHAUL_TEST_DATA", "LONGHAUL_SOURCE",    "LONGHAUL_BINARY",
                                 "LONGHAUL_ISA",       "LONGHAUL_CHECK_OPS", "LONGHAUL_JOB_TOKEN"};
  return variables([&](const std::string& name) {
    return name.starts_with("LONGHAUL_") && std::find(others.begin(), others.end(), name) == others.end();
  });
}

std::vector<std::pair<std::string, std::string>> narrowing_environment() {
  return variables([](const std::string& name) {
    return name == "LONGHAUL_ISA" || name == "OMP_NUM_THREADS" || name.starts_with("ONEDNN_") ||
           name.starts_with("DNNL_") || name.starts_with("OPENBLAS_");
  });
}

std::string batch_job() {
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"})
    if (const auto value = foreign_variable(name); value && !value->empty()) return *value;
  return "";
}

void refuse_unknown_environment() {
  for (char** entry = environ; *entry; ++entry) {
    if (std::strncmp(*entry, "LONGHAUL_", 9) != 0) continue;
    const std::string_view name(*entry, std::strcspn(*entry, "="));
    bool listed = false;
    std::string all;
    for (const auto& variable : environment_variables()) {
      listed |= variable.name == name;
      all += (all.empty() ? "" : ", ") + std::string(variable.name);
    }
    if (!listed)
      fail("environment variable {} is not one that longhaul reads; it reads {}. Unset it or correct its name.", name,
           all);
  }
}

}  // namespace longhaul
