#include "runtime/cpu/communication_run.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/copy_blocks.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul {
namespace {

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

// Where a step's messages lie in its scratch, if they do. In place where the collective allows it: what is gathered is
// packed where it will lie among the others', a sum is left where the own part of it was.
char* packed_in(const CommunicationStep& step, void* scratch) {
  char* const sending = static_cast<char*>(scratch);
  return step.collective == Collective::all_gather ? sending + step.send_bytes + step.index * step.block_bytes
                                                   : sending;
}
char* received_in(const CommunicationStep& step, void* scratch) {
  char* const sending = static_cast<char*>(scratch);
  return step.collective == Collective::reduce_scatter ? sending + step.index * step.block_bytes
         : step.collective == Collective::all_reduce   ? sending
                                                       : sending + step.send_bytes;
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

void exchange(const CommunicationStep& step, Communicator& group, const void* send, void* receive, void* reduction) {
  const auto block = static_cast<std::size_t>(step.block_bytes);
  switch (step.collective) {
    case Collective::all_gather:
      group.all_gather(send, receive, block);
      break;
    case Collective::reduce_scatter:
      group.reduce_scatter(send, receive, block / size_of(step.dtype), step.dtype, reduction);
      break;
    case Collective::all_reduce:
      group.all_reduce(send, receive, block / size_of(step.dtype), step.dtype, reduction);
      break;
    case Collective::all_to_all:
      group.all_to_all(send, receive, block);
      break;
    case Collective::send_receive:
      group.send_receive(send, block, step.to, receive, block, step.from);
      break;
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
}

}  // namespace

void pack_communication(const CommunicationStep& step, std::span<const void* const> operands, void* scratch,
                        ThreadPool& pool) {
  if (!step.packs) return;
  char* const packed = packed_in(step, scratch);
  for (std::size_t p = 0; p < step.parts.size(); ++p)
    pack(step.parts[p].pack, static_cast<const char*>(operands[p]), step.send_blocks, packed + step.parts[p].offset,
         step.block_bytes, pool);
}

void exchange_communication(const CommunicationStep& step, Communicator* group, std::span<const void* const> operands,
                            std::span<void* const> results, void* scratch, CommunicationTimes* times) {
  LONGHAUL_CHECK(group && group->size() == step.ranks && group->rank() == step.index,
                 "a collective on the wrong group");
  Stopwatch watch(times != nullptr);
  if (times) {
    group->barrier();
    watch.add_to(&CommunicationTimes::waiting, times);
  }
  char* const reduction = static_cast<char*>(scratch) + step.send_bytes + step.receive_bytes;
  exchange(step, *group, step.packs ? packed_in(step, scratch) : operands[0],
           step.unpacks ? received_in(step, scratch) : static_cast<char*>(results[0]), reduction);
  watch.add_to(&CommunicationTimes::moving, times);
}

void unpack_communication(const CommunicationStep& step, std::span<void* const> results, void* scratch,
                          ThreadPool& pool) {
  if (!step.unpacks) return;
  const char* const receive = received_in(step, scratch);
  for (std::size_t p = 0; p < step.parts.size(); ++p)
    unpack(step.parts[p].unpack, receive + step.parts[p].offset, step.receive_blocks, step.block_bytes,
           static_cast<char*>(results[p]), pool);
}

void run_communication(const CommunicationStep& step, Communicator* group, std::span<const void* const> operands,
                       std::span<void* const> results, void* scratch, ThreadPool& pool, CommunicationTimes* times) {
  if (step.is_local()) {
    for (std::size_t p = 0; p < step.parts.size(); ++p)
      copy_out(step.parts[p].pack, static_cast<const char*>(operands[p]), step.index, static_cast<char*>(results[p]),
               pool);
    return;
  }
  Stopwatch watch(times != nullptr);
  pack_communication(step, operands, scratch, pool);
  watch.add_to(&CommunicationTimes::packing, times);
  exchange_communication(step, group, operands, results, scratch, times);
  Stopwatch behind(times != nullptr);
  unpack_communication(step, results, scratch, pool);
  behind.add_to(&CommunicationTimes::packing, times);
}

}  // namespace longhaul
