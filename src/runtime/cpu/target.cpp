#include "runtime/cpu/target.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "ir/op_definition.h"
#include "kernels/cpu/matmul_libraries.h"
#include "kernels/cpu/peak.h"
#include "runtime/communication.h"
#include "runtime/cpu/executor.h"

namespace longhaul {
namespace {

using cpu::MatmulLibraries;

MatmulLibraries::Table parse(const std::string& text) {
  if (text.empty()) return {};
  const auto json = parse_json(text, "the libraries of matrix products");
  if (!json.is_object()) fail("the libraries of matrix products are garbled: {}", text);
  MatmulLibraries::Table table;
  for (const auto& [product, library] : json.items()) {
    if (product == "device") continue;  // what was chosen there is not for here: kept by CpuTarget::keep_device
    if (!library.is_string()) fail("the library of the matrix product {} is garbled: {}", product, library.dump());
    table[product] = library;
  }
  return table;
}

}  // namespace

void CpuTarget::keep_device(const std::string& decided) {
  device_.clear();
  if (decided.empty()) return;
  const auto json = parse_json(decided, "the libraries of matrix products");
  if (!json.is_object() || !json.contains("device")) return;
  if (!json["device"].is_object()) fail("the algorithms of matrix products are garbled: {}", json["device"].dump());
  device_ = json["device"].dump();
}

CpuTarget::CpuTarget(const TargetOptions& options)
    : Target(options), context_(options.threads), kernels_(context_, options.reference_only) {}
CpuTarget::~CpuTarget() = default;

std::int64_t CpuTarget::scratch_bytes(const Graph& graph, const Op& op) {
  if (op.definition->communication) return communicates(op) ? CommunicationStep(graph, op, 0).scratch_bytes() : 0;
  return static_cast<std::int64_t>(kernels_.get(graph, op)->scratch_bytes);
}

double CpuTarget::peak_flops(DType dtype) {
  double one = 0;
  for (int i = 0; i < 3; ++i) {
    const double low = dtype == DType::bfloat16 ? cpu::measure_bfloat16_peak() : 0;
    one = std::max(one, low > 0 ? low : cpu::measure_float32_peak());
  }
  return (dtype == DType::float64 ? one / 2 : one) * options().cores;
}

void CpuTarget::set_library_policy(const LibraryPolicy& policy, DType dtype, std::string_view key) {
  if (!policy.only.empty()) cpu::require_matmul_library(policy.only, dtype, std::string(key));
  const auto choice = policy.measures ? MatmulLibraries::Choice::measured : MatmulLibraries::Choice::first;
  context_.set_libraries(std::make_shared<MatmulLibraries>(choice, policy.only));
  kernels_.settle();
}

std::string CpuTarget::choose_libraries(std::span<const Program* const> programs, const std::string& decided) {
  MatmulLibraries* const libraries = context_.libraries();
  LONGHAUL_CHECK(libraries, "libraries are chosen by a policy");
  libraries->decide(parse(decided));
  keep_device(decided);
  const MatmulLibraries::Table before = libraries->decided();
  // Choosing is a side effect of planning a product.
  if (!options().reference_only)
    for (const Program* program : programs)
      for (const Op& op : program->graph.ops)
        if (!op.definition->communication) kernels_.get(program->graph, op);
  int changed = 0;
  std::map<std::string, int> count;
  for (const auto& [product, library] : libraries->decided()) {
    ++count[library];
    const auto old = before.find(product);
    changed += old != before.end() && old->second != library;
  }
  std::string counts;
  for (const auto& [library, products] : count)
    counts += fmt::format("{}{} by {}", counts.empty() ? "" : ", ", products, library);
  if (counts.empty()) return "";
  std::string summary = fmt::format("matrix products: {}", counts);
  if (libraries->measured())
    summary += fmt::format(", {} of them timed in {:.1f} s", libraries->measured(), libraries->seconds());
  if (changed)
    summary += fmt::format("; {} had another library in the checkpoint: the run goes on with other roundings", changed);
  return summary;
}

std::string CpuTarget::libraries() const {
  const MatmulLibraries* const libraries = context_.libraries();
  nlohmann::json json(libraries ? libraries->decided() : MatmulLibraries::Table());
  if (!device_.empty()) json["device"] = nlohmann::json::parse(device_);
  return json.dump(1);
}

void CpuTarget::set_libraries(const std::string& decided) {
  LONGHAUL_CHECK(context_.libraries(), "libraries are chosen by a policy");
  context_.libraries()->decide(parse(decided));
  keep_device(decided);
}

std::unique_ptr<Executor> CpuTarget::executor(Communicator& world, std::span<const Program* const> programs,
                                              const NamedBuffers& named) {
  // Kernels and threads serve one caller at a time: two ranks that share a target would mix up each other's calls.
  std::thread::id first;
  LONGHAUL_CHECK(
      thread_.compare_exchange_strong(first, std::this_thread::get_id()) || first == std::this_thread::get_id(),
      "a target serves one rank");
  return std::make_unique<CpuExecutor>(world, programs, named, context_, kernels_, pace());
}

ScratchBytes cpu_scratch_bytes(const TargetOptions& options) {
  return [target = std::make_shared<CpuTarget>(options)](const Graph& graph, const Op& op) {
    return target->scratch_bytes(graph, op);
  };
}

}  // namespace longhaul
