#include "run/libraries.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "kernels/cpu/matmul_libraries.h"
#include "runtime/cpu/kernel.h"

namespace longhaul {
namespace {

using cpu::MatmulLibraries;

MatmulLibraries::Table parse(const std::string& text) {
  if (text.empty()) return {};
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) fail("the libraries of matrix products are garbled: {}", text);
  MatmulLibraries::Table table;
  for (const auto& [product, library] : json.items()) {
    if (!library.is_string()) fail("the library of the matrix product {} is garbled: {}", product, library.dump());
    table[product] = library;
  }
  return table;
}

std::string to_text(const MatmulLibraries::Table& table) {
  return nlohmann::json(table).dump(1);
}

// Asks for every kernel of the programs once: choosing is a side effect of planning a product.
void visit(const CompiledModel& model, const CompileRequest& request) {
  if (request.reference_only) return;
  CpuContext context(request.threads);
  context.set_libraries(request.libraries);
  CpuKernelCache kernels(context, false);
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (!op.definition->communication) kernels.get(program->graph, op);
}

}  // namespace

std::string choose_libraries(Communicator& world, RunSetup& setup, const CompiledModel& model,
                             const std::string& decided) {
  const Experiment& experiment = setup.experiment;
  const bool automatic = experiment.training.matmul == MatmulLibrary::automatic;
  const std::string only = automatic ? "" : value_of(experiment, "training.matmul");
  // OpenBLAS lets one caller at a time use several threads, and the others spin: no gain for ranks of one process.
  const bool alone = setup.request.threads == 1 || world.size() == 1;
  const bool measures = automatic && !experiment.training.deterministic && alone && !setup.request.reference_only;
  const auto choice = measures ? MatmulLibraries::Choice::measured : MatmulLibraries::Choice::first;
  setup.request.libraries = std::make_shared<MatmulLibraries>(choice, only);
  MatmulLibraries& libraries = *setup.request.libraries;
  std::string summary;
  phase(world, [&] {
    if (!automatic) cpu::require_matmul_library(only, experiment.training.dtype, "training.matmul");
    if (world.rank() != 0) return;
    libraries.decide(parse(decided));
    const MatmulLibraries::Table before = libraries.decided();
    visit(model, setup.request);
    int changed = 0;
    std::map<std::string, int> count;
    for (const auto& [product, library] : libraries.decided()) {
      ++count[library];
      const auto old = before.find(product);
      changed += old != before.end() && old->second != library;
    }
    std::string counts;
    for (const auto& [library, products] : count)
      counts += fmt::format("{}{} by {}", counts.empty() ? "" : ", ", products, library);
    if (counts.empty()) return;
    summary = fmt::format("matrix products: {}", counts);
    if (libraries.measured())
      summary += fmt::format(", {} of them timed in {:.1f} s", libraries.measured(), libraries.seconds());
    if (changed)
      summary +=
          fmt::format("; {} had another library in the checkpoint: the run goes on with other roundings", changed);
  });
  libraries.decide(parse(broadcast_text(world, to_text(libraries.decided()))));
  return broadcast_text(world, summary);
}

std::string choices_text(const RunSetup& setup) {
  return to_text(setup.request.libraries ? setup.request.libraries->decided() : MatmulLibraries::Table());
}

}  // namespace longhaul
