// Instructions of one kind that one launch carries out, over many tensors: sums of squares, the steps of optimizers
// (with the bfloat16 copies that are cast from their parameters), slices. An update has as many of each as the model
// has parameters. Memory decides what may go together: see group_instructions.
#pragma once
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/communication.h"
#include "runtime/device/shadow.h"
#include "runtime/device/tables.h"

namespace longhaul {

/// One instruction, at its place in memory; what it points to outlives whoever holds it.
struct Instructed {
  const Graph* graph = nullptr;
  const Op* op = nullptr;
  const CommunicationStep* step = nullptr;  // of a collective or slice
  std::span<const void* const> operands;
  std::span<void* const> results;
  void* scratch = nullptr;
  std::size_t scratch_bytes = 0;
};

/// What one launch (of sums of squares two) does.
class Many {
 public:
  virtual ~Many() = default;
  /// Takes this instruction too, if it is of the kind and differs only in what a row of the table says.
  virtual bool add(const Instructed& one) = 0;
  /// Makes the table, once all are added.
  virtual void prepare(DeviceContext& context, TableSpace& space) = 0;
  virtual void run(DeviceContext& context) const = 0;
};
/// For an instruction of a kind that has such launches; null for any other.
std::unique_ptr<Many> start_many(const Instructed& one);

/// Instructions that run together: several with `many`, else one.
struct InstructionGroup {
  std::vector<std::size_t> instructions;  // of the program, ascending
  std::unique_ptr<Many> many;
};
/// The order in which a program runs. An instruction joins an earlier group of its kind when neither that group nor
/// anything between writes what it reads or touches what it writes; it never passes a collective or a half of a pair.
std::vector<InstructionGroup> group_instructions(std::span<const Instructed> program);

}  // namespace longhaul
