#include "runtime/communication.h"

#include <algorithm>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// The tensor of `shape`, cut along dimension d (−1: as one row of elements) in blocks of `step`.
BlockLayout cut(const Shape& shape, int d, std::int64_t step, DType dtype) {
  BlockLayout layout;
  layout.inner = static_cast<std::int64_t>(size_of(dtype));
  layout.step = step;
  if (d < 0) {
    layout.size = element_count(shape);
    return layout;
  }
  for (int i = 0; i < d; ++i) layout.outer *= shape[static_cast<std::size_t>(i)];
  for (std::size_t i = static_cast<std::size_t>(d) + 1; i < shape.size(); ++i) layout.inner *= shape[i];
  layout.size = shape[static_cast<std::size_t>(d)];
  return layout;
}

}  // namespace

CommunicationStep::CommunicationStep(const Graph& graph, const Op& op, int rank) {
  axes = op.attributes.axes("axes");
  ranks = graph.mesh.count(axes);
  index = graph.mesh.index(axes, rank);
  dtype = graph[op.operands[0]].dtype;
  static constexpr std::pair<std::string_view, Collective> kinds[] = {{"slice", Collective::count_},
                                                                      {"all_gather", Collective::all_gather},
                                                                      {"reduce_scatter", Collective::reduce_scatter},
                                                                      {"all_reduce", Collective::all_reduce},
                                                                      {"all_to_all", Collective::all_to_all},
                                                                      {"shift", Collective::send_receive}};
  const auto kind =
      std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& one) { return pair_name(op) == one.first; });
  LONGHAUL_CHECK(kind != std::end(kinds), "{} is no collective", op.definition->name);
  collective = kind->second;
  if (collective == Collective::reduce_scatter || collective == Collective::all_to_all) send_blocks = ranks;
  if (collective == Collective::all_gather || collective == Collective::all_to_all) receive_blocks = ranks;
  if (collective == Collective::send_receive) {
    const int by = static_cast<int>(op.attributes.integer("by"));
    to = (index + by) % ranks;
    from = (index - by + ranks) % ranks;
  }
  for (std::size_t i = 0; i < op.operands.size(); ++i) {
    const Value &operand = graph[op.operands[i]], &result = graph[op.results[i]];
    add_part(op, operand.dtype, local_shape(operand.shape, operand.layout, graph.mesh),
             local_shape(result.shape, result.layout, graph.mesh));
  }
  if (!is_local()) plan_staging();
}

void CommunicationStep::add_part(const Op& op, DType type, const Shape& before, const Shape& after) {
  const int dimension = static_cast<int>(op.attributes.integer("dimension", -1));
  const auto extent = [](const Shape& shape, int d) {
    return d < 0 ? element_count(shape) : shape[static_cast<std::size_t>(d)];
  };
  const auto whole = [&](const Shape& shape) { return cut(shape, -1, element_count(shape), type); };
  Part part;
  part.pack = whole(before);
  part.unpack = whole(after);
  if (is_local() || collective == Collective::reduce_scatter)
    part.pack = cut(before, dimension, extent(after, dimension), type);
  if (collective == Collective::all_gather) part.unpack = cut(after, dimension, extent(before, dimension), type);
  if (collective == Collective::all_to_all) {
    const int split = static_cast<int>(op.attributes.integer("split"));
    part.pack = cut(before, split, extent(after, split), type);
    part.unpack = cut(after, dimension, extent(before, dimension), type);
  }
  // Each rank sums an equal piece: of several tensors every one is padded to that, as if it had come alone.
  if (collective == Collective::all_reduce && op.operands.size() > 1)
    part.pack.step = part.unpack.step = (part.pack.size + ranks - 1) / ranks * ranks;
  part.offset = block_bytes;
  if (!is_local()) {
    LONGHAUL_CHECK(part.pack.block_bytes() == part.unpack.block_bytes(), "{}: blocks differ", op.definition->name);
    block_bytes += part.pack.block_bytes();
  }
  parts.push_back(part);
}

void CommunicationStep::plan_staging() {
  packs = unpacks = parts.size() > 1;
  for (const Part& part : parts) {
    packs |= !part.pack.contiguous(send_blocks);
    unpacks |= !part.unpack.contiguous(receive_blocks);
  }
  // In place where the collective allows it: what is gathered is packed where it will lie among the others', a sum is
  // left where the own part of it was.
  if (packs && collective != Collective::all_gather) send_bytes = aligned(block_bytes * send_blocks);
  if (unpacks && collective != Collective::reduce_scatter && collective != Collective::all_reduce)
    receive_bytes = aligned(block_bytes * receive_blocks);
  if (collective == Collective::reduce_scatter || collective == Collective::all_reduce)
    reduction_bytes = static_cast<std::int64_t>(Communicator::reduction_scratch_bytes(
        ranks, static_cast<std::size_t>(block_bytes * send_blocks) / size_of(dtype), dtype));
}

std::int64_t CommunicationStep::bytes_sent() const {
  if (is_local()) return 0;
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  switch (collective) {
    case Collective::all_reduce:
      return 2 * (ranks - 1) * ((block_bytes / element + ranks - 1) / ranks) * element;
    case Collective::send_receive:
      return to == index ? 0 : block_bytes;
    default:
      return (ranks - 1) * block_bytes;
  }
}

}  // namespace longhaul
