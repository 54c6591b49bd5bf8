#include "verify/faults.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "ir/memory_plan.h"
#include "ir/rewrite.h"
#include "verify/fault_places.h"

namespace longhaul {

using namespace fault;

namespace {

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

// Behind every op that `wants` it, an op that `make` gives for its first result, for all that come after.
template <typename Wants, typename Make>
bool plant_behind(Graph& graph, Wants&& wants, Make&& make) {
  Builder builder(graph, "fault");
  builder.place_results(true);
  return insert_behind(
             builder, [&](const Op& op, ValueId result) { return result == op.results[0] && wants(op); },
             [&](ValueId result) { return make(builder, result); }) > 0;
}

bool is_reduction(const Op& op) {
  return op.is("all_reduce") || op.is("reduce_scatter");
}

// Becomes a copy of its own operand (of this rank's part of it): a reduction that adds nothing.
void make_local(Op& op) {
  if (op.is("all_reduce")) op.attributes = {{"axes", AxisList()}};
  op.definition = find_op("slice");
}

// ---- of the specification

bool scales_logits(Graph& graph, const PassContext&) {
  Op* loss = first_op(graph, [](const Op& op) { return op.is("cross_entropy") || op.is("cross_entropy_tokens"); });
  if (loss) loss->attributes.set("logits_scale", 1.01 * loss->attributes.number("logits_scale", 1));
  return loss != nullptr;
}

bool loses_a_contribution(Graph& graph, const PassContext&) {
  Op* sum = first_op(graph, [](const Op& op) { return op.is("add") && op.phase == Phase::backward; });
  if (sum) sum->operands.back() = sum->operands.front();
  return sum != nullptr;
}

// ---- of placement

bool rounds_an_activation(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  const DType high = context.options.precision.dtype, low = high == DType::float64 ? DType::float32 : DType::bfloat16;
  if (high == low) return false;
  return plant_behind(
      graph, [](const Op& op) { return op.is("einsum") && op.phase == Phase::forward; },
      [&](Builder& builder, ValueId value) { return builder.cast(builder.cast(value, low), high); });
}

bool scales_logits_of_the_head(Graph& graph, const PassContext&) {
  Op* head = first_op(graph, [](const Op& op) { return op.definition->name.starts_with("loss_head"); });
  if (head) head->attributes.set("logits_scale", 1.01 * head->attributes.number("logits_scale", 1));
  return head != nullptr;
}

bool sees_half_the_keys(Graph& graph, const PassContext&) {
  bool planted = false;
  for (Op& op : graph.ops) {
    if (!op.is("attention") && !op.is("attention_gradient")) continue;
    op.attributes.set("window", std::max<std::int64_t>(1, graph[op.operands[1]].shape[1] / 2));
    planted = true;
  }
  return planted;
}

bool takes_one_over_count_for_a_part(Graph& graph, const PassContext&) {
  const ValueId scale = graph.input("inverse_count");
  if (scale == no_value || graph.mesh.world() == 1) return false;
  graph[scale].pinned = Layout{{}, {}, graph.mesh.live().set()};
  return true;
}

bool confuses_two_copies(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  for (std::size_t j = 0; j < graph.ops.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      Op &one = graph.ops[i], &other = graph.ops[j];
      if (!one.is("reshard") || !other.is("reshard") || one.operands == other.operands ||
          !is_floating(graph[one.operands[0]].dtype) || graph[one.operands[0]].layout.partial)
        continue;
      if (!same_type(graph[one.operands[0]], graph[other.operands[0]]) ||
          !same_type(graph[one.results[0]], graph[other.results[0]]))
        continue;
      other.operands = one.operands;
      return true;
    }
  return false;
}

// Averages what KV heads that were repeated for several ranks receive.
bool averages_copies_of_kv_heads(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  return plant_behind(
      graph, [](const Op& op) { return op.is("reduce_heads"); },
      [&](Builder& builder, ValueId value) {
        const ValueId copies = graph.ops.back().operands[0];
        return builder.one(
            "scale", {value},
            {{"factor", static_cast<double>(graph[value].shape[2]) / static_cast<double>(graph[copies].shape[2])}});
      });
}

// Where accumulators are sharded, a micro-batch's gradient takes the place of the sum so far.
bool overwrites_sharded_accumulators(Graph& graph, const PassContext&) {
  bool planted = false;
  for (const Op& op : graph.ops) {
    if (!op.is("add") || graph[op.operands[0]].role != Role::accumulator || graph[op.results[0]].layout.flat.empty())
      continue;
    for (auto& output : graph.outputs)
      if (output.value == op.results[0]) {
        output.value = op.operands[1];
        planted = true;
      }
  }
  return planted;
}

// ---- of expansion and schedule

// A backward op that does what forward ops do reads what another layer's reads.
bool makes_again_from_another_layer(Graph& graph, const PassContext&) {
  for (std::size_t j = 0; j < graph.ops.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      const Op &one = graph.ops[i], &other = graph.ops[j];
      if (one.phase != Phase::forward || other.phase != Phase::backward || one.definition != other.definition ||
          one.definition->linear || one.definition->communication || one.layer == other.layer ||
          !(one.attributes == other.attributes) || one.signature->text != other.signature->text ||
          one.operands[0] == other.operands[0] || !same_type(graph[one.operands[0]], graph[other.operands[0]]))
        continue;
      graph.ops[j].operands[0] = one.operands[0];
      return true;
    }
  return false;
}

bool merges_different_ops(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  for (std::size_t j = 0; j < graph.ops.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      const Op &one = graph.ops[i], &other = graph.ops[j];
      if (!one.is("einsum") || !other.is("einsum") || one.phase != Phase::forward || other.phase != Phase::forward ||
          one.signature->text != other.signature->text || one.operands == other.operands ||
          !same_type(graph[one.results[0]], graph[other.results[0]]))
        continue;
      std::vector<ValueId> substitution(graph.values.size(), no_value);
      substitution[at(other.results[0])] = one.results[0];
      substitute(graph, substitution);
      return true;
    }
  return false;
}

bool merges_the_wrong_block(Graph& graph, const PassContext&) {
  Op* merge = first_op(graph, [](const Op& op) { return op.is("attention_merge"); });
  if (!merge) return false;
  merge->operands[2] = merge->operands[0];
  merge->operands[3] = merge->operands[1];
  return true;
}

bool takes_a_row_too_early(Graph& graph, const PassContext&) {
  Op* take = first_op(graph, [&](const Op& op) {
    return op.is("take_rows") && op.attributes.integer("from") > 0 && is_floating(graph[op.operands[0]].dtype);
  });
  if (take) take->attributes.set("from", take->attributes.integer("from") - 1);
  return take != nullptr;
}

bool loses_an_addend(Graph& graph, const PassContext&) {
  Op* fused = first_op(graph, [](const Op& op) { return op.is("einsum_add"); });
  if (!fused) return false;
  fused->operands.pop_back();
  fused->definition = find_op("einsum");
  fused->signature = graph.signature(
      fused->signature->operands[0] + "," + fused->signature->operands[1] + "->" + fused->signature->results[0],
      fused->operands);
  return true;
}

bool puts_a_tile_too_early(Graph& graph, const PassContext&) {
  Op* put = first_op(graph, [](const Op& op) { return op.is("put_rows") && op.attributes.integer("from") > 0; });
  if (put) put->attributes.set("from", put->attributes.integer("from") - 1);
  return put != nullptr;
}

bool takes_the_wrong_heads(Graph& graph, const PassContext&) {
  Op* take = first_op(graph, [&](const Op& op) {
    return op.is("take_heads") && op.attributes.integer("from") > 0 && graph[op.operands[0]].shape.size() == 4;
  });
  if (take) take->attributes.set("from", take->attributes.integer("from") - 1);
  return take != nullptr;
}

bool exchanges_kept_parameters(Graph& graph, const PassContext&) {
  std::vector<Binding*> kept;
  for (auto& input : graph.inputs)
    if (input.is(Role::gathered)) kept.push_back(&input);
  for (std::size_t j = 0; j < kept.size(); ++j)
    for (std::size_t i = 0; i < j; ++i)
      if (same_type(graph[kept[i]->value], graph[kept[j]->value])) {
        std::swap(kept[i]->name, kept[j]->name);
        std::swap(kept[i]->state, kept[j]->state);
        return true;
      }
  return false;
}

bool keeps_groups_apart(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  Op* reduction =
      first_op(graph, [&](const Op& op) { return op.is("all_reduce") && !graph[op.results[0]].layout.flat.empty(); });
  if (reduction) make_local(*reduction);
  return reduction != nullptr;
}

bool drops_a_reduction(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  Op* reduction =
      first_op(graph, [&](const Op& op) { return is_reduction(op) && !graph[op.results[0]].shape.empty(); });
  if (reduction) make_local(*reduction);
  return reduction != nullptr;
}

bool averages_gradients(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  return plant_behind(
      graph, [&](const Op& op) { return is_reduction(op) && !graph[op.results[0]].shape.empty(); },
      [&](Builder& builder, ValueId value) {
        return builder.one("scale", {value}, {{"factor", 1.0 / graph.mesh.world()}});
      });
}

bool norm_of_own_shard(Graph& graph, const PassContext& context) {
  if (context.kind != ProgramKind::update) return false;
  Op* reduction =
      first_op(graph, [&](const Op& op) { return op.is("all_reduce") && graph[op.results[0]].shape.empty(); });
  if (reduction) make_local(*reduction);
  return reduction != nullptr;
}

bool rounds_what_moves(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  const DType high = context.options.precision.dtype, low = high == DType::float64 ? DType::float32 : DType::bfloat16;
  if (high == low) return false;
  return plant_behind(
      graph, [&](const Op& op) { return op.is("all_to_all") && graph[op.results[0]].dtype == high; },
      [&](Builder& builder, ValueId value) { return builder.cast(builder.cast(value, low), high); });
}

bool swaps_tensors_of_a_message(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  for (Op& op : graph.ops)
    for (std::size_t j = 1; j < op.results.size() && op.definition->communication; ++j)
      for (std::size_t i = 0; i < j; ++i) {
        if (!same_type(graph[op.results[i]], graph[op.results[j]]) || !is_floating(graph[op.results[i]].dtype))
          continue;
        std::swap(op.results[i], op.results[j]);
        return true;
      }
  return false;
}

bool runs_an_op_too_early(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return false;
  for (std::size_t i = graph.ops.size(); i-- > 1;) {
    const Op &before = graph.ops[i - 1], &op = graph.ops[i];
    const bool reads = std::find(op.operands.begin(), op.operands.end(), before.results[0]) != op.operands.end();
    if (!op.is("einsum") || !reads) continue;
    std::swap(graph.ops[i - 1], graph.ops[i]);
    return true;
  }
  return false;
}

// A start and its wait come behind the first op that reads what they bring, where several do.
template <typename Wanted>
bool comes_one_op_late(Graph& graph, Wanted&& wanted) {
  const auto use = uses(graph);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    if (!wanted(graph.ops[i]) || use[at(graph.ops[i].results[0])].size() < 2) continue;
    const std::size_t reader = at(use[at(graph.ops[i].results[0])][0]),
                      start = at(definitions(graph)[at(graph.ops[i].operands[0])]);
    // What lies between waits for nothing that moves here: the order of each queue stays.
    std::vector<std::size_t> order;
    for (std::size_t k = 0; k < graph.ops.size(); ++k) {
      if (k != i && k != start) order.push_back(k);
      if (k == reader) order.insert(order.end(), {start, i});
    }
    select_ops(graph, order);
    return true;
  }
  return false;
}
bool reloads_one_op_late(Graph& graph, const PassContext&) {
  return comes_one_op_late(graph, [](const Op& op) { return op.is("reload.wait"); });
}
bool gathers_one_op_late(Graph& graph, const PassContext& context) {
  const auto use = uses(graph);
  return is_accumulate(context.kind) && comes_one_op_late(graph, [&](const Op& op) {
           return op.is("all_gather.wait") && std::all_of(op.results.begin(), op.results.end(), [&](ValueId result) {
                    return !use[at(result)].empty() && !use[at(op.results[0])].empty() &&
                           use[at(result)].back() > use[at(op.results[0])].front();
                  });
         });
}

// ---- of the memory plan

// What comes to the host is put where a value lies that has not gone back yet.
bool reuses_a_host_buffer_early(Program& program, const NamedBuffers&) {
  const Graph& graph = program.graph;
  std::vector<std::int64_t>& offset = program.plan.value_offset;
  for (const Op& one : graph.ops)
    for (const Op& other : graph.ops) {
      if (!one.is("offload.wait") || !other.is("offload.wait") || &one == &other) continue;
      const ValueId a = one.results[0], b = other.results[0];
      if (local_bytes(graph, a) != local_bytes(graph, b) || !is_floating(graph[a].dtype) ||
          offset[at(a)] == offset[at(b)])
        continue;
      offset[at(other.operands[0])] = offset[at(b)] = offset[at(a)];
      return true;
    }
  return false;
}

// A result is put where a value still lives that is read later.
bool overwrites_a_value(Program& program, const NamedBuffers& named) {
  const Graph& graph = program.graph;
  std::vector<std::int64_t>& offset = program.plan.value_offset;
  const auto use = uses(graph);
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    for (ValueId result : graph.ops[i].results)
      for (ValueId operand : graph.ops[i].operands) {
        if (offset[at(operand)] < named.bytes || offset[at(result)] < named.bytes ||
            use[at(operand)].back() <= static_cast<std::int32_t>(i) ||
            local_bytes(graph, result) != local_bytes(graph, operand) || graph[operand].shape.empty())
          continue;
        offset[at(result)] = offset[at(operand)];
        return true;
      }
  return false;
}

// ---- of the data: one rank's buffers of a micro-batch, [rows, slots] each

bool drops_boundary_labels(HostBatch& batch, std::int64_t rows, std::int64_t slots) {
  for (std::int64_t row = 1; row <= rows; ++row) batch.labels[row * slots - 1] = -1;  // any negative label is ignored
  return true;
}

bool hides_keys_of_first_tokens(HostBatch& batch, std::int64_t rows, std::int64_t slots) {
  for (std::int64_t i = 0; i < rows * slots; i += slots) batch.key_start[i] = batch.index[i];
  return true;
}

// A token that sees only itself and has no label: padding, or the only one of its document, which has none either.
bool labels_padding(HostBatch& batch, std::int64_t rows, std::int64_t slots) {
  bool planted = false;
  for (std::int64_t i = 0; i < rows * slots; ++i)
    if (batch.key_start[i] == batch.index[i] && batch.labels[i] < 0) {
      batch.labels[i] = 0;
      planted = true;
    }
  return planted;
}

bool moves_document_starts(HostBatch& batch, std::int64_t rows, std::int64_t slots) {
  bool planted = false;
  for (std::int64_t i = 0; i < rows * slots; ++i)
    if (batch.key_start[i] > 0) {
      --batch.key_start[i];
      planted = true;
    }
  return planted;
}

}  // namespace

const std::vector<Fault>& faults() {
  static const std::vector<Fault> table = {
      {"loss", "loss", "logits are scaled by 1.01", scales_logits},
      {"differentiate", "differentiate", "a gradient loses one of its contributions", loses_a_contribution},
      {"optimizer", "optimizer", "one parameter's gradient is left out of the norm", norm_without_a_parameter},
      {"momentum", "optimizer",
       "first moments keep 1.01 times as much (of sgd and muon nesterov shows it in a first step)",
       keeps_more_of_a_moment},
      {"unclipped", "optimizer", "adamw takes gradients that were not clipped", takes_unclipped_gradients},
      {"muon_rows", "optimizer", "muon takes the columns of a matrix for its rows", takes_columns_for_rows},
      {"assign_precision", "assign_precision", "activations are rounded to a lower precision", rounds_an_activation},
      {"rounded_moments", "assign_precision", "moments are rounded to a lower precision than is asked for",
       rounds_moments},
      {"exchanged_moments", "assign_precision", "moments in bfloat16 of two parameters change places",
       exchanges_rounded_moments},
      {"tile_loss_head", "tile_loss_head", "the tiled head scales logits by 1.01", scales_logits_of_the_head},
      {"choose_attention", "choose_attention", "attention sees half of the keys", sees_half_the_keys},
      {"shard_state", "shard_state", "1 / count counts as one part of a sum over ranks",
       takes_one_over_count_for_a_part},
      {"partition", "partition", "a copy in another layout is that of another value", confuses_two_copies},
      {"kv_gradient", "partition", "gradients of repeated KV heads are averaged, not summed",
       averages_copies_of_kv_heads},
      {"adamw_gradient", "partition", "adamw takes another parameter's gradient", takes_another_gradient},
      {"muon_update", "partition", "muon makes another matrix's update orthogonal", orthogonalizes_another_update},
      {"lost_accumulation", "partition", "a sharded gradient is that of the last micro-batch only",
       overwrites_sharded_accumulators},
      {"recompute", "recompute", "what the backward pass makes again is made from another layer's values",
       makes_again_from_another_layer},
      {"cse", "cse", "two products of different operands are taken for one", merges_different_ops},
      {"expand_window", "expand_window", "the keys that a window reaches are taken one row too early",
       takes_a_row_too_early},
      {"expand_ring", "expand_ring", "a step of a ring merges the block before it again", merges_the_wrong_block},
      {"fuse", "fuse", "a fused product loses its addend", loses_an_addend},
      {"keep_gathered", "keep_gathered", "two parameters that were kept whole change places",
       exchanges_kept_parameters},
      {"tile_mlp", "tile_mlp", "a tile's rows are put one row too early", puts_a_tile_too_early},
      {"chunk_heads", "chunk_heads", "a chunk of attention's heads begins one head too early", takes_the_wrong_heads},
      {"lower_reshards", "lower_reshards", "a gradient's reduction takes this rank's own part only", drops_a_reduction},
      {"place_casts", "place_casts", "what an all-to-all moves is rounded on its way", rounds_what_moves},
      {"coalesce", "coalesce", "two tensors of one message change places", swaps_tensors_of_a_message},
      {"schedule", "schedule", "an op runs before its operand is made", runs_an_op_too_early},
      {"offload", "offload", "a value comes back from host memory one op too late", reloads_one_op_late},
      {"overlap", "overlap", "what is gathered beside computation comes one op too late", gathers_one_op_late},
      {"host_buffer", "plan_memory", "a buffer of host memory is given away while it holds a value", nullptr,
       reuses_a_host_buffer_early},
      {"plan_memory", "plan_memory", "a result overwrites a value that is read later", nullptr, overwrites_a_value},
      {"averaged_gradient", "lower_reshards", "gradients are averaged over ranks, not summed", averages_gradients},
      {"groups_apart", "lower_reshards", "a shard group's gradient leaves out the other groups", keeps_groups_apart},
      {"norm_of_own_shard", "schedule", "the gradient norm leaves out the other ranks' shards", norm_of_own_shard},
      {"dropped_boundary_label", "data", "the last label of every rank's slice is ignored", nullptr, nullptr,
       drops_boundary_labels},
      {"wrong_boundary_mask", "data", "the first token of every rank's slice sees only itself", nullptr, nullptr,
       hides_keys_of_first_tokens},
      {"counted_padding", "data", "padded tokens have a label", nullptr, nullptr, labels_padding},
      {"document_boundary", "data", "a document begins one token too early", nullptr, nullptr, moves_document_starts},
  };
  return table;
}

const Fault* find_fault(std::string_view name) {
  if (name.empty()) return nullptr;
  std::string names;
  for (const Fault& fault : faults()) {
    if (fault.name == name) return &fault;
    names += (names.empty() ? "" : ", ") + std::string(fault.name);
  }
  fail("--fault is '{}', which is no fault that can be planted; there are {}", name, names);
}

std::string fault_table() {
  std::string text;
  for (const Fault& fault : faults())
    text += fmt::format("  {:22} after {:16} {}\n", fault.name, fault.after, fault.meaning);
  return text;
}

FaultHooks fault_hooks(const Fault* fault) {
  FaultHooks hooks;
  if (!fault) return hooks;
  const auto planted = hooks.planted;
  const auto note = [fault, planted](bool found, std::string_view place) {
    if (found && !std::exchange(*planted, true)) log_debug("fault {} planted in {}", fault->name, place);
    return found;
  };
  if (fault->graph)
    hooks.compile.after_pass = [=](const Pass& pass, Graph& graph, const PassContext& context) {
      return pass.name == fault->after && note(fault->graph(graph, context), graph.name);
    };
  if (fault->plan)
    hooks.compile.after_plan = [=](Program& program, const NamedBuffers& named) {
      note(fault->plan(program, named), program.graph.name);
    };
  if (fault->data)
    hooks.after_load = [=](HostBatch& batch, std::int64_t rows, std::int64_t slots) {
      note(fault->data(batch, rows, slots), "the data");
    };
  return hooks;
}

}  // namespace longhaul
