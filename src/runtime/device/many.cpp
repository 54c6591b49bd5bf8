#include "runtime/device/many.h"

#include <algorithm>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/device/communication_run.h"
#include "runtime/device/optimizer_row.h"

namespace longhaul {
namespace {

using Address = std::uintptr_t;
Address address(const void* pointer) {
  return reinterpret_cast<Address>(pointer);
}

class ManySquares final : public Many {
 public:
  bool add(const Instructed& one) override {
    const LocalOp local(*one.graph, *one.op, false);
    const DType type = local.operands[0].dtype;
    if (!one.op->is("sum_squares") || (type != DType::bfloat16 && type != DType::float32)) return false;
    rows_.push_back({0, local.operands[0].count(), one.operands[0], static_cast<double*>(one.results[0]),
                     type == DType::bfloat16 ? cuda::Type::bfloat16 : cuda::Type::float32, 0});
    return true;
  }
  void prepare(DeviceContext& context, TableSpace& space) override {
    space_ = &space;
    table_.tensors = static_cast<std::int32_t>(rows_.size());
    table_.blocks = context.api().squares_blocks(rows_.data(), table_.tensors);
    offset_ = space.add(rows_.data(), rows_.size() * sizeof rows_[0]);
    workspace_ = space.add(nullptr, static_cast<std::size_t>(table_.blocks) * sizeof(double));
  }
  void run(DeviceContext& context) const override {
    cuda::SquaresTable call = table_;
    call.tensor = reinterpret_cast<const cuda::SquaresTensor*>(space_->at(offset_));
    call.workspace = reinterpret_cast<double*>(space_->at(workspace_));
    context.succeed(context.api().sums_of_squares(&call, context.stream()));
  }

 private:
  std::vector<cuda::SquaresTensor> rows_;
  cuda::SquaresTable table_{};
  const TableSpace* space_ = nullptr;
  std::size_t offset_ = 0, workspace_ = 0;
};

class ManySteps final : public Many {
 public:
  bool add(const Instructed& one) override {
    const LocalOp local(*one.graph, *one.op, false);
    if (one.op->is("cast")) return add_copy(one, local);
    cuda::OptimizerStep step{};
    std::string refusal;
    if (!optimizer_step(local, step, refusal)) return false;
    for (const auto& [result, operand] : one.op->definition->in_place)
      if (one.results[static_cast<std::size_t>(result)] != one.operands[static_cast<std::size_t>(operand)])
        return false;  // it is copied first
    connect_optimizer(step, local.name(), one.operands.data(), one.results.data());
    if (!rows_.empty() && !alike(step)) return false;
    if (rows_.empty()) step_ = step;
    rows_.push_back(step.one);
    return true;
  }
  void prepare(DeviceContext& context, TableSpace& space) override {
    space_ = &space;
    step_.tensors = static_cast<std::int32_t>(rows_.size());
    step_.blocks = context.api().optimizer_blocks(rows_.data(), step_.tensors);
    offset_ = space.add(rows_.data(), rows_.size() * sizeof rows_[0]);
  }
  void run(DeviceContext& context) const override {
    cuda::OptimizerStep call = step_;
    call.tensor = reinterpret_cast<const cuda::OptimizerTensor*>(space_->at(offset_));
    context.succeed(context.api().optimizer_step(&call, context.stream()));
  }

 private:
  // The bfloat16 copy of a parameter that a step of these gives.
  bool add_copy(const Instructed& one, const LocalOp& local) {
    if (step_.rule == cuda::OptimizerRule::muon_momentum || local.results[0].dtype != DType::bfloat16) return false;
    for (cuda::OptimizerTensor& row : rows_)
      if (row.parameter == one.operands[0] && row.count == local.operands[0].count() && !row.copy) {
        row.copy = one.results[0];
        return true;
      }
    return false;
  }
  bool alike(const cuda::OptimizerStep& step) const {
    return step.rule == step_.rule && step.nesterov == step_.nesterov && step.coefficient == step_.coefficient &&
           step.learning_rate == step_.learning_rate && step.step == step_.step && step.beta1 == step_.beta1 &&
           step.beta2 == step_.beta2 && step.epsilon == step_.epsilon;
  }
  std::vector<cuda::OptimizerTensor> rows_;
  cuda::OptimizerStep step_{};
  const TableSpace* space_ = nullptr;
  std::size_t offset_ = 0;
};

class ManySlices final : public Many {
 public:
  bool add(const Instructed& one) override {
    if (!one.step || !one.step->is_local()) return false;
    add_slice(table_.entries, *one.step, one.operands, one.results);
    return true;
  }
  void prepare(DeviceContext&, TableSpace& space) override { table_.keep_in(space); }
  void run(DeviceContext& context) const override { table_.run(context); }

 private:
  CopyTable table_;
};

// Disjoint ranges of addresses.
class Ranges {
 public:
  void add(Address begin, Address end) {
    if (begin == end) return;
    auto at = ends_.lower_bound(begin);  // the first that does not end before
    while (at != ends_.end() && at->second <= end) {
      begin = std::min(begin, at->second), end = std::max(end, at->first);
      at = ends_.erase(at);
    }
    ends_[end] = begin;
  }
  bool overlap(Address begin, Address end) const {
    if (begin == end) return false;
    const auto at = ends_.upper_bound(begin);
    return at != ends_.end() && at->second < end;
  }

 private:
  std::map<Address, Address> ends_;  // end to begin
};

struct Touched {
  std::vector<std::pair<Address, Address>> reads, writes;
};
Touched touched_by(const Instructed& one, bool with_scratch) {
  Touched touched;
  const LocalOp local(*one.graph, *one.op, false);
  const auto range = [](const void* pointer, std::int64_t bytes) {
    return std::pair(address(pointer), address(pointer) + static_cast<Address>(bytes));
  };
  for (std::size_t i = 0; i < local.operands.size(); ++i)
    touched.reads.push_back(range(one.operands[i], local.operands[i].bytes()));
  for (std::size_t i = 0; i < local.results.size(); ++i)
    touched.writes.push_back(range(one.results[i], local.results[i].bytes()));
  if (with_scratch) touched.writes.push_back(range(one.scratch, static_cast<std::int64_t>(one.scratch_bytes)));
  return touched;
}

// A group while a program is being ordered.
struct Open {
  InstructionGroup group;
  Ranges reads, writes;
  bool barrier = false;

  void touch(const Touched& touched) {
    for (const auto& [begin, end] : touched.reads) reads.add(begin, end);
    for (const auto& [begin, end] : touched.writes) writes.add(begin, end);
  }
  bool spoils(const Touched& later) const {
    return std::any_of(later.reads.begin(), later.reads.end(),
                       [&](const auto& range) { return writes.overlap(range.first, range.second); });
  }
  bool is_spoilt_by(const Touched& later) const {
    return std::any_of(later.writes.begin(), later.writes.end(), [&](const auto& range) {
      return writes.overlap(range.first, range.second) || reads.overlap(range.first, range.second);
    });
  }
};

constexpr int looks_back = 8;  // groups

// The group that takes it, or null.
Open* joined(std::vector<Open>& order, const Instructed& one, const Touched& touched) {
  const bool cast = one.op->is("cast");
  int looks = 0;
  for (auto at = order.rbegin(); at != order.rend() && looks < looks_back && !at->barrier; ++at, ++looks) {
    if (at->is_spoilt_by(touched)) return nullptr;
    const bool waits = at->spoils(touched);
    // A cast waits for the step that gives its parameter, and may be part of it.
    if (at->group.many && (!waits || cast) && at->group.many->add(one)) return &*at;
    if (waits) return nullptr;
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Many> start_many(const Instructed& one) {
  std::unique_ptr<Many> many;
  if (one.op->is("sum_squares"))
    many = std::make_unique<ManySquares>();
  else if (one.step)
    many = std::make_unique<ManySlices>();
  else if (!one.op->is("cast"))
    many = std::make_unique<ManySteps>();
  return many && many->add(one) ? std::move(many) : nullptr;
}

std::vector<InstructionGroup> group_instructions(std::span<const Instructed> program) {
  std::vector<Open> order;
  for (std::size_t i = 0; i < program.size(); ++i) {
    const Instructed& one = program[i];
    std::unique_ptr<Many> many = start_many(one);
    const bool may_join = many || one.op->is("cast");
    const Touched touched = touched_by(one, !many);
    Open* group = may_join ? joined(order, one, touched) : nullptr;
    if (!group) {
      group = &order.emplace_back();
      group->group.many = std::move(many);
      group->barrier = (one.step && !one.step->is_local()) || one.op->definition->half != Half::none;
    }
    group->group.instructions.push_back(i);
    group->touch(touched);
  }
  std::vector<InstructionGroup> groups;
  groups.reserve(order.size());
  for (Open& one : order) groups.push_back(std::move(one.group));
  return groups;
}

}  // namespace longhaul
