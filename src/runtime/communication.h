// One collective op as data movement: pack into blocks, communicate, unpack. Strides and sizes are fixed at compile
// time. A target carries it out (src/runtime/cpu/communication_run.h).
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "ir/graph.h"

namespace longhaul {

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

/// A lowered collective on this rank, of one tensor or several, as a description: what a target packs, sends and
/// unpacks. Several tensors travel as one message to each rank, in which their blocks stand one behind the other; each
/// is read once to pack it and written once to unpack it.
struct CommunicationStep {
  /// `rank` is the rank in the whole world.
  CommunicationStep(const Graph& graph, const Op& op, int rank);

  /// A slice: nothing is sent, the block `index` of each operand is its result.
  bool is_local() const { return collective == Collective::count_; }
  /// Staging and reduction space, in bytes (64-byte multiples).
  std::int64_t scratch_bytes() const { return send_bytes + receive_bytes + reduction_bytes; }
  /// Bytes that this rank sends, by the formulas of Traffic. Those of several tensors are the sum of each one's.
  std::int64_t bytes_sent() const;

  struct Part {
    BlockLayout pack, unpack;  // of the operand in what is sent, of the result in what is received
    std::int64_t offset = 0;   // of this tensor in a block
  };

  Collective collective = Collective::count_;  // count_: a slice
  AxisList axes;                               // the group: ranks that differ on these only
  int ranks = 1, index = 0;                    // of the group, and this rank's place in it
  int to = 0, from = 0;                        // of send_receive: places in the group
  DType dtype = DType::float32;                // of the elements that are summed
  std::vector<Part> parts;                     // one an operand and its result
  std::int64_t block_bytes = 0;                // what goes to, or comes from, one rank
  int send_blocks = 1, receive_blocks = 1;
  /// Whether the operands do not lie as they are sent, the results not as they are received.
  bool packs = false, unpacks = false;
  std::int64_t send_bytes = 0, receive_bytes = 0, reduction_bytes = 0;  // of scratch, in this order

 private:
  void add_part(const Op& op, DType type, const Shape& before, const Shape& after);
  void plan_staging();
};

}  // namespace longhaul
