#include "verify/verify.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/schedule.h"
#include "model/flops.h"
#include "model/parameters.h"
#include "run/agreement.h"
#include "run/attention_balance.h"
#include "run/libraries.h"
#include "run/source.h"
#include "run/text_tokens.h"
#include "verify/faults.h"
#include "verify/locate.h"
#include "verify/reference_run.h"
#include "verify/report.h"
#include "verify/shrink.h"

namespace longhaul {
namespace {

// ---- what the reference run costs

constexpr double reference_flops_per_second = 1e9;  // plain loops on one core, which others may share
constexpr double longest_seconds = 600;

void refuse_unreasonable(const RunSetup& setup) {
  const TransformerSpec& spec = setup.model.spec;
  const CompileRequest& request = setup.request;
  const double tokens = static_cast<double>(setup.parallel.global_batch_size * setup.sequence);
  const double seconds = flops_per_token(spec, setup.sequence).causal() * tokens / reference_flops_per_second;
  // float64: parameters, gradients and both moments, each as state and as a value of the graph; and the activations
  // that wait for the backward pass of a micro-batch: about eight of the hidden size, four of all heads, four of the
  // MLP a layer, and the logits with their gradient.
  double width = 2 * static_cast<double>(spec.vocabulary);
  for (const LayerSpec* layer : spec.each_layer())
    width += 8.0 * static_cast<double>(spec.hidden_size) +
             4.0 * static_cast<double>(layer->attention.heads * layer->attention.head_dim) +
             4.0 * static_cast<double>(layer->mlp.size);
  const double bytes = 8 * (8 * static_cast<double>(parameter_count(spec)) +
                            width * static_cast<double>(request.batch * setup.sequence));
  const double memory = static_cast<double>(physical_memory());
  if (seconds > longest_seconds)
    fail(
        "verify would take about {:.0f} minutes: the reference run does {:.3g} floating-point operations on one core "
        "in plain loops. Use a smaller model.config, or lower training.global_batch_size ({}) or training.seq_len "
        "({}); --shrink verifies a small model in its place, --force runs it all the same",
        seconds / 60, seconds * reference_flops_per_second, setup.parallel.global_batch_size, setup.sequence);
  if (bytes > memory / 2)
    fail(
        "verify would take about {:.1f} GiB on rank 0 (a whole step in float64) of the {:.1f} GiB of this machine. Use "
        "a smaller model.config, or lower training.micro_batch_size ({}) or training.seq_len ({}); --shrink verifies a "
        "small model in its place, --force runs it all the same",
        bytes / (1 << 30), memory / (1 << 30), setup.experiment.training.micro_batch_size, setup.sequence);
}

// ---- the runs

StepOutcome run_programs(Session& session, const DataSource& source, const std::vector<std::int64_t>& samples,
                         std::int64_t micro_batches, double rate, bool parameters) {
  StepOutcome outcome;
  outcome.step = session.accumulate(micro_batches, [&](std::int64_t i) { source.fill(session, samples, i); });
  for (const auto& tensor : session.state())
    if (tensor.key.role == Role::gradient) outcome.gradients[tensor.name] = session.gather(tensor);
  outcome.step.grad_norm = session.update(1, rate);
  for (const auto& tensor : session.state()) {
    if (tensor.key.role == Role::parameter && parameters) outcome.parameters[tensor.name] = session.gather(tensor);
    if (!is_floating(tensor.dtype)) continue;  // codes of moments in 8 bits
    if (tensor.key.role == Role::first_moment) outcome.first_moments[tensor.name] = session.gather(tensor);
    if (tensor.key.role == Role::second_moment) outcome.second_moments[tensor.name] = session.gather(tensor);
  }
  return outcome;
}

// Micro-batch i of the whole model, the tokens of each sequence in the order given (beyond S: padding).
HostBatch global_batch(const DataSource& source, const std::vector<std::int64_t>& samples, std::int64_t rows,
                       const RowOrder& order, std::int64_t i) {
  HostBatch batch;
  source.loader->fill({samples.data() + i * rows, static_cast<std::size_t>(rows)}, order, batch);
  return batch;
}

// Of the tensors that `ranks` has.
StepOutcome run_reference(const RunSetup& setup, const ParameterSource& parameters, const DataSource& source,
                          const std::vector<std::int64_t>& samples, double rate, const StepOutcome& ranks) {
  const CompileRequest& request = setup.request;
  ReferenceRun reference(request.spec, request.options.meaning, request.batch, setup.sequence);
  reference.set_parameters(parameters, request.options.precision.master());
  std::vector<HostBatch> batches;
  const auto order = contiguous_order(0, static_cast<std::int32_t>(setup.sequence));
  const auto in_order = [&](std::span<const std::int32_t>, std::int32_t) { return std::span(order); };
  for (std::int64_t i = 0; i < setup.parallel.accumulation_steps; ++i)
    batches.push_back(global_batch(source, samples, request.batch, in_order, i));
  StepOutcome outcome;
  outcome.step = reference.accumulate(batches);
  for (const auto& parameter : request.options.meaning.parameters) {
    const std::string name = name_of(StateKey{Role::gradient, parameter.name});
    outcome.gradients[name] = reference.values(name);
  }
  outcome.step.grad_norm = reference.update(1, rate);
  for (Tensors StepOutcome::*member :
       {&StepOutcome::first_moments, &StepOutcome::second_moments, &StepOutcome::parameters})
    for (const auto& [name, values] : ranks.*member) (outcome.*member)[name] = reference.values(name);
  return outcome;
}

// The yardstick of a low precision: the same programs for one rank, in the same dtype, without hooks.
StepOutcome run_alone(Communicator& world, const RunSetup& setup, const ParameterSource& parameters,
                      const DataSource& source, const std::vector<std::int64_t>& samples, double rate) {
  CompileRequest request = setup.request;
  request.dump.clear();
  request.memory_limit = request.host_limit = 0;
  std::vector<MeshAxis> axes = request.mesh.axes();
  for (auto& axis : axes) axis.size = 1;
  request.mesh = Mesh(axes);
  request.sequence = setup.sequence;
  request.options.placement.token_order = TokenOrder::contiguous;
  const CompiledModel model = compile_model(request);
  const auto alone = world.group({world.rank()});
  Session session(*alone, *setup.target, request, model);
  session.set_parameters(parameters);
  return run_programs(session, source, samples, setup.parallel.accumulation_steps, rate, false);
}

// ---- what every rank checks of itself, and all of each other

std::string check_traffic(Session& session, const CompiledModel& model, std::int64_t micro_batches) {
  Traffic predicted;
  const auto add = [&](ProgramKind kind, std::int64_t times) {
    for (const TrafficRow& row : predicted_traffic("", model.program(kind), session.world().rank()))
      for (std::size_t k = 0; k < predicted.rows.size(); ++k) {
        const std::string_view name = name_of(static_cast<Collective>(k));
        if (name != row.collective && !(name == "send_receive" && row.collective == "shift")) continue;
        predicted.rows[k].calls += times * row.calls;
        predicted.rows[k].bytes_sent += times * row.bytes_sent;
      }
  };
  if (!session.counts_on_host()) add(ProgramKind::count, micro_batches);
  for (std::int64_t i = 0; i < micro_batches; ++i) add(accumulate_kind(i, micro_batches), 1);
  add(ProgramKind::update, 1);
  const Traffic sent = session.executor().traffic();
  for (std::size_t k = 0; k < sent.rows.size(); ++k)
    if (sent.rows[k].bytes_sent != predicted.rows[k].bytes_sent || sent.rows[k].calls != predicted.rows[k].calls)
      return fmt::format("{}: sent {} bytes in {} calls, the compiler predicts {} in {}",
                         name_of(static_cast<Collective>(k)), sent.rows[k].bytes_sent, sent.rows[k].calls,
                         predicted.rows[k].bytes_sent, predicted.rows[k].calls);
  return "";
}

// What a planted fault came to, with whether each rank found a place for it.
std::string describe(const Fault& fault, const std::vector<int>& planted) {
  if (std::any_of(planted.begin(), planted.end(), [](int one) { return one != 0; }))
    return fmt::format("the fault {} is planted ({}): what differs, differs on purpose", fault.name, fault.meaning);
  return fmt::format("the fault {} ({}) found no place in this run: nothing is planted", fault.name, fault.meaning);
}

// State that several ranks hold, whole or the same part of it, must have the same bits on all of them, and so must the
// results.
std::vector<std::string> differing_replicas(Session& session, const Mesh& mesh, const StepResult& step) {
  std::vector<std::string> names{"the loss", "the gradient norm", "the count of valid tokens"};
  std::vector<AxisList> shards(names.size());
  std::vector<std::uint64_t> hashes;
  std::vector<std::byte> room;
  for (const double* value : {&step.loss, &step.grad_norm, &step.valid_tokens})
    hashes.push_back(XXH64(value, sizeof *value, 0));
  for (const auto& tensor : session.state()) {
    names.push_back(tensor.name);
    shards.push_back(tensor.shards);
    const auto mine = session.elements(tensor, tensor.begin, tensor.end, room);
    hashes.push_back(XXH64(mine.data(), mine.size(), 0));
  }
  Communicator& world = session.world();
  const std::vector<std::uint64_t> all = all_gather(world, hashes);
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < names.size(); ++i)
    for (int rank = 1; rank < world.size(); ++rank) {
      int first = 0;  // rank that holds the same part
      while (mesh.index(shards[i], first) != mesh.index(shards[i], rank)) ++first;
      const auto hash = [&](int of) { return all[static_cast<std::size_t>(of) * hashes.size() + i]; };
      if (hash(rank) == hash(first)) continue;
      problems.push_back(fmt::format("{} on rank {} is not what it is on rank {}", names[i], rank, first));
      break;
    }
  return problems;
}

HostTensor integers(const std::vector<std::int32_t>& values, std::int64_t rows) {
  HostTensor tensor(TensorType{{rows, static_cast<std::int64_t>(values.size()) / rows}, DType::int32});
  std::memcpy(tensor.data(), values.data(), tensor.bytes.size());
  return tensor;
}

}  // namespace

VerificationReport verify_run(Communicator& world, const Experiment& experiment, const VerificationOptions& options) {
  RunSetup setup = prepare_agreed_run(world, experiment), large;
  tokenize_texts(world, setup);
  phase(world, [&] {
    if (!options.shrink) require_data_files(experiment);
    if (options.shrink) {
      large = std::move(setup);
      setup = shrink_run(large, world.size(), large.hosts);
    }
  });
  for (const auto& decision : setup.decisions) log_info("{}", decision);
  if (options.shrink) return verify_run(world, setup, options, [&] { return open_shrunk_source(large, setup); });
  return verify_run(world, setup, options);
}

VerificationReport verify_run(Communicator& world, const RunSetup& setup, const VerificationOptions& options,
                              const std::function<DataSource()>& open) {
  const bool first = world.rank() == 0;
  const bool exact = setup.request.options.precision.dtype == DType::float64;
  const std::int64_t micro_batches = setup.parallel.accumulation_steps;
  const double rate = learning_rate(setup.experiment, 1);
  const Fault* fault = nullptr;
  FaultHooks hooks;
  DataSource source;
  CompiledModel model;
  ParameterSource parameters;
  std::vector<std::int64_t> samples(static_cast<std::size_t>(setup.parallel.global_batch_size));
  phase(world, [&] {
    fault = find_fault(options.fault);
    hooks = fault_hooks(fault);
    if (!options.force) refuse_unreasonable(setup);
    source = open ? open() : open_training(world, setup);
    parameters = first_parameters(setup);
    model = compile_model(setup.request, hooks.compile);
  });
  if (!open) check_files(world, setup);
  std::vector<SourceCursor> cursors;
  source.take(cursors, samples);

  if (const std::string libraries = choose_libraries(world, setup, model, "", ""); !libraries.empty())
    log_info("{}", libraries);
  Session session(world, *setup.target, setup.request, model, hooks.after_load);
  phase(world, [&] { session.set_parameters(parameters); });
  session.executor().reset_traffic();
  const StepOutcome ranks = run_programs(session, source, samples, micro_batches, rate, exact);

  VerificationReport report;
  if (fault) report.notes.push_back(describe(*fault, all_gather(world, static_cast<int>(*hooks.planted))));
  if (!exact && setup.experiment.optimizer.name == OptimizerKind::muon)
    report.notes.push_back(
        "updates of muon are held to the reference in training.dtype float64 alone (on CPUs); here gradients and "
        "moments are");
  report.problems = differing_replicas(session, setup.request.mesh, ranks.step);
  std::string mine = check_traffic(session, model, micro_batches);
  if (mine.empty() && session.executor().arena_bytes() != model.arena_bytes)
    mine = fmt::format("{} bytes are allocated, {} were planned", session.executor().arena_bytes(), model.arena_bytes);
  if (mine.empty() && session.executor().host_arena_bytes() != model.host_bytes)
    mine = fmt::format("{} bytes of host memory are allocated, {} were planned", session.executor().host_arena_bytes(),
                       model.host_bytes);
  const auto all = gather_texts(world, mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty()) report.problems.push_back(fmt::format("rank {}: {}", rank, all[rank]));

  if (first) {
    if (const std::string text = describe_imbalance(setup, *source.loader, samples); !text.empty())
      report.notes.push_back("attention, " + text);
    const StepOutcome reference = run_reference(setup, parameters, source, samples, rate, ranks);
    std::optional<StepOutcome> alone;
    if (!exact) alone = run_alone(world, setup, parameters, source, samples, rate);
    compare(setup.request, ranks, reference, alone ? &*alone : nullptr, report);
  }
  report.differs = broadcast(world, report.differs);
  if (report.differs && options.locate) {
    session.set_parameters(parameters);
    report.location = locate_difference(
        session, setup.request, hooks.compile.after_pass, model, micro_batches,
        [&](std::int64_t i) { source.fill(session, samples, i); },
        [&](std::int64_t i) {
          const std::int64_t rows = setup.request.batch;
          // As the ranks' buffers lie, laid together.
          const auto order = [&](std::span<const std::int32_t> starts, std::int32_t length) {
            return session.placement().whole_order(starts, length);
          };
          const HostBatch batch = global_batch(source, samples, rows, order, i);
          std::map<std::string, HostTensor> fields;
          for (const BatchField& field : batch_fields)
            fields[std::string(field.name)] = integers(batch.*field.values, rows);
          return fields;
        });
  }
  return report;
}

}  // namespace longhaul
