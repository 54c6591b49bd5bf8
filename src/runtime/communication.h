// One collective op as data movement: pack into blocks, communicate, unpack. Strides and sizes are fixed at compile
// time.
#pragma once
#include <array>
#include <cstdint>
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

/// A lowered collective on this rank.
class CommunicationStep {
 public:
  /// `rank` is the rank in the whole world.
  CommunicationStep(const Graph& graph, const Op& op, int rank);

  const AxisList& axes() const { return axes_; }
  /// Staging and reduction space, in bytes (64-byte multiples).
  std::int64_t scratch_bytes() const { return pack_bytes_ + unpack_bytes_ + reduction_bytes_; }
  /// Bytes that this rank sends, by the formulas of Traffic.
  std::int64_t bytes_sent() const;
  Collective collective() const { return collective_; }
  bool is_local() const { return local_; }

  /// Runs on the group of axes(); `group` may be null for a slice.
  void run(Communicator* group, const void* operand, void* result, void* scratch, ThreadPool& pool) const;

 private:
  bool local_ = false;  // a slice
  Collective collective_ = Collective::all_gather;
  AxisList axes_;
  int ranks_ = 1, index_ = 0;
  DType dtype_ = DType::float32;
  std::int64_t count_ = 0;  // elements of an all_reduce
  BlockLayout pack_, unpack_;
  bool packs_ = false, unpacks_ = false;
  std::int64_t block_bytes_ = 0;  // what goes to, or comes from, one rank
  std::int64_t pack_bytes_ = 0, unpack_bytes_ = 0, reduction_bytes_ = 0;
  int to_ = 0, from_ = 0;  // shift
};

}  // namespace longhaul
