// coalesce: collectives that could travel together do: those of one kind, over the same axes and dimensions, none of
// which needs another's result. Two uses of one mechanism:
//   what moves along a dimension (q, k, v of a layer, a block of keys and values on a ring): neighbours in the program,
//   of any size, since they live at the same time anyway;
//   state (gradients to be summed, shards to be gathered): in buckets of up to bucket_size bytes, counted
//   unsharded. A gather or sum waits for the bucket until its result is needed or the bucket is full; shards that are
//   there from the start are gathered with the first of their layer. A bucket never holds more than its size, so what
//   lives longer than before is bounded by it. A tensor larger than a bucket travels alone and is not copied.
// Where collectives run beside computation (Schedule::overlap_memory), what an op reads does not wait for what it
// makes: a ring's next keys and values go while attention works on the last ones, their gradients behind it. The bytes
// that ranks send stay the same; the number of messages falls.
#include <algorithm>
#include <map>
#include <tuple>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

bool is_collective(const Op& op) {
  return op.definition->communication && !op.is("slice") && !op.is("reshard");
}

// Activations move along a dimension; state is flat shards or whole.
bool along_dimension(const Op& op) {
  return op.attributes.has("dimension");
}

// What must be equal in one message. Sums need one dtype; what only moves is bytes.
using Key = std::tuple<const OpDefinition*, AxisList, std::int64_t, std::int64_t, std::int64_t, int, int>;
Key key_of(const Graph& graph, const Op& op) {
  const bool sums = op.is("reduce_scatter") || op.is("all_reduce");
  return {op.definition,
          op.attributes.axes("axes"),
          op.attributes.integer("dimension", -1),
          op.attributes.integer("split", -1),
          op.attributes.integer("by"),
          static_cast<int>(op.phase),
          sums ? static_cast<int>(graph[op.operands[0]].dtype) : -1};
}

// Bytes on a rank of the less sharded side.
std::int64_t unsharded_bytes(const Graph& graph, const Op& op) {
  return std::max(local_bytes(graph, op.operands[0]), local_bytes(graph, op.results[0]));
}

std::vector<char> inputs_of(const Graph& graph) {
  std::vector<char> is_input(graph.values.size(), 0);
  for (const auto& input : graph.inputs) is_input[static_cast<std::size_t>(input.value)] = 1;
  return is_input;
}

// Gathers of inputs go up to the first of their kind among the ops of one layer, as far as a bucket holds.
void gather_with_the_first(Graph& graph, std::int64_t bucket_size) {
  struct Group {
    std::size_t first;
    std::int64_t bytes;
  };
  const std::vector<char> is_input = inputs_of(graph);
  std::map<Key, Group> groups;
  std::vector<std::vector<std::size_t>> behind(graph.ops.size());  // ops that come to stand behind this one
  std::vector<char> moved(graph.ops.size(), 0);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (i > 0 && (op.layer != graph.ops[i - 1].layer || op.phase != graph.ops[i - 1].phase)) groups.clear();
    if (!op.is("all_gather") || along_dimension(op) || !is_input[static_cast<std::size_t>(op.operands[0])]) continue;
    const std::int64_t bytes = unsharded_bytes(graph, op);
    if (bytes > bucket_size) continue;
    const auto [group, fresh] = groups.try_emplace(key_of(graph, op), Group{i, bytes});
    if (fresh) continue;
    if (group->second.bytes + bytes > bucket_size) {
      group->second = {i, bytes};
      continue;
    }
    group->second.bytes += bytes;
    behind[group->second.first].push_back(i);
    moved[i] = 1;
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    if (moved[i]) continue;
    order.push_back(i);
    order.insert(order.end(), behind[i].begin(), behind[i].end());
  }
  select_ops(graph, order);
}

// One walk over the program. Collectives wait in open buckets; what uses their results makes them go, except for
// pointwise ops that need nothing else, which wait behind them.
class Coalescing {
 public:
  Coalescing(Graph& graph, const Schedule& schedule)
      : graph_(graph),
        bucket_size_(schedule.bucket_size),
        overlaps_(schedule.overlap_memory > 0),
        is_input_(inputs_of(graph)),
        owner_(graph.values.size(), none),
        maker_(graph.values.size(), nowhere) {}

  void run() {
    rewrite(graph_, [&](Op& op) {
      const std::vector<std::size_t> needed = owners(op);
      if (is_collective(op) && (along_dimension(op) || unsharded_bytes(graph_, op) <= bucket_size_))
        join(op, needed);
      else if (may_wait(op, needed))
        wait_behind(op, needed[0]);
      else
        pass(op, needed);
    });
    while (!open_.empty()) go(open_.front());
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1), nowhere = none;
  struct Bucket {
    Key key;
    std::vector<Op> members, behind;
    std::vector<std::size_t> needs;  // buckets that must have gone before
    std::int64_t bytes = 0;
  };
  std::size_t& owner(ValueId value) { return owner_[static_cast<std::size_t>(value)]; }
  bool is_open(std::size_t bucket) const { return std::find(open_.begin(), open_.end(), bucket) != open_.end(); }

  // The open buckets that make operands of the op.
  std::vector<std::size_t> owners(const Op& op) {
    std::vector<std::size_t> list;
    for (const ValueId operand : op.operands)
      if (const std::size_t bucket = owner(operand);
          bucket != none && std::find(list.begin(), list.end(), bucket) == list.end())
        list.push_back(bucket);
    return list;
  }

  bool depends(std::size_t bucket, std::size_t on) const {
    if (bucket == on) return true;
    const auto& needs = buckets_[bucket].needs;
    return std::any_of(needs.begin(), needs.end(), [&](std::size_t one) { return is_open(one) && depends(one, on); });
  }

  void join(Op& op, std::vector<std::size_t> needed) {
    const Key key = key_of(graph_, op);
    const std::int64_t bytes = unsharded_bytes(graph_, op);
    auto found = std::find_if(open_.begin(), open_.end(), [&](std::size_t one) { return buckets_[one].key == key; });
    if (found != open_.end()) {
      const std::size_t bucket = *found;
      const bool full = !along_dimension(op) && buckets_[bucket].bytes + bytes > bucket_size_;
      if (full || (overlaps_ && waits_for_readers(op, buckets_[bucket])) ||
          std::any_of(needed.begin(), needed.end(), [&](std::size_t one) { return depends(one, bucket); })) {
        go(bucket);
        needed = owners(op);
        found = open_.end();
      }
    }
    std::size_t bucket = buckets_.size();
    if (found == open_.end()) {
      buckets_.push_back({key, {}, {}, {}, 0});
      open_.push_back(bucket);
    } else {
      bucket = *found;
    }
    Bucket& joined = buckets_[bucket];
    joined.bytes += bytes;
    joined.needs.insert(joined.needs.end(), needed.begin(), needed.end());
    for (const ValueId result : op.results) owner(result) = bucket;
    joined.members.push_back(std::move(op));
  }

  // Whether the op moves what was made of something that the bucket moves: it has to wait longer.
  bool waits_for_readers(const Op& op, const Bucket& bucket) const {
    if (!along_dimension(op)) return false;
    return std::any_of(op.operands.begin(), op.operands.end(), [&](ValueId operand) {
      const std::size_t maker = maker_[static_cast<std::size_t>(operand)];
      if (maker == nowhere) return false;
      const std::vector<ValueId>& read = graph_.ops[maker].operands;
      return std::any_of(bucket.members.begin(), bucket.members.end(), [&](const Op& member) {
        return std::find_first_of(read.begin(), read.end(), member.operands.begin(), member.operands.end()) !=
               read.end();
      });
    });
  }

  bool may_wait(const Op& op, const std::vector<std::size_t>& needed) {
    if (!op.definition->pointwise || needed.size() != 1) return false;
    return std::all_of(op.operands.begin(), op.operands.end(), [&](ValueId operand) {
      return owner(operand) != none || is_input_[static_cast<std::size_t>(operand)];
    });
  }

  void wait_behind(Op& op, std::size_t bucket) {
    for (const ValueId result : op.results) owner(result) = bucket;
    buckets_[bucket].behind.push_back(std::move(op));
  }

  void pass(Op& op, const std::vector<std::size_t>& needed) {
    for (const std::size_t bucket : needed)
      if (is_open(bucket)) go(bucket);
    // Activations wait for their neighbours only, between which may stand the casts of what they move.
    for (std::size_t i = 0; i < open_.size() && !op.is("cast");) {
      if (along_dimension(buckets_[open_[i]].members[0])) {
        go(open_[i]);
        i = 0;
      } else {
        ++i;
      }
    }
    emit(std::move(op));
  }

  void go(std::size_t bucket) {
    open_.erase(std::find(open_.begin(), open_.end(), bucket));
    for (const std::size_t one : std::vector<std::size_t>(buckets_[bucket].needs))
      if (is_open(one)) go(one);
    Bucket gone = std::move(buckets_[bucket]);
    Op together = std::move(gone.members[0]);
    for (std::size_t i = 1; i < gone.members.size(); ++i) {
      const Op& op = gone.members[i];
      together.operands.insert(together.operands.end(), op.operands.begin(), op.operands.end());
      together.results.insert(together.results.end(), op.results.begin(), op.results.end());
      if (together.layer != op.layer) together.layer = -1;
    }
    if (gone.members.size() > 1)
      together.signature = graph_.signature(together.definition->signature, together.operands);
    emit(std::move(together));
    for (Op& op : gone.behind) emit(std::move(op));
  }

  void emit(Op op) {
    for (const ValueId result : op.results) {
      owner(result) = none;
      maker_[static_cast<std::size_t>(result)] = graph_.ops.size();
    }
    graph_.ops.push_back(std::move(op));
  }

  Graph& graph_;
  const std::int64_t bucket_size_;
  const bool overlaps_;
  const std::vector<char> is_input_;
  std::vector<std::size_t> owner_;  // by value: the open bucket that will make it
  std::vector<std::size_t> maker_;  // by value: its op, of those that have gone
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> open_;  // in the order in which they were opened
};

}  // namespace

void coalesce(Graph& graph, const PassContext& context) {
  const Schedule& schedule = context.options.schedule;
  if (schedule.bucket_size > 0) gather_with_the_first(graph, schedule.bucket_size);
  Coalescing(graph, schedule).run();
}

}  // namespace longhaul::passes
