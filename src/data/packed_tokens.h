// Documents packed whole into samples: a stream in which every sample of S tokens holds documents one behind the other
// and, where none fits any more, padding.
//
// Best fit decreasing over windows of documents: of a window, in the order of the stream, longer documents come first
// (equal ones in their order), and each goes where it leaves least room, into the sample that was begun first of
// several. What a sample holds depends on the documents' lengths alone: not on ranks, threads or the seed, which
// shuffles samples.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "config/experiment.h"
#include "data/dataset.h"

namespace longhaul {

struct PackingCounts {
  std::int64_t documents = 0;    // of the data
  std::int64_t longest = 0;      // tokens
  std::int64_t longer = 0;       // documents longer than a sample: split, truncated or skipped
  std::int64_t lost_tokens = 0;  // of truncated and skipped documents
  std::int64_t padding = 0;      // tokens of samples that are of no document
  std::int64_t samples = 0;
};

/// Stands on `source` (which must outlive it and say where documents end). Sample i is tokens [iS, (i+1)S); one more
/// token, of padding, ends the stream, as Sampler counts. Padding is a document of its own at its sample's end, of
/// token 0, and no label.
class PackedTokens : public TokenSource {
 public:
  /// Reads every document's end. Documents longer than a sample: split, into pieces of a sample's length and a shorter
  /// one, each packed like a document; or only their first S tokens; or nothing of them. Throws Error for a source
  /// without documents, and when none is left.
  PackedTokens(const TokenSource& source, std::int64_t sequence_length, LongDocuments longer,
               std::int64_t window = std::int64_t{1} << 20);

  const PackingCounts& counts() const { return counts_; }

  std::int64_t size() const override { return counts_.samples * length_ + 1; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override;
  bool has_loss_mask() const override { return true; }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override;
  bool has_documents() const override { return true; }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override;

 private:
  struct Piece {
    std::int64_t source;  // its first token there
    std::int64_t place;   // and here
    std::int64_t length;
  };
  void pack(std::vector<Piece>& window);
  // Calls run(piece or null for padding, offset in the piece, count, done) for what tokens [begin, begin + count) are.
  template <typename Function>
  void each_run(std::int64_t begin, std::int64_t count, Function&& run) const;

  const TokenSource& source_;
  const std::int64_t length_;
  std::vector<Piece> pieces_;  // by place
  PackingCounts counts_;
};

}  // namespace longhaul
