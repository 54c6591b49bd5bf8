// Fills what the graph reads for one micro-batch of one rank: the rank's own slice of each sequence, nothing else.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "model/batch.h"

namespace longhaul {

enum class Packing : std::uint8_t {
  none,       // documents attend to each other; key_start 0, position = index
  documents,  // per document: key_start is its first token's index (0 for one that began before the sample), position
              // counts from there, and a label that belongs to the next document is ignored
};

/// The global indices [begin, end) in order: the slice of a rank that holds a contiguous part of the padded sequence.
std::vector<std::int32_t> contiguous_order(std::int32_t begin, std::int32_t end);

/// The order of one row's slots: the global index, in the padded sequence, of the token in each; any list, so that
/// any other order is the caller's choice. Given where the row's documents begin (ascending indices, the first
/// 0; {0} when they are not packed) and its tokens without padding; all rows' orders are equally long.
using RowOrder =
    std::function<std::span<const std::int32_t>(std::span<const std::int32_t> starts, std::int32_t length)>;

class SequenceLoader {
 public:
  /// Samples of `sequence_length` (S) inputs. Throws Error for Packing::documents of a source without document ends.
  SequenceLoader(const TokenSource& source, std::int64_t sequence_length, Packing packing = Packing::none);

  /// Fills a row for each of `samples`, global sample numbers (see Sampler), and gives every field of the batch their
  /// size. Indices >= S are padding: token 0, ignored
  /// label, key_start = own index, position 0. Returns the number of labels that are not ignored. Allocates nothing
  /// after the first call unless documents are packed.
  std::int64_t fill(std::span<const std::int64_t> samples, const RowOrder& order, HostBatch& batch);
  /// The same with one order for all rows.
  std::int64_t fill(std::span<const std::int64_t> samples, std::span<const std::int32_t> order, HostBatch& batch);

  /// Where a sample's documents begin, as RowOrder gets it. Valid until the next call.
  std::span<const std::int32_t> document_starts(std::int64_t sample);
  /// Labels of a sample that are learned from: all but those that a mask leaves out or that are of another document.
  std::int64_t labels(std::int64_t sample);
  /// With packing, of the document that a sample's begin cuts in two: whether there is one, and whether it ends in this
  /// sample.
  struct Cut {
    bool there = false, ends = false;
  };
  Cut cut(std::int64_t sample);
  /// S: tokens of a sample.
  std::int32_t length() const { return sequence_length_; }
  /// Whether some label may be left out.
  bool leaves_labels_out() const { return packing_ == Packing::documents || source_.has_loss_mask(); }
  Packing packing() const { return packing_; }

 private:
  // `count` real tokens of one row, whose global indices follow each other from `index` on.
  void fill_run(std::int64_t first_token, std::int32_t index, std::int64_t count, std::int64_t at,
                HostBatch& batch) const;

  const TokenSource& source_;
  std::int32_t sequence_length_;
  Packing packing_;
  std::vector<std::int64_t> ends_;    // document ends inside the current row's sample
  std::vector<std::int32_t> starts_;  // and its documents' first indices
};

}  // namespace longhaul
