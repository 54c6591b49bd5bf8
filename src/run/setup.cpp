#include "run/setup.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/environment.h"
#include "base/error.h"
#include "base/host.h"
#include "comm/delay/delay_communicator.h"
#include "comm/exchange.h"
#include "cost/op_cost.h"
#include "model/parameters.h"
#include "model/rope.h"
#include "plan/mesh.h"
#include "plan/token_placement.h"
#include "run/activation_choice.h"
#include "run/model_overrides.h"
#include "run/overlap_choice.h"
#include "run/target.h"

namespace longhaul {
namespace {

// Of a GPU: 600 TFLOP/s beside a link of 25 GB/s, while all devices of a host copy.
constexpr double device_flops_per_host_byte = 24000, device_host_bandwidth = 25e9;

constexpr double gib = 1 << 30;

constexpr std::int64_t all_values = std::numeric_limits<std::int32_t>::max();

// What a rank may take of its host's memory for values that move there.
std::int64_t host_limit(const Experiment& experiment, const Hosts& hosts) {
  return experiment.device.host_memory ? static_cast<std::int64_t>(*experiment.device.host_memory * gib) : hosts.memory;
}

std::int64_t share_of_host(int ranks) {
  return host_memory() / 4 * 3 / std::max(1, ranks);
}

Meaning meaning_of(const Experiment& experiment, const TransformerSpec& spec) {
  Meaning meaning;
  meaning.logits_scale = spec.logits_scale;
  meaning.logits_soft_cap = spec.logits_soft_cap;
  for (const auto& parameter : parameters(spec))
    if (!is_frozen(experiment, parameter.name))
      meaning.parameters.push_back(
          {parameter.name, parameter.shape, decays(experiment, parameter.name), matrix_rows(parameter)});
  const auto& optimizer = experiment.optimizer;
  meaning.optimizer = {.kind = optimizer.name,
                       .max_norm = experiment.training.max_norm,
                       .beta1 = optimizer.betas[0],
                       .beta2 = optimizer.betas[1],
                       .epsilon = optimizer.eps,
                       .weight_decay = optimizer.weight_decay,
                       .momentum = momentum_of(experiment),
                       .nesterov = optimizer.nesterov};
  return meaning;
}

Precision precision_of(const Experiment& experiment) {
  return {.dtype = experiment.training.dtype,
          .gradient = gradient_dtype_of(experiment),
          .gradient_reduce = gradient_reduce_dtype_of(experiment),
          .moment = state_dtype_of(experiment)};
}

const char* limit_key(const RunSetup& setup) {
  return setup.experiment.device.memory || !setup.profile ? "device.memory" : "device.profile";
}

// Prices of ops on the machine that the run is for.
void price_ops(RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  if (experiment.device.profile.empty()) return;
  const auto profile = std::make_shared<MachineProfile>(read_profile(experiment.device.profile));
  if (const auto delay = link_delay(); delay && experiment.device.type == DeviceType::cpu) {
    profile->host = {delay->latency, delay->bandwidth, delay->bandwidth, "LONGHAUL_DELAY"};
    if (profile->network) profile->network = profile->host;
  }
  MachineUse use;
  use.ranks_per_host = setup.hosts.neighbours;
  if (setup.parallel.outer() > 1) {
    TokenPlacement placement(setup.request.mesh, setup.request.options.placement, setup.request.sequence,
                             attention_layers(setup.model.spec));
    const std::vector<std::int32_t> one_document{0};
    const AttentionShares shares =
        placement.shares(one_document, static_cast<std::int32_t>(std::min<std::int64_t>(setup.sequence, INT32_MAX)));
    use.attention_share = std::max(1.0, shares.path() / shares.mean());
  }
  setup.profile = profile;
  // The model lives as long as the schedule that asks it, and the profile as long as the model.
  setup.costs = std::shared_ptr<const CostModel>(new CostModel(*profile, use),
                                                 [profile](const CostModel* model) { delete model; });
  setup.request.options.schedule.seconds = [costs = setup.costs](const Graph& graph, const Op& op) {
    return costs->cost(graph, op).seconds;
  };
  if (setup.request.host_limit && !experiment.device.host_memory)
    setup.request.host_limit = profile->host_memory / profile->ranks_per_host;
  // Where there is no link between two memories a copy reads and writes one.
  setup.request.options.schedule.seconds_per_host_byte = 1 / std::min(device_host_bandwidth, profile->bandwidth / 2);
  setup.decisions.push_back(fmt::format("device.profile: {} ({})", profile->name, profile->about));
}

// What keep_gathered becomes, and the limit on the plan.
void resolve_memory(RunSetup& setup, const Hosts& hosts) {
  const Experiment& experiment = setup.experiment;
  CompileRequest& request = setup.request;
  if (experiment.parallelism.keep_gathered) return;
  if (!setup.parallel.can_share_gathers()) return;
  const std::int64_t limit = request.memory_limit ? request.memory_limit : hosts.memory;
  CompileRequest kept = request;
  kept.options.schedule.keep_gathered = KeepGathered::step;
  kept.memory_limit = kept.host_limit = 0;
  kept.dump.clear();
  const std::int64_t bytes = compile_model(kept).arena_bytes;
  if (bytes <= limit) request.options.schedule.keep_gathered = KeepGathered::step;
  setup.decisions.push_back(fmt::format(
      "parallelism.keep_gathered auto: {}; gathering parameters once a step takes {:.3f} GiB a rank, {} the {:.3f} GiB "
      "of {}",
      bytes <= limit ? "step" : "never", static_cast<double>(bytes) / gib, bytes <= limit ? "within" : "more than",
      static_cast<double>(limit) / gib,
      request.memory_limit ? limit_key(setup)
      : hosts.elsewhere ? "its share of THIS machine, for want of the other's: set device.memory to a rank's GiB there"
                        : "its share of the host (set device.memory to decide otherwise)"));
}

// activation_memory.mode auto under a limit: what each layer makes again, and what waits in host memory.
void resolve_activations(RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  CompileRequest& request = setup.request;
  const auto budget = experiment.activation_memory.budget;
  if (experiment.activation_memory.mode != ActivationMode::automatic || (!budget && !request.memory_limit)) return;
  setup.activations = std::make_shared<ActivationChoice>(request);
  // Bytes of the arena; what is kept between programs does not depend on the plan.
  const std::int64_t named = setup.activations->kept_between_programs();
  const auto [limit, limited_by] = activation_limit(setup);
  auto chosen = setup.activations->within(limit);
  if (!chosen && experiment.activation_memory.offload == OffloadMode::automatic && setup.target->has_own_memory()) {
    request.options.schedule.offload_values = all_values;
    setup.activations = std::make_shared<ActivationChoice>(request);
    chosen = setup.activations->within(limit);
  }
  ActivationChoice& choice = *setup.activations;
  const bool offloads = choice.offloads();
  if (!chosen) {
    CompileRequest tried = request;
    tried.memory_limit = tried.host_limit = 0;
    tried.dump.clear();
    choice.apply(choice.least(), tried);
    const CompiledModel model = compile_model(tried);
    fail(
        "{} leaves a rank {} bytes for activations, beside {} kept between programs; with all made again that can "
        "be{}, "
        "this run needs {}: set {}device.memory to {:.6f} (GiB) or more, lower "
        "training.micro_batch_size or training.seq_len, or use more ranks{}\n{}",
        limited_by, std::max<std::int64_t>(0, limit - named), named,
        offloads ? fmt::format(", and all moved that the {} bytes of host memory hold", request.host_limit) : "",
        model.arena_bytes - named,
        experiment.activation_memory.budget
            ? fmt::format("activation_memory.budget to {} or more, ", model.arena_bytes - named)
            : "",
        std::ceil(static_cast<double>(model.arena_bytes) / (1 << 30) * 1e6) / 1e6,
        offloads ? "; device.host_memory says how much of its host's memory a rank may have" : "", memory_table(model));
  }
  choice.apply_within(limit, *chosen, request);
  const std::int64_t values = request.options.schedule.offload_values;
  setup.decisions.push_back(fmt::format(
      "activation_memory: {} bytes for activations, within the {} that {} leaves; keeping all takes {}. "
      "Steps made again, of those there are: {}{}",
      (offloads ? choice.memory(*chosen, values).arena_bytes : choice.bytes(*chosen)) - named, limit - named,
      limited_by, (offloads ? choice.memory(0, 0).arena_bytes : choice.bytes(0)) - named, choice.describe(*chosen),
      offloads
          ? fmt::format("; {} values in host memory, {} bytes of it", values, choice.memory(*chosen, values).host_bytes)
          : ""));
}

// What is left to train. A pattern that names nothing was meant for something.
std::string describe_frozen(const Experiment& experiment, const TransformerSpec& spec) {
  const std::vector<Parameter> all = parameters(spec);
  for (const std::string& pattern : experiment.training.frozen)
    if (std::none_of(all.begin(), all.end(), [&](const Parameter& one) { return matches_pattern(pattern, one.name); }))
      fail(
          "training.frozen holds \"{}\", which no parameter of the model matches; names are like {} or {} (longhaul "
          "inspect lists them)",
          pattern, all.front().name, all[all.size() / 2].name);
  std::int64_t tensors = 0, elements = 0;
  for (const Parameter& one : all)
    if (is_frozen(experiment, one.name)) {
      ++tensors;
      elements += one.elements();
    }
  if (tensors == static_cast<std::int64_t>(all.size()))
    fail("training.frozen is {}, which matches every parameter: nothing would be trained",
         value_of(experiment, "training.frozen"));
  return fmt::format("training.frozen: {} of {} parameters ({} of {} numbers) are not trained", tensors, all.size(),
                     elements, parameter_count(spec));
}

// Before anything is planned in 64 bits: an upper bound of a rank's bytes, far beyond any machine. What is smaller is
// told by the memory plan.
void refuse_impossible_sizes(const TransformerSpec& spec, double batch, double sequence) {
  double elements = 3 * static_cast<double>(parameter_count(spec)), width = 0;
  for (const LayerSpec* layer : spec.each_layer())
    width += 16 * (static_cast<double>(spec.hidden_size) + static_cast<double>(layer->mlp.size) +
                   static_cast<double>(layer->attention.heads * layer->attention.head_dim));
  elements += batch * sequence * (width + static_cast<double>(spec.vocabulary));
  constexpr double limit = 0x1p58;  // 8 bytes each, and room for what is added to them
  if (elements > limit)
    fail(
        "the model and a micro-batch ({:.0f} sequences of {:.0f} tokens, over all ranks) make more than 2^58 numbers, "
        "which "
        "no machine holds; check training.micro_batch_size, training.seq_len, parallelism and the model's sizes",
        batch, sequence);
}

}  // namespace

Hosts Hosts::one(int ranks) {
  return {ranks, ranks, share_of_host(ranks), 0, false};
}

Hosts Hosts::one(int ranks, const Experiment& experiment) {
  Hosts hosts = one(ranks);
  hosts.device_memory = longhaul::device_memory(experiment);
  return hosts;
}

Hosts Hosts::target(int ranks_here) {
  return {ranks_here, ranks_here, share_of_host(ranks_here), 0, true};
}

Hosts find_hosts(Communicator& world) {
  const std::vector<std::string> names = gather_texts(world, host_name());  // ranks without a name: as of one host
  const auto same = [&](int a, int b) {
    return names[static_cast<std::size_t>(a)] == names[static_cast<std::size_t>(b)];
  };
  Hosts hosts{0, world.size(), 0, 0, false};
  for (int rank = 0; rank < world.size(); ++rank) hosts.ranks_here += same(rank, world.rank());
  // A run may end where the host changes, and nowhere else: the runs' length divides each such place.
  for (int rank = 1; rank < world.size(); ++rank)
    if (!same(rank, rank - 1)) hosts.neighbours = std::gcd(hosts.neighbours, rank);
  // All ranks compile the same: they count on what the poorest of them has.
  const std::int64_t memory = share_of_host(hosts.ranks_here);
  const std::vector<std::int64_t> shares = all_gather(world, memory);
  hosts.memory = *std::min_element(shares.begin(), shares.end());
  return hosts;
}

std::vector<AttentionLayer> attention_layers(const TransformerSpec& spec) {
  std::vector<AttentionLayer> layers;
  for (const LayerSpec* layer : spec.each_layer())
    layers.push_back({layer->attention.heads, layer->attention.window, layer->attention.head_dim});
  return layers;
}

RunSetup prepare_run(const Experiment& experiment, int world, const Hosts& hosts, Purpose purpose) {
  return prepare_run(experiment, experiment_model(experiment), world, hosts, purpose);
}

std::pair<std::int64_t, std::string> activation_limit(const RunSetup& setup) {
  const std::int64_t named = setup.activations->kept_between_programs();
  const std::int64_t memory = setup.request.memory_limit;
  std::int64_t limit = memory ? memory : std::numeric_limits<std::int64_t>::max();
  std::string limited_by = limit_key(setup);
  if (const auto budget = setup.experiment.activation_memory.budget) {
    const double share =
        *budget <= 1 ? *budget * static_cast<double>(std::max<std::int64_t>(0, limit - named)) : *budget;
    const auto bytes = static_cast<std::int64_t>(std::min(share, 0x1p60));
    if (bytes < limit - named) {
      limit = named + bytes;
      limited_by = "activation_memory.budget";
    }
  }
  return {limit, limited_by};
}

RunSetup prepare_run(const Experiment& experiment, const LoadedModel& model, int world, const Hosts& hosts,
                     Purpose purpose) {
  RunSetup setup = place_run(experiment, model, world, hosts, purpose);
  resolve_memory(setup, hosts);
  if (purpose == Purpose::train) resolve_activations(setup);
  resolve_overlap(setup);
  if (setup.target->options().reference_only)
    setup.decisions.push_back("LONGHAUL_KERNELS=reference: every op runs the plain-loop reference kernel");
  return setup;
}

RunSetup place_run(const Experiment& experiment, const LoadedModel& model, int world, const Hosts& hosts,
                   Purpose purpose) {
  RunSetup setup;
  setup.experiment = experiment;
  setup.target = make_target(experiment, hosts.ranks_here);
  setup.hosts = hosts;
  setup.tokens_folder = experiment.job.folder / "tokens";
  setup.model = model;
  const TransformerSpec& spec = setup.model.spec;
  setup.decisions = setup.model.notes;
  setup.parallel = resolve_parallelism(experiment, world, hosts.neighbours, attention_layers(spec));
  for (const auto& decision : setup.parallel.decisions) setup.decisions.push_back(decision);

  CompileRequest& request = setup.request;
  request.spec = at_length(spec, experiment.training.seq_len);
  request.mesh = place_ranks(setup.parallel, request.options.placement);
  request.batch = experiment.training.micro_batch_size * setup.parallel.data;
  setup.sequence = experiment.training.seq_len;
  request.sequence = padded_sequence(setup.parallel, setup.sequence);
  refuse_impossible_sizes(spec, static_cast<double>(request.batch), static_cast<double>(request.sequence));
  request.kinds = purpose == Purpose::evaluate ? std::vector{ProgramKind::evaluate}
                                               : step_kinds(setup.parallel.accumulation_steps, validates(experiment));
  request.scratch = [target = setup.target](const Graph& graph, const Op& op) {
    return target->scratch_bytes(graph, op);
  };
  request.dump = environment("LONGHAUL_DUMP");

  CompileOptions& options = request.options;
  options.meaning = meaning_of(experiment, spec);
  options.meaning.evaluated_token_losses = true;
  options.meaning.trained_token_losses = !experiment.data.sources.empty();
  options.precision = precision_of(experiment);
  options.schedule.bucket_size = experiment.parallelism.bucket_size;
  options.schedule.activations = experiment.activation_memory.mode;
  if (setup.target->has_own_memory()) options.schedule.flops_per_host_byte = device_flops_per_host_byte;
  if (experiment.activation_memory.offload == OffloadMode::on) options.schedule.offload_values = all_values;
  if (experiment.activation_memory.offload != OffloadMode::off) request.host_limit = host_limit(experiment, hosts);

  if (!experiment.training.frozen.empty()) setup.decisions.push_back(describe_frozen(experiment, spec));
  if (spec.learned_positions && setup.sequence > spec.max_positions)
    fail("training.seq_len is {}, but {} has a table of {} learned positions; use at most that", setup.sequence,
         setup.model.file.string(), spec.max_positions);
  if (!spec.learned_positions && spec.max_positions > 0 && setup.sequence > spec.max_positions)
    setup.decisions.push_back(
        fmt::format("training.seq_len {} is beyond the {} positions that the model was made for; RoPE extrapolates",
                    setup.sequence, spec.max_positions));
  if (std::any_of(spec.layers.begin(), spec.layers.end(), [](const LayerGroup& group) {
        return group.layer.rope.kind == RopeKind::dynamic || group.layer.rope.kind == RopeKind::longrope;
      }))
    setup.decisions.push_back(fmt::format(
        "RoPE depends on the length of sequences (dynamic, longrope): it is that of training.seq_len, {} tokens",
        setup.sequence));
  setup.decisions.push_back(fmt::format("parallelism: {}; {} micro-batches of {} sequences a step; {} threads a rank",
                                        describe(setup.parallel), setup.parallel.accumulation_steps, request.batch,
                                        setup.target->options().threads));
  if (request.sequence != setup.sequence)
    setup.decisions.push_back(
        fmt::format("sequences of {} tokens are padded to {} with ignored tokens, so that they divide over {} ranks",
                    setup.sequence, request.sequence, setup.parallel.sequence()));
  price_ops(setup);
  if (const auto asked = experiment.parallelism.keep_gathered) options.schedule.keep_gathered = *asked;
  if (experiment.device.memory) {
    request.memory_limit = static_cast<std::int64_t>(*experiment.device.memory * gib);
  } else if (setup.profile) {
    request.memory_limit = setup.profile->device_memory;
  } else if (hosts.device_memory) {
    request.memory_limit = hosts.device_memory / 10 * 9;
    setup.decisions.push_back(fmt::format("device.memory auto: {:.3f} GiB, nine tenths of a device's {:.3f}",
                                          static_cast<double>(request.memory_limit) / gib,
                                          static_cast<double>(hosts.device_memory) / gib));
  } else if (experiment.device.type == DeviceType::cuda) {
    setup.decisions.push_back(
        "device.memory auto: no device is here, so no plan is refused; set it, or device.profile");
  }
  if (const std::string about = setup.target->about(world); !about.empty()) setup.decisions.push_back(about);
  if (experiment.device.collectives == DataPlaneKind::push && hosts.neighbours < world)
    fail(
        "device.collectives is push: devices reach each other's memory within a machine, and of {} ranks {} in a row "
        "share one; set it to nccl or staged",
        world, hosts.neighbours);
  return setup;
}

}  // namespace longhaul
