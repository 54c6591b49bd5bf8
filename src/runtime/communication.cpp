#include "runtime/communication.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "ir/op_definition.h"
#include "kernels/cpu/copy_blocks.h"
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

// The rows of block `i`, as they lie in the tensor, beside the block's own; what of a block lies beyond the tensor is
// not among them.
cpu::BlockCopy rows_of_block(const BlockLayout& layout, std::int64_t i, std::int64_t& begin) {
  begin = std::min(i * layout.step, layout.size);
  cpu::BlockCopy rows{};
  rows.counts = {1, 1, 1, layout.outer};
  rows.run_bytes = std::min(layout.step, layout.size - begin) * layout.inner;
  return rows;
}

// Copies block `i` out of the tensor into `block`.
void copy_out(const BlockLayout& layout, const char* tensor, std::int64_t i, char* block, ThreadPool& pool) {
  std::int64_t begin = 0;
  cpu::BlockCopy rows = rows_of_block(layout, i, begin);
  const std::int64_t row = layout.step * layout.inner;
  rows.source = tensor + begin * layout.inner;
  rows.source_strides[3] = layout.size * layout.inner;
  rows.target = block;
  rows.target_strides[3] = row;
  cpu::copy_blocks(pool, rows);
  if (rows.run_bytes < row)
    for (std::int64_t o = 0; o < layout.outer; ++o)
      std::memset(block + o * row + rows.run_bytes, 0, static_cast<std::size_t>(row - rows.run_bytes));
}

void copy_in(const BlockLayout& layout, const char* block, std::int64_t i, char* tensor, ThreadPool& pool) {
  std::int64_t begin = 0;
  cpu::BlockCopy rows = rows_of_block(layout, i, begin);
  rows.source = block;
  rows.source_strides[3] = layout.step * layout.inner;
  rows.target = tensor + begin * layout.inner;
  rows.target_strides[3] = layout.size * layout.inner;
  cpu::copy_blocks(pool, rows);
}

// The blocks that lie whole in the tensor, of `blocks` that are `apart` bytes from each other. They are copied
// together, a row of the tensor at a time: memory delivers a row's pieces one after the other several times as fast as
// one block's pieces, which are a row apart.
std::int64_t whole_blocks(const BlockLayout& layout, std::int64_t blocks, std::int64_t apart, cpu::BlockCopy& rows,
                          std::array<std::int64_t, 4>& in_tensor, std::array<std::int64_t, 4>& in_blocks) {
  const std::int64_t row = layout.step * layout.inner,
                     whole = row > 0 ? std::min(blocks, layout.size / layout.step) : 0;
  rows.counts = {1, 1, layout.outer, whole};
  rows.run_bytes = row;
  in_tensor = {0, 0, layout.size * layout.inner, row};
  in_blocks = {0, 0, row, apart};
  return whole;
}

void pack(const BlockLayout& layout, const char* tensor, std::int64_t blocks, char* packed, std::int64_t apart,
          ThreadPool& pool) {
  cpu::BlockCopy rows{};
  std::int64_t i = whole_blocks(layout, blocks, apart, rows, rows.source_strides, rows.target_strides);
  rows.source = tensor;
  rows.target = packed;
  cpu::copy_blocks(pool, rows);
  for (; i < blocks; ++i) copy_out(layout, tensor, i, packed + i * apart, pool);
}

void unpack(const BlockLayout& layout, const char* packed, std::int64_t blocks, std::int64_t apart, char* tensor,
            ThreadPool& pool) {
  cpu::BlockCopy rows{};
  std::int64_t i = whole_blocks(layout, blocks, apart, rows, rows.target_strides, rows.source_strides);
  rows.source = packed;
  rows.target = tensor;
  cpu::copy_blocks(pool, rows);
  for (; i < blocks; ++i) copy_in(layout, packed + i * apart, i, tensor, pool);
}

using Clock = std::chrono::steady_clock;

// Adds the seconds since the last call, or construction, to what it is told.
class Stopwatch {
 public:
  explicit Stopwatch(bool runs) : runs_(runs), at_(runs ? Clock::now() : Clock::time_point()) {}
  void add_to(double CommunicationTimes::*kind, CommunicationTimes* times) {
    if (!runs_) return;
    const auto now = Clock::now();
    times->*kind += std::chrono::duration<double>(now - at_).count();
    at_ = now;
  }

 private:
  bool runs_;
  Clock::time_point at_;
};

}  // namespace

CommunicationStep::CommunicationStep(const Graph& graph, const Op& op, int rank) {
  axes_ = op.attributes.axes("axes");
  ranks_ = graph.mesh.count(axes_);
  index_ = graph.mesh.index(axes_, rank);
  dtype_ = graph[op.operands[0]].dtype;
  static constexpr std::pair<std::string_view, Collective> kinds[] = {{"slice", Collective::count_},
                                                                      {"all_gather", Collective::all_gather},
                                                                      {"reduce_scatter", Collective::reduce_scatter},
                                                                      {"all_reduce", Collective::all_reduce},
                                                                      {"all_to_all", Collective::all_to_all},
                                                                      {"shift", Collective::send_receive}};
  const auto kind = std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& one) { return op.is(one.first); });
  LONGHAUL_CHECK(kind != std::end(kinds), "{} is no collective", op.definition->name);
  collective_ = kind->second;
  local_ = collective_ == Collective::count_;
  if (collective_ == Collective::reduce_scatter || collective_ == Collective::all_to_all) send_blocks_ = ranks_;
  if (collective_ == Collective::all_gather || collective_ == Collective::all_to_all) receive_blocks_ = ranks_;
  if (collective_ == Collective::send_receive) {
    const int by = static_cast<int>(op.attributes.integer("by"));
    to_ = (index_ + by) % ranks_;
    from_ = (index_ - by + ranks_) % ranks_;
  }
  for (std::size_t i = 0; i < op.operands.size(); ++i) {
    const Value &from = graph[op.operands[i]], &to = graph[op.results[i]];
    add_part(op, from.dtype, local_shape(from.shape, from.layout, graph.mesh),
             local_shape(to.shape, to.layout, graph.mesh));
  }
  if (!local_) plan_staging();
}

void CommunicationStep::add_part(const Op& op, DType dtype, const Shape& before, const Shape& after) {
  const int dimension = static_cast<int>(op.attributes.integer("dimension", -1));
  const auto extent = [](const Shape& shape, int d) {
    return d < 0 ? element_count(shape) : shape[static_cast<std::size_t>(d)];
  };
  const auto whole = [&](const Shape& shape) { return cut(shape, -1, element_count(shape), dtype); };
  Part part;
  part.pack = whole(before);
  part.unpack = whole(after);
  if (local_ || collective_ == Collective::reduce_scatter)
    part.pack = cut(before, dimension, extent(after, dimension), dtype);
  if (collective_ == Collective::all_gather) part.unpack = cut(after, dimension, extent(before, dimension), dtype);
  if (collective_ == Collective::all_to_all) {
    const int split = static_cast<int>(op.attributes.integer("split"));
    part.pack = cut(before, split, extent(after, split), dtype);
    part.unpack = cut(after, dimension, extent(before, dimension), dtype);
  }
  // Each rank sums an equal piece: of several tensors every one is padded to that, as if it had come alone.
  if (collective_ == Collective::all_reduce && op.operands.size() > 1)
    part.pack.step = part.unpack.step = (part.pack.size + ranks_ - 1) / ranks_ * ranks_;
  part.offset = block_bytes_;
  if (!local_) {
    LONGHAUL_CHECK(part.pack.block_bytes() == part.unpack.block_bytes(), "{}: blocks differ", op.definition->name);
    block_bytes_ += part.pack.block_bytes();
  }
  parts_.push_back(part);
}

void CommunicationStep::plan_staging() {
  packs_ = unpacks_ = parts_.size() > 1;
  for (const Part& part : parts_) {
    packs_ |= !part.pack.contiguous(send_blocks_);
    unpacks_ |= !part.unpack.contiguous(receive_blocks_);
  }
  // In place where the collective allows it: what is gathered is packed where it will lie among the others', a sum is
  // left where the own part of it was.
  if (packs_ && collective_ != Collective::all_gather) send_bytes_ = aligned(block_bytes_ * send_blocks_);
  if (unpacks_ && collective_ != Collective::reduce_scatter && collective_ != Collective::all_reduce)
    receive_bytes_ = aligned(block_bytes_ * receive_blocks_);
  if (collective_ == Collective::reduce_scatter || collective_ == Collective::all_reduce)
    reduction_bytes_ = static_cast<std::int64_t>(Communicator::reduction_scratch_bytes(
        ranks_, static_cast<std::size_t>(block_bytes_ * send_blocks_) / size_of(dtype_), dtype_));
}

std::int64_t CommunicationStep::bytes_sent() const {
  if (local_) return 0;
  const auto element = static_cast<std::int64_t>(size_of(dtype_));
  switch (collective_) {
    case Collective::all_reduce:
      return 2 * (ranks_ - 1) * ((block_bytes_ / element + ranks_ - 1) / ranks_) * element;
    case Collective::send_receive:
      return to_ == index_ ? 0 : block_bytes_;
    default:
      return (ranks_ - 1) * block_bytes_;
  }
}

void CommunicationStep::run(Communicator* group, std::span<const void* const> operands, std::span<void* const> results,
                            void* scratch, ThreadPool& pool, CommunicationTimes* times) const {
  Stopwatch watch(times != nullptr);
  if (local_) {
    for (std::size_t p = 0; p < parts_.size(); ++p)
      copy_out(parts_[p].pack, static_cast<const char*>(operands[p]), index_, static_cast<char*>(results[p]), pool);
    return;
  }
  LONGHAUL_CHECK(group && group->size() == ranks_ && group->rank() == index_, "a collective on the wrong group");
  char* const sending = static_cast<char*>(scratch);
  char* const receiving = sending + send_bytes_;
  char* const reduction = receiving + receive_bytes_;
  const void* send = operands[0];
  if (packs_) {
    char* const packed = collective_ == Collective::all_gather ? receiving + index_ * block_bytes_ : sending;
    for (std::size_t p = 0; p < parts_.size(); ++p)
      pack(parts_[p].pack, static_cast<const char*>(operands[p]), send_blocks_, packed + parts_[p].offset, block_bytes_,
           pool);
    send = packed;
    watch.add_to(&CommunicationTimes::packing, times);
  }
  char* receive = static_cast<char*>(results[0]);
  if (unpacks_)
    receive = collective_ == Collective::reduce_scatter ? sending + index_ * block_bytes_
              : collective_ == Collective::all_reduce   ? sending
                                                        : receiving;
  if (times) {
    group->barrier();
    watch.add_to(&CommunicationTimes::waiting, times);
  }
  exchange(*group, send, receive, reduction);
  watch.add_to(&CommunicationTimes::moving, times);
  if (!unpacks_) return;
  for (std::size_t p = 0; p < parts_.size(); ++p)
    unpack(parts_[p].unpack, receive + parts_[p].offset, receive_blocks_, block_bytes_, static_cast<char*>(results[p]),
           pool);
  watch.add_to(&CommunicationTimes::packing, times);
}

void CommunicationStep::exchange(Communicator& group, const void* send, void* receive, void* reduction) const {
  const auto block = static_cast<std::size_t>(block_bytes_);
  switch (collective_) {
    case Collective::all_gather:
      group.all_gather(send, receive, block);
      break;
    case Collective::reduce_scatter:
      group.reduce_scatter(send, receive, block / size_of(dtype_), dtype_, reduction);
      break;
    case Collective::all_reduce:
      group.all_reduce(send, receive, block / size_of(dtype_), dtype_, reduction);
      break;
    case Collective::all_to_all:
      group.all_to_all(send, receive, block);
      break;
    case Collective::send_receive:
      group.send_receive(send, block, to_, receive, block, from_);
      break;
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
}

}  // namespace longhaul
