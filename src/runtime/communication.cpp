#include "runtime/communication.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "ir/op_definition.h"
#include "kernels/cpu/thread_pool.h"

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

// Copies block `i` out of the tensor into `block`.
void copy_out(const BlockLayout& layout, const char* tensor, std::int64_t i, char* block, ThreadPool& pool) {
  const std::int64_t begin = std::min(i * layout.step, layout.size), kept = std::min(layout.step, layout.size - begin);
  const std::int64_t run = kept * layout.inner, row = layout.step * layout.inner;
  parallel_for(pool, layout.outer, std::max<std::int64_t>(1, (1 << 20) / std::max<std::int64_t>(row, 1)),
               [&](std::int64_t first, std::int64_t last) {
                 for (std::int64_t o = first; o < last; ++o) {
                   std::memcpy(block + o * row, tensor + (o * layout.size + begin) * layout.inner,
                               static_cast<std::size_t>(run));
                   if (run < row) std::memset(block + o * row + run, 0, static_cast<std::size_t>(row - run));
                 }
               });
}

void copy_in(const BlockLayout& layout, const char* block, std::int64_t i, char* tensor, ThreadPool& pool) {
  const std::int64_t begin = std::min(i * layout.step, layout.size), kept = std::min(layout.step, layout.size - begin);
  const std::int64_t row = layout.step * layout.inner;
  parallel_for(pool, layout.outer, std::max<std::int64_t>(1, (1 << 20) / std::max<std::int64_t>(row, 1)),
               [&](std::int64_t first, std::int64_t last) {
                 for (std::int64_t o = first; o < last; ++o)
                   std::memcpy(tensor + (o * layout.size + begin) * layout.inner, block + o * row,
                               static_cast<std::size_t>(kept * layout.inner));
               });
}

}  // namespace

CommunicationStep::CommunicationStep(const Graph& graph, const Op& op, int rank) {
  const Value &from = graph[op.operands[0]], &to = graph[op.results[0]];
  axes_ = op.attributes.axes("axes");
  ranks_ = graph.mesh.count(axes_);
  index_ = graph.mesh.index(axes_, rank);
  dtype_ = from.dtype;
  const int dimension = static_cast<int>(op.attributes.integer("dimension", -1));
  const Shape before = local_shape(from.shape, from.layout, graph.mesh),
              after = local_shape(to.shape, to.layout, graph.mesh);
  const auto extent = [](const Shape& shape, int d) {
    return d < 0 ? element_count(shape) : shape[static_cast<std::size_t>(d)];
  };

  if (op.is("slice")) {
    local_ = true;
    pack_ = cut(before, dimension, extent(after, dimension), dtype_);
  } else if (op.is("all_gather")) {
    collective_ = Collective::all_gather;
    unpack_ = cut(after, dimension, extent(before, dimension), dtype_);
    unpacks_ = !unpack_.contiguous(ranks_);
    block_bytes_ = unpack_.block_bytes();
  } else if (op.is("reduce_scatter")) {
    collective_ = Collective::reduce_scatter;
    pack_ = cut(before, dimension, extent(after, dimension), dtype_);
    packs_ = !pack_.contiguous(ranks_);
    block_bytes_ = pack_.block_bytes();
  } else if (op.is("all_reduce")) {
    collective_ = Collective::all_reduce;
    count_ = element_count(before);
  } else if (op.is("all_to_all")) {
    collective_ = Collective::all_to_all;
    const int split = static_cast<int>(op.attributes.integer("split"));
    pack_ = cut(before, split, extent(after, split), dtype_);
    unpack_ = cut(after, dimension, extent(before, dimension), dtype_);
    packs_ = !pack_.contiguous(ranks_);
    unpacks_ = !unpack_.contiguous(ranks_);
    block_bytes_ = pack_.block_bytes();
    LONGHAUL_CHECK(block_bytes_ == unpack_.block_bytes(), "all_to_all blocks differ");
  } else if (op.is("shift")) {
    collective_ = Collective::send_receive;
    const int by = static_cast<int>(op.attributes.integer("by"));
    to_ = (index_ + by) % ranks_;
    from_ = (index_ - by + ranks_) % ranks_;
    block_bytes_ = element_count(before) * static_cast<std::int64_t>(size_of(dtype_));
  } else {
    LONGHAUL_CHECK(false, "{} is no collective", op.definition->name);
  }
  if (packs_) pack_bytes_ = aligned(block_bytes_ * ranks_);
  if (unpacks_) unpack_bytes_ = aligned(block_bytes_ * ranks_);
  const auto element = static_cast<std::int64_t>(size_of(dtype_));
  if (collective_ == Collective::reduce_scatter && !local_)
    reduction_bytes_ = static_cast<std::int64_t>(Communicator::reduction_scratch_bytes(
        ranks_, static_cast<std::size_t>(block_bytes_ / element * ranks_), dtype_));
  if (collective_ == Collective::all_reduce)
    reduction_bytes_ = static_cast<std::int64_t>(
        Communicator::reduction_scratch_bytes(ranks_, static_cast<std::size_t>(count_), dtype_));
}

std::int64_t CommunicationStep::bytes_sent() const {
  if (local_) return 0;
  switch (collective_) {
    case Collective::all_reduce:
      return 2 * (ranks_ - 1) * ((count_ + ranks_ - 1) / ranks_) * static_cast<std::int64_t>(size_of(dtype_));
    case Collective::send_receive:
      return to_ == index_ ? 0 : block_bytes_;
    default:
      return (ranks_ - 1) * block_bytes_;
  }
}

void CommunicationStep::run(Communicator* group, const void* operand, void* result, void* scratch,
                            ThreadPool& pool) const {
  const char* source = static_cast<const char*>(operand);
  char* target = static_cast<char*>(result);
  if (local_) {
    copy_out(pack_, source, index_, target, pool);
    return;
  }
  LONGHAUL_CHECK(group && group->size() == ranks_ && group->rank() == index_, "a collective on the wrong group");
  char* packed = static_cast<char*>(scratch);
  char* received = packed + pack_bytes_;
  char* reduction = received + unpack_bytes_;
  const void* send = source;
  if (packs_) {
    for (int i = 0; i < ranks_; ++i) copy_out(pack_, source, i, packed + i * block_bytes_, pool);
    send = packed;
  }
  void* receive = unpacks_ ? static_cast<void*>(received) : result;
  const auto block = static_cast<std::size_t>(block_bytes_);
  switch (collective_) {
    case Collective::all_gather:
      group->all_gather({}, send, receive, block).wait();
      break;
    case Collective::reduce_scatter:
      group->reduce_scatter({}, send, receive, block / size_of(dtype_), dtype_, reduction).wait();
      break;
    case Collective::all_reduce:
      group->all_reduce({}, send, receive, static_cast<std::size_t>(count_), dtype_, reduction).wait();
      break;
    case Collective::all_to_all:
      group->all_to_all({}, send, receive, block).wait();
      break;
    case Collective::send_receive:
      group->send_receive({}, send, block, to_, receive, block, from_).wait();
      break;
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
  if (unpacks_)
    for (int i = 0; i < ranks_; ++i) copy_in(unpack_, received + i * block_bytes_, i, target, pool);
}

}  // namespace longhaul
