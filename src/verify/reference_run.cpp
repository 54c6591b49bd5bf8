#include "verify/reference_run.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "model/parameters.h"

namespace longhaul {
namespace {

HostTensor scalar(double value) {
  HostTensor tensor(TensorType{{}, DType::float64});
  tensor.set(0, value);
  return tensor;
}

HostTensor integers(const Shape& shape, const std::vector<std::int32_t>& values) {
  HostTensor tensor(TensorType{shape, DType::int32});
  LONGHAUL_CHECK(tensor.bytes.size() == values.size() * sizeof(std::int32_t), "a batch of {} tokens for {}",
                 values.size(), tensor.type.count());
  std::memcpy(tensor.data(), values.data(), tensor.bytes.size());
  return tensor;
}

}  // namespace

ReferenceRun::ReferenceRun(const TransformerSpec& spec, const Meaning& meaning, std::int64_t batch,
                           std::int64_t sequence)
    : interpreter_({}) {
  request_.spec = spec;
  request_.options.meaning = meaning;
  request_.batch = batch;
  request_.sequence = sequence;
}

const Graph& ReferenceRun::graph(ProgramKind kind) {
  auto entry = graphs_.find(kind);
  if (entry == graphs_.end()) entry = graphs_.emplace(kind, specification(request_, kind)).first;
  return entry->second;
}

void ReferenceRun::set_parameters(const ParameterSource& source, DType dtype) {
  for (const auto& parameter : parameters(request_.spec)) {
    HostTensor rounded(TensorType{parameter.shape, dtype}), tensor(TensorType{parameter.shape, DType::float64});
    source(parameter.name, 0, parameter.elements(), dtype, rounded.data());
    for (std::int64_t i = 0; i < parameter.elements(); ++i) tensor.set(i, rounded.at(i));
    state_[parameter.name] = tensor;
    HostTensor zero(TensorType{parameter.shape, DType::float64});
    state_[name_of(StateKey{Role::first_moment, parameter.name})] = zero;
    state_[name_of(StateKey{Role::second_moment, parameter.name})] = zero;
  }
}

std::map<std::string, HostTensor> ReferenceRun::inputs(const Graph& graph, const HostBatch* batch) const {
  std::map<std::string, HostTensor> map;
  for (const auto& input : graph.inputs) {
    const Shape& shape = graph[input.value].shape;
    if (batch)
      for (const BatchField& field : batch_fields)
        if (input.name == field.name) map[input.name] = integers(shape, batch->*field.values);
    if (const auto known = state_.find(input.name); known != state_.end()) map[input.name] = known->second;
  }
  return map;
}

StepResult ReferenceRun::accumulate(const std::vector<HostBatch>& micro_batches) {
  StepResult result;
  for (const auto& batch : micro_batches)
    result.valid_tokens += static_cast<double>(
        std::count_if(batch.labels.begin(), batch.labels.end(), [](std::int32_t label) { return label >= 0; }));
  const auto n = static_cast<std::int64_t>(micro_batches.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const Graph& program = graph(accumulate_kind(i, n));
    auto in = inputs(program, &micro_batches[static_cast<std::size_t>(i)]);
    in["inverse_count"] = scalar(1 / std::max(1.0, result.valid_tokens));
    auto out = interpreter_.run(program, in);
    result.loss += out.at("loss").at(0);
    out.erase("loss");
    for (auto& [name, tensor] : out) state_[name] = std::move(tensor);
  }
  return result;
}

double ReferenceRun::update(std::int64_t step, double learning_rate) {
  const Graph& program = graph(ProgramKind::update);
  auto in = inputs(program, nullptr);
  in["step"] = scalar(static_cast<double>(step));
  in["learning_rate"] = scalar(learning_rate);
  auto out = interpreter_.run(program, in);
  const double norm = out.at("grad_norm").at(0);
  out.erase("grad_norm");
  for (auto& [name, tensor] : out) state_[name] = std::move(tensor);
  return norm;
}

StepResult ReferenceRun::step(std::int64_t step, double learning_rate, const std::vector<HostBatch>& micro_batches) {
  StepResult result = accumulate(micro_batches);
  result.grad_norm = update(step, learning_rate);
  return result;
}

std::vector<double> ReferenceRun::values(const std::string& name) const {
  const auto known = state_.find(name);
  LONGHAUL_CHECK(known != state_.end(), "no state {}", name);
  std::vector<double> list(static_cast<std::size_t>(known->second.type.count()));
  for (std::size_t i = 0; i < list.size(); ++i) list[i] = known->second.at(static_cast<std::int64_t>(i));
  return list;
}

}  // namespace longhaul
