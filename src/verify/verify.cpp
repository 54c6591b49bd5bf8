#include "verify/verify.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/schedule.h"
#include "model/flops.h"
#include "model/parameters.h"
#include "run/attention_balance.h"
#include "run/source.h"
#include "verify/compare.h"
#include "verify/locate.h"
#include "verify/reference_run.h"
#include "verify/shrink.h"

namespace longhaul {
namespace {

// The outcome of one step, as comparable numbers: "loss", "grad_norm", gradients, and parameters in float64.
struct Outcome {
  StepResult step;
  Tensors gradients, parameters;
};

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

Outcome run_programs(Session& session, const DataSource& source, const std::vector<std::int64_t>& samples,
                     std::int64_t micro_batches, double rate, bool parameters) {
  Outcome outcome;
  outcome.step = session.accumulate(micro_batches, [&](std::int64_t i) { source.fill(session, samples, i); });
  for (const auto& tensor : session.state())
    if (tensor.key.role == Role::gradient) outcome.gradients[tensor.name] = session.gather(tensor);
  outcome.step.grad_norm = session.update(1, rate);
  if (parameters)
    for (const auto& tensor : session.state())
      if (tensor.key.role == Role::parameter) outcome.parameters[tensor.name] = session.gather(tensor);
  return outcome;
}

// Micro-batch i of the whole model, the tokens of each sequence in the order given (beyond S: padding).
GlobalBatch global_batch(const DataSource& source, const std::vector<std::int64_t>& samples, std::int64_t rows,
                         const RowOrder& order, std::int64_t slots, std::int64_t i) {
  GlobalBatch batch;
  const std::size_t size = static_cast<std::size_t>(rows * slots);
  for (auto* list : {&batch.tokens, &batch.labels, &batch.index, &batch.key_start, &batch.position}) list->resize(size);
  source.loader->fill(
      {samples.data() + i * rows, static_cast<std::size_t>(rows)}, order,
      {batch.tokens.data(), batch.labels.data(), batch.index.data(), batch.key_start.data(), batch.position.data()});
  return batch;
}

Outcome run_reference(const RunSetup& setup, const ParameterSource& parameters, const DataSource& source,
                      const std::vector<std::int64_t>& samples, double rate, bool with_parameters) {
  const CompileRequest& request = setup.request;
  ReferenceRun reference(request.spec, request.options.meaning, request.batch, setup.sequence);
  reference.set_parameters(parameters, request.options.precision.master());
  std::vector<GlobalBatch> batches;
  const auto order = contiguous_order(0, static_cast<std::int32_t>(setup.sequence));
  const auto in_order = [&](std::span<const std::int32_t>, std::int32_t) { return std::span(order); };
  for (std::int64_t i = 0; i < setup.parallel.accumulation_steps; ++i)
    batches.push_back(global_batch(source, samples, request.batch, in_order, setup.sequence, i));
  Outcome outcome;
  outcome.step = reference.accumulate(batches);
  for (const auto& parameter : request.options.meaning.parameters) {
    const std::string name = name_of(StateKey{Role::gradient, parameter.name});
    outcome.gradients[name] = reference.values(name);
  }
  outcome.step.grad_norm = reference.update(1, rate);
  if (with_parameters)
    for (const auto& parameter : longhaul::parameters(request.spec))
      outcome.parameters[parameter.name] = reference.values(parameter.name);
  return outcome;
}

// The yardstick of a low precision: the same programs for one rank, in the same dtype, without a planted fault.
Outcome run_alone(Communicator& world, const RunSetup& setup, const ParameterSource& parameters,
                  const DataSource& source, const std::vector<std::int64_t>& samples, double rate) {
  CompileRequest request = setup.request;
  request.options.fault.clear();
  request.dump.clear();
  request.memory_limit = 0;
  std::vector<MeshAxis> axes = request.mesh.axes();
  for (auto& axis : axes) axis.size = 1;
  request.mesh = Mesh(axes);
  request.sequence = setup.sequence;
  request.options.placement.token_order = TokenOrder::contiguous;
  const CompiledModel model = compile_model(request);
  const auto alone = world.group({world.rank()});
  Session session(*alone, request, model);
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
  add(ProgramKind::count, micro_batches);
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

// State that several ranks hold, whole or the same part of it, must have the same bits on all of them, and so must the
// results.
std::vector<std::string> differing_replicas(Session& session, const Mesh& mesh, const StepResult& step) {
  std::vector<std::string> names{"the loss", "the gradient norm", "the count of valid tokens"};
  std::vector<AxisList> shards(names.size());
  std::vector<std::uint64_t> hashes;
  for (const double* value : {&step.loss, &step.grad_norm, &step.valid_tokens})
    hashes.push_back(XXH64(value, sizeof *value, 0));
  for (const auto& tensor : session.state()) {
    names.push_back(tensor.name);
    shards.push_back(tensor.shards);
    hashes.push_back(
        XXH64(tensor.data, static_cast<std::size_t>(tensor.end - tensor.begin) * size_of(tensor.dtype), 0));
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

// ---- the comparison

void compare(const RunSetup& setup, const Outcome& ranks, const Outcome& reference, const Outcome* alone,
             VerificationReport& report) {
  const Precision& precision = setup.request.options.precision;
  // Gradients are rounded to their own dtypes too; that of the reduction one rank alone never sees, and groups reduce
  // twice.
  const StateAxes axes = state_axes(setup.request.mesh, setup.request.options.placement);
  const double roundoff = unit_roundoff(precision.dtype),
               accumulated = std::max(roundoff, unit_roundoff(precision.gradient)),
               reductions = axes.shards.empty() || axes.replicas.empty() ? 1 : 2,
               reduced = std::max(accumulated, reductions * unit_roundoff(precision.gradient_reduce));
  double squares = 0;
  for (const auto& [name, wanted] : reference.gradients) squares += norm(wanted) * norm(wanted);
  const double whole = std::sqrt(squares);
  std::optional<LowPrecisionLimits> low;
  if (alone) low.emplace(alone->gradients, reference.gradients, reduced);
  const auto number = [&](const char* name, double StepResult::*member, double rounding) {
    const double wanted = reference.step.*member;
    const double limit =
        low ? low->of_number(relative_error(alone->step.*member, wanted), rounding) : tolerance::float64;
    report.rows.push_back({name, relative_error(ranks.step.*member, wanted), limit, std::abs(wanted)});
  };
  number("loss", &StepResult::loss, roundoff);
  number("grad_norm", &StepResult::grad_norm, reduced);
  for (const auto& [name, error] : tensor_errors(ranks.gradients, reference.gradients))
    report.rows.push_back(
        {name, error, low ? low->of_tensor(name) : tolerance::float64, norm(reference.gradients.at(name))});
  if (!reference.parameters.empty())  // of float64 runs only
    for (const auto& [name, error] : parameter_errors(ranks.parameters, reference.parameters, reference.gradients))
      report.rows.push_back({name, error, tolerance::float64, norm(reference.parameters.at(name))});
  std::stable_sort(report.rows.begin(), report.rows.end(), [](const VerificationRow& a, const VerificationRow& b) {
    return a.error / a.limit > b.error / b.limit;
  });

  std::string zero;
  for (const auto& [name, wanted] : reference.gradients)
    if (norm(wanted) <= 1e-12 * whole) zero += (zero.empty() ? "" : ", ") + name;
  if (squares == 0)
    report.problems.push_back(
        "every reference gradient is zero, so nothing was compared; does the batch hold a label?");
  else if (!zero.empty())
    report.notes.push_back("reference gradients that are zero, of which the comparison says little: " + zero);
  if (low) {
    const double error = low->whole();
    const double most = tolerance::one_rank_roundoffs * accumulated;
    report.notes.push_back(
        fmt::format("{}: limits are twice the error of one rank of that dtype, a tensor's at least twice that of the "
                    "whole gradient ({:.3g}), all at least twice one rounding ({:.3g})",
                    name_of(precision.dtype), error, reduced));
    if (!(error <= most))
      report.problems.push_back(
          fmt::format("one rank of {} is itself off by {:.3g} of the whole gradient, more than {:.3g}: a defect that "
                      "all ranks share",
                      name_of(precision.dtype), error, most));
  }
  if (ranks.step.valid_tokens != reference.step.valid_tokens)
    report.problems.push_back(fmt::format("the ranks count {} valid tokens, the specification {}",
                                          ranks.step.valid_tokens, reference.step.valid_tokens));
}

HostTensor integers(const std::vector<std::int32_t>& values, std::int64_t rows) {
  HostTensor tensor(TensorType{{rows, static_cast<std::int64_t>(values.size()) / rows}, DType::int32});
  std::memcpy(tensor.data(), values.data(), tensor.bytes.size());
  return tensor;
}

}  // namespace

std::string VerificationReport::text() const {
  constexpr std::size_t shown = 20, most = 100;
  std::string text = fmt::format("  {:44} {:>12} {:>12} {:>14}\n", "worst first", "error", "limit", "reference norm");
  std::size_t beyond = 0, tensors = 0;
  for (const auto& row : rows) beyond += !row.holds();
  for (const auto& row : rows) {
    const bool number = row.name == "loss" || row.name == "grad_norm";
    if (!number && ++tensors > std::max(shown, std::min(beyond, most))) continue;
    text += fmt::format("{} {:44} {:12.3e} {:12.3e} {:14.6e}\n", row.holds() ? " " : "!", row.name, row.error,
                        row.limit, row.norm);
  }
  if (tensors > shown) text += fmt::format("  ({} rows in all)\n", rows.size());
  for (const auto& note : notes) text += "note: " + note + "\n";
  for (const auto& problem : problems) text += "differs: " + problem + "\n";
  for (const auto& place : location) text += "located: " + place + "\n";
  text += differs ? fmt::format("NOT verified: {} of {} rows are beyond their limit{}\n", beyond, rows.size(),
                                problems.empty() ? "" : fmt::format(", and {} other problem(s)", problems.size()))
                  : fmt::format("verified: {} rows within their limits\n", rows.size());
  return text;
}

VerificationReport verify_run(Communicator& world, const Experiment& experiment, const VerificationOptions& options) {
  RunSetup setup, large;
  const Hosts hosts = find_hosts(world);
  phase(world, [&] {
    if (!options.shrink) require_data_files(experiment);
    setup = prepare_run(experiment, world.size(), hosts);
    if (options.shrink) {
      large = std::move(setup);
      setup = shrink_run(large, world.size(), hosts);
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
  DataSource source;
  CompiledModel model;
  ParameterSource parameters;
  std::vector<std::int64_t> samples(static_cast<std::size_t>(setup.parallel.global_batch_size));
  phase(world, [&] {
    if (!options.force) refuse_unreasonable(setup);
    source = open ? open() : open_source(world, setup, setup.experiment.data.files, true);
    parameters = first_parameters(setup);
    model = compile_model(setup.request);
  });
  DataCursor cursor;
  source.sampler->take(cursor, samples);

  Session session(world, setup.request, model);
  phase(world, [&] { session.set_parameters(parameters); });
  session.executor().reset_traffic();
  const Outcome ranks = run_programs(session, source, samples, micro_batches, rate, exact);

  VerificationReport report;
  report.problems = differing_replicas(session, setup.request.mesh, ranks.step);
  std::string mine = check_traffic(session, model, micro_batches);
  if (mine.empty() && static_cast<std::int64_t>(session.executor().arena_bytes()) != model.arena_bytes)
    mine = fmt::format("{} bytes are allocated, {} were planned", session.executor().arena_bytes(), model.arena_bytes);
  const auto all = gather_texts(world, mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty()) report.problems.push_back(fmt::format("rank {}: {}", rank, all[rank]));

  if (first) {
    if (const std::string text = describe_imbalance(setup, *source.loader, samples); !text.empty())
      report.notes.push_back("attention, " + text);
    const Outcome reference = run_reference(setup, parameters, source, samples, rate, exact);
    if (exact)
      compare(setup, ranks, reference, nullptr, report);
    else {
      const Outcome alone = run_alone(world, setup, parameters, source, samples, rate);
      compare(setup, ranks, reference, &alone, report);
    }
    report.differs = !report.problems.empty() ||
                     std::any_of(report.rows.begin(), report.rows.end(), [](const auto& row) { return !row.holds(); });
  }
  report.differs = broadcast(world, report.differs);
  if (report.differs && options.locate) {
    session.set_parameters(parameters);
    report.location = locate_difference(
        session, setup.request, model, micro_batches, [&](std::int64_t i) { source.fill(session, samples, i); },
        [&](std::int64_t i) {
          const std::int64_t rows = setup.request.batch;
          // As the ranks' buffers lie, laid together.
          const auto order = [&](std::span<const std::int32_t> starts, std::int32_t length) {
            return session.placement().whole_order(starts, length);
          };
          const GlobalBatch batch = global_batch(source, samples, rows, order, setup.request.sequence, i);
          return std::map<std::string, HostTensor>{{"tokens", integers(batch.tokens, rows)},
                                                   {"labels", integers(batch.labels, rows)},
                                                   {"index", integers(batch.index, rows)},
                                                   {"key_start", integers(batch.key_start, rows)},
                                                   {"position", integers(batch.position, rows)}};
        });
  }
  return report;
}

}  // namespace longhaul
