// A sum into some rows of every block.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// x holds `sequences` x `blocks` blocks of `rows` rows of `row` elements, the part as many of `part_rows` rows.
struct AddRows {
  DType type;        ///< of both, floating
  void* x;           ///< [sequences, blocks, rows, row], changed in place
  const void* part;  ///< [sequences, blocks, part_rows, row]
  std::int64_t sequences, blocks, rows, part_rows, row;
  std::int64_t from;  ///< the first of the rows that are added to
  std::int64_t step;  ///< in [0, blocks)
};

/// x[s, i, from + r, :] += part[s, (i - step) mod blocks, r, :].
void add_rows(ThreadPool& pool, const AddRows& problem);

}  // namespace longhaul::cpu
