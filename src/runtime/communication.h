// One collective op as data movement: pack into blocks, communicate, unpack. Strides and sizes are fixed at compile
// time.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "ir/graph.h"

namespace longhaul {

class ThreadPool;

/// `blocks` equal or shrinking boxes copied between a tensor and consecutive blocks of a staging buffer: block i covers
/// [i·step, i·step + step) of one dimension, cut off at that dimension's size (what is cut off is zero in the staging
/// buffer).
struct BlockLayout {
  std::int64_t outer = 1;  // product of the dimensions before it
  std::int64_t size = 1;   // the tensor's extent in that dimension
  std::int64_t step = 1;   // a block's extent in it
  std::int64_t inner = 1;  // bytes of one index of it: product of the dimensions after it, times the element size
  std::int64_t block_bytes() const { return outer * step * inner; }
  /// One block is one piece of memory in the tensor as well, and nothing is cut off: no packing.
  bool contiguous(std::int64_t blocks) const { return outer == 1 && blocks * step == size; }
};

/// Where the seconds of a collective went on this rank.
struct CommunicationTimes {
  double waiting = 0;  // until all ranks of the group had come to it
  double moving = 0;   // in the collective
  double packing = 0;  // copies into staging buffers and out of them
};

/// A lowered collective on this rank, of one tensor or several. Several travel as one message to each rank, in which
/// the tensors' blocks stand one behind the other; each tensor is read once to pack it and written once to unpack it.
class CommunicationStep {
 public:
  /// `rank` is the rank in the whole world.
  CommunicationStep(const Graph& graph, const Op& op, int rank);

  const AxisList& axes() const { return axes_; }
  /// Staging and reduction space, in bytes (64-byte multiples).
  std::int64_t scratch_bytes() const { return send_bytes_ + receive_bytes_ + reduction_bytes_; }
  /// Bytes that this rank sends, by the formulas of Traffic. Those of several tensors are the sum of each one's.
  std::int64_t bytes_sent() const;
  Collective collective() const { return collective_; }
  bool is_local() const { return local_; }

  /// Runs on the group of axes(); `group` may be null for a slice. One operand and result a tensor. With `times`, which
  /// all ranks of the group must ask for together, the ranks first wait for one another; seconds are added to it.
  void run(Communicator* group, std::span<const void* const> operands, std::span<void* const> results, void* scratch,
           ThreadPool& pool, CommunicationTimes* times = nullptr) const;

 private:
  struct Part {
    BlockLayout pack, unpack;  // of the operand in what is sent, of the result in what is received
    std::int64_t offset = 0;   // of this tensor in a block
  };
  void add_part(const Op& op, DType dtype, const Shape& before, const Shape& after);
  void plan_staging();
  void exchange(Communicator& group, const void* send, void* receive, void* reduction) const;

  bool local_ = false;  // a slice
  Collective collective_ = Collective::all_gather;
  AxisList axes_;
  int ranks_ = 1, index_ = 0;
  DType dtype_ = DType::float32;  // of the elements that are summed
  std::vector<Part> parts_;
  int send_blocks_ = 1, receive_blocks_ = 1;
  std::int64_t block_bytes_ = 0;  // what goes to, or comes from, one rank
  bool packs_ = false, unpacks_ = false;
  std::int64_t send_bytes_ = 0, receive_bytes_ = 0, reduction_bytes_ = 0;  // of scratch, in this order
  int to_ = 0, from_ = 0;                                                  // shift
};

}  // namespace longhaul
