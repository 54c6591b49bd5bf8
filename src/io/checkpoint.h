// The checkpoint store: trainer state by global shape and element range, so that any number of ranks, in any layout,
// loads what any other number wrote.
//
//   <folder>/step-00000120/rank-00000.bin   the elements that rank 0 held, entry after entry
//                          rank-00001.bin
//                          manifest.json    written last: tensors, ranges, sizes, checksums, trainer state
//
// Everything is written and flushed in <folder>/.tmp-step-00000120, which is then renamed. A folder without a valid
// manifest is not a checkpoint. Every 4 MiB of an entry has its own XXH3 (64 bit), so that a rank
// that reads a part verifies that part only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace longhaul {

/// Elements [begin, end) of a tensor's row-major order.
struct ElementRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// What one rank holds of one state tensor and is to write. Over all ranks the ranges of a tensor must cover it exactly
/// once: a replicated tensor is written by one rank only; a flat padded split (ZeRO) or a split of dimension 0 is one
/// range a rank (padding left out); other splits are several. A rank that holds nothing makes no entry.
struct ShardEntry {
  std::string name;
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;   // of the whole tensor; rank 0 = one element
  std::vector<ElementRange> ranges;  // ascending, disjoint
  const void* data = nullptr;        // the ranges' elements one after the other, packed
  /// In place of data, of elements that are not in host memory: copies to.size() bytes of them, from `byte` on.
  std::function<void(std::int64_t byte, std::span<std::byte> to)> read = nullptr;

  /// The whole tensor.
  static ShardEntry whole(std::string name, DType dtype, std::vector<std::int64_t> shape, const void* data);
};

/// Elements of a shape (1 for rank 0). Throws Error when a size is negative or the product overflows.
std::int64_t element_count(std::span<const std::int64_t> shape);

/// The elements [begin, end) of a flat split in `parts` equal padded pieces that part `part` holds of a tensor of
/// `count` elements: ceil(count / parts) each, the last ones shorter or empty.
ElementRange flat_split(std::int64_t count, int parts, int part);

/// Writes checkpoints. Holds no state between calls, so that every rank (thread or process) has its own; the caller
/// does the communication:
///   rank 0: begin(step) · barrier · every rank: write_shard(step, rank, entries) · gather the fragments ·
///   rank 0: commit(step, fragments, state)
class CheckpointStore {
 public:
  /// `keep_latest_k`: how many checkpoints to keep, the newest ones; 0 keeps all.
  CheckpointStore(std::string folder, int keep_latest_k);

  /// Creates the folder where needed, removes temporary folders that an earlier run left, makes this step's. Throws
  /// Error.
  void begin(std::int64_t step);

  /// Writes and flushes this rank's file; returns its fragment of the manifest. Throws Error (a full disk, ...): then
  /// no rank may commit.
  std::string write_shard(std::int64_t step, int rank, std::span<const ShardEntry> entries);

  /// Checks that the fragments (of ranks 0 .. world-1, in order) cover every tensor exactly once and agree on dtypes
  /// and shapes, writes the manifest, renames the folder into place, and only then removes older whole checkpoints
  /// beyond keep_latest_k (a failure of that is a warning). A checkpoint of the same step is replaced. `state`: the
  /// trainer's own JSON (or any text), returned as it is by Checkpoint::state(). Throws Error; then the earlier
  /// checkpoints are as they were.
  void commit(std::int64_t step, std::span<const std::string> fragments, std::string_view state);

  /// Removes this step's temporary folder after a failure. Never throws.
  void abandon(std::int64_t step) noexcept;

 private:
  std::string folder_;
  int keep_latest_k_;
};

/// A manifest of a format that a later version of the program writes. Not damage: passing over it would go on from an
/// older checkpoint, or from nothing.
class NewerFormat : public Error {
 public:
  using Error::Error;
};

struct CheckpointTensor {
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
};

/// One checkpoint, opened for reading. Reads may come from several threads.
class Checkpoint {
 public:
  /// `path`: the folder of one checkpoint. Verifies the manifest (checksum, version, full cover of every tensor) and
  /// that every file is there with its size; reads no tensor. Throws SystemError when the system did not let it be
  /// read, NewerFormat, or Error for damage, saying what is wrong.
  explicit Checkpoint(const std::string& path);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const;
  std::int64_t step() const;
  /// Ranks that wrote it.
  int world() const;
  const std::string& state() const;
  const std::map<std::string, CheckpointTensor, std::less<>>& tensors() const;

  /// Copies elements [begin, end) of a tensor to `destination`, from whichever ranks wrote them, after verifying the
  /// checksums of the parts read. Throws Error when there is no such tensor, its dtype or shape differs from what is
  /// asked (nothing is converted here), or the bytes are corrupted; UnreadablePlace and SystemError as ReadFile does.
  void read(std::string_view name, DType dtype, std::span<const std::int64_t> shape, std::int64_t begin,
            std::int64_t end, void* destination) const;

  /// Verifies every checksum of part `part` of `parts` equal parts of the data (so that ranks share the work). Throws
  /// as read() does, naming the file, offset and tensor.
  void verify(int part = 0, int parts = 1) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct CheckpointLocation {
  std::int64_t step = 0;
  std::string path;
};

/// The checkpoint folders (whole or not) in a folder, newest first; none when the folder does not exist.
/// Throws Error when it cannot be read.
std::vector<CheckpointLocation> list_checkpoints(const std::string& folder);

/// On file systems that cannot exchange two folders in one step a checkpoint is replaced in two; when a run was killed
/// between them, its name leads nowhere. Puts the new one there. Call it before listing, on one rank. Never throws.
void finish_interrupted_replacements(const std::string& folder) noexcept;

}  // namespace longhaul
