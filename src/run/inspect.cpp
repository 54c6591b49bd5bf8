#include "run/inspect.h"

#include <fmt/ranges.h>

#include <array>
#include <map>

#include "base/error.h"
#include "compile/compile.h"
#include "model/flops.h"
#include "model/parameters.h"
#include "passes/plan_memory.h"
#include "plan/mesh.h"

namespace longhaul {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// 1234567 -> "1,234,567"
std::string grouped(std::int64_t number) {
  std::string text;
  const std::string digits = std::to_string(number);
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

// ---- parameters: those outside the layers, and those of each group of equal layers

std::string parameter_table(const TransformerSpec& spec) {
  const auto all = parameters(spec);
  std::string text = fmt::format("parameters: {} in {} tensors\n", grouped(parameter_count(spec)), all.size());
  const auto section = [&](const std::string& title, const std::string& prefix, std::int64_t repeat) {
    std::int64_t sum = 0;
    std::string lines;
    for (const auto& parameter : all) {
      const bool in_layers = parameter.name.starts_with("layers.");
      if (prefix.empty() ? in_layers : !parameter.name.starts_with(prefix)) continue;
      sum += parameter.elements();
      lines += fmt::format("    {:32} {:24} {:>16}\n", parameter.name.substr(prefix.size()),
                           shape_text(parameter.shape), grouped(parameter.elements()));
    }
    text += repeat == 1 ? fmt::format("  {}: {}\n", title, grouped(sum))
                        : fmt::format("  {}: {} each, {} together\n", title, grouped(sum), grouped(sum * repeat));
    text += lines;
  };
  section("outside the layers", "", 1);
  std::int64_t first = 0;
  for (const auto& group : spec.layers) {
    const std::string title = group.repeat == 1 ? fmt::format("layer {}", first)
                                                : fmt::format("layers {} to {}", first, first + group.repeat - 1);
    section(title, fmt::format("layers.{}.", first), group.repeat);
    first += group.repeat;
  }
  return text;
}

std::string flops_table(const TransformerSpec& spec) {
  std::string text = "training FLOPs per token (a multiply-add is two; nothing recomputed)\n";
  text +=
      "  causal: attention counts the keys that a token sees (MFU here uses this); full: as if each saw all S keys, "
      "the "
      "usual convention elsewhere\n";
  text += fmt::format("  {:>9} {:>14} {:>18} {:>18} {:>14} {:>14}\n", "S", "projections", "attention, causal",
                      "attention, full", "sum, causal", "sum, full");
  for (const std::int64_t length : {4096, 32768, 131072, 1048576}) {
    const FlopsPerToken flops = flops_per_token(spec, length);
    text += fmt::format("  {:>9} {:>14.4e} {:>18.4e} {:>18.4e} {:>14.4e} {:>14.4e}{}\n", length, flops.matmul,
                        flops.attention_causal, flops.attention_full, flops.causal(), flops.full(),
                        spec.max_positions > 0 && length > spec.max_positions
                            ? fmt::format("  (beyond the model's {} positions)", spec.max_positions)
                            : "");
  }
  return text;
}

// What the compiler gives state on one of `ranks` ranks: from the graphs themselves, so that it cannot differ from a
// run.
std::array<std::int64_t, memory_categories> state_bytes(const TransformerSpec& spec, DType dtype, int ranks,
                                                        int stage) {
  CompileRequest request;
  request.spec = spec;
  request.batch = ranks;
  request.sequence = 1;
  request.options.precision.dtype = dtype;
  for (const auto& parameter : parameters(spec))
    request.options.meaning.parameters.push_back({parameter.name, parameter.shape});
  const ResolvedParallelism parallel = data_parallel(ranks, stage);
  request.mesh = place_ranks(parallel, request.options.placement);
  std::vector<Graph> graphs;
  for (const ProgramKind kind : {ProgramKind::accumulate_first, ProgramKind::accumulate_last, ProgramKind::update}) {
    graphs.push_back(initial_graph(request, kind));
    run_passes(graphs.back(), {request.options, kind}, 0, static_cast<int>(pipeline().size()));
  }
  const NamedBuffers named = plan_named_buffers({&graphs[0], &graphs[1], &graphs[2]});
  std::map<std::int64_t, const NamedBuffers::Slot*> places;  // gradients may share their accumulators' place
  for (const auto& [name, slot] : named.slots) places.emplace(slot.offset, &slot);
  std::array<std::int64_t, memory_categories> bytes{};
  for (const auto& [offset, slot] : places) bytes[static_cast<std::size_t>(slot->category)] += slot->bytes;
  return bytes;
}

std::string state_table(const TransformerSpec& spec) {
  std::string text =
      "bytes of state on each of 8 ranks, by ZeRO stage (with accumulation over several micro-batches)\n";
  text += fmt::format("  {:9} {:>5} {:>18} {:>18} {:>18} {:>18}\n", "dtype", "stage", "parameters", "gradients",
                      "optimizer", "sum");
  for (const DType dtype : {DType::bfloat16, DType::float32})
    for (int stage = 0; stage <= 3; ++stage) {
      const auto bytes = state_bytes(spec, dtype, 8, stage);
      const std::int64_t own = bytes[static_cast<std::size_t>(MemoryCategory::parameters)],
                         gradients = bytes[static_cast<std::size_t>(MemoryCategory::gradients)],
                         moments = bytes[static_cast<std::size_t>(MemoryCategory::optimizer)];
      text += fmt::format("  {:9} {:>5} {:>18} {:>18} {:>18} {:>18}\n", name_of(dtype), stage, grouped(own),
                          grouped(gradients), grouped(moments), grouped(own + gradients + moments));
    }
  return text + "  parameters: float32 masters and, in bfloat16, the copies that forward and backward read\n";
}

}  // namespace

std::string inspect_model(const LoadedModel& model) {
  std::string text = fmt::format("# {} ({})\n", model.file.string(), model.family);
  for (const auto& note : model.notes) text += "# " + note + "\n";
  return text + spec_text(model.spec) + "\n" + parameter_table(model.spec) + "\n" + flops_table(model.spec) + "\n" +
         state_table(model.spec);
}

}  // namespace longhaul
