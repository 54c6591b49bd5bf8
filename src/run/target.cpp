#include "run/target.h"

#include <algorithm>

#include "base/environment.h"
#include "base/error.h"
#include "base/host.h"
#include "runtime/cpu/platform.h"
#include "runtime/cpu/target.h"
#include "runtime/device/target.h"

namespace longhaul {
namespace {

bool reference_kernels() {
  const std::string kernels = environment("LONGHAUL_KERNELS");
  if (!kernels.empty() && kernels != "reference")
    fail("LONGHAUL_KERNELS is '{}'; allowed are 'reference' or unset", kernels);
  return kernels == "reference";
}

bool check_ops() {
  const std::string check = environment("LONGHAUL_CHECK_OPS");
  if (!check.empty() && check != "1") fail("LONGHAUL_CHECK_OPS is '{}'; allowed are '1' or unset", check);
  return check == "1";
}

int resolve_threads(const Experiment& experiment, int ranks_here) {
  if (experiment.training.threads) return static_cast<int>(*experiment.training.threads);
  // The ranks of a host share its cores, and a rank that is bound to some uses no more than those.
  return std::max(1, std::min(usable_cores(), machine_cores() / ranks_here));
}

}  // namespace

std::shared_ptr<Target> make_target(const Experiment& experiment, int ranks_here) {
  const int ranks = std::max(1, ranks_here);
  TargetOptions options;
  options.threads = resolve_threads(experiment, ranks);
  options.reference_only = reference_kernels();
  options.cores = std::min<double>(options.threads, static_cast<double>(machine_cores()) / ranks);
  options.check_ops = check_ops();
  options.collectives = experiment.device.collectives;
  options.collective_timeout = experiment.device.timeout;
  options.graphs = experiment.device.graphs;
  options.ordered_sums = experiment.training.deterministic;
  if (experiment.device.type == DeviceType::cpu) {
    if (options.check_ops)
      fail("LONGHAUL_CHECK_OPS is set and device.type is cpu: it holds a device's kernels against the CPU's");
    return std::make_shared<CpuTarget>(options);
  }
  if (experiment.training.dtype == DType::float64)
    fail(
        "training.dtype is float64; device.type {} computes in float32 and bfloat16: set one of them, or device.type "
        "to cpu",
        value_of(experiment, "device.type"));
  return std::make_shared<DeviceTarget>(
      options, experiment.device.type == DeviceType::cuda ? cuda::Backend::cuda : cuda::Backend::emulator);
}

std::int64_t device_memory(const Experiment& experiment) {
  return experiment.device.type == DeviceType::cuda ? DeviceTarget::memory_of(cuda::Backend::cuda) : 0;
}

std::shared_ptr<Target> host_target(int threads) {
  return std::make_shared<CpuTarget>(TargetOptions{.threads = threads, .reference_only = reference_kernels()});
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  return cpu_libraries();
}

std::string instruction_set() {
  return cpu_instruction_set();
}

std::string library_kernels() {
  return cpu_library_kernels();
}

}  // namespace longhaul
