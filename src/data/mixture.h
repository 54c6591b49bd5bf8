// Several sources of samples as one: which of them gives the next sample, and their samples under one numbering.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sampler.h"

namespace longhaul {

/// The place in one source: plain data, for a checkpoint.
struct SourceCursor {
  std::string name = {};   ///< "": data.files
  double weight = 1;       ///< by which `taken` came about
  std::int64_t taken = 0;  ///< samples that the mixture has had of it
  DataCursor cursor = {};
  bool operator==(const SourceCursor&) const = default;
};

/// The order of a mixture: by weights alone, without a seed. Of any first n samples each source has given its share,
/// n times its weight over all weights, up to less than one sample: R. Tijdeman's order for the chairman assignment
/// problem (Discrete Mathematics 32, 1980). Among the sources that are due it takes the one that must come first.
class MixtureOrder {
 public:
  /// Positive weights, at most 2^20 of them.
  explicit MixtureOrder(std::span<const double> weights);
  /// The source of the next sample, when each has given cursors[i].taken; counts it there.
  std::size_t next(std::span<SourceCursor> cursors) const;
  /// A source's part of all samples.
  double share(std::size_t source) const;

 private:
  std::vector<std::int64_t> weights_;  // of their sum
  std::int64_t sum_ = 0;
};

/// The sources' tokens, one behind the other, each begun at a whole sample, so that a sample of a source is one of this
/// stream. Behind a source's last token up to the next one's first there is padding, in no sample.
class MixedTokens : public TokenSource {
 public:
  /// `sources` must outlive this. Samples of `sequence_length`.
  MixedTokens(std::vector<const TokenSource*> sources, std::int64_t sequence_length);

  /// The number here of sample 0 of a source.
  std::int64_t first_sample(std::size_t source) const { return parts_[source].begin / length_; }
  /// Which source a sample is of.
  std::size_t source_of(std::int64_t sample) const { return part_of(sample * length_); }

  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override;
  bool has_loss_mask() const override;
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override;
  bool has_documents() const override;
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override;

 private:
  struct Part {
    const TokenSource* source;
    std::int64_t begin, end;  // here; padding included
  };
  std::size_t part_of(std::int64_t token) const;
  // Calls visit(source, first token in it, count, tokens done before) for what is no padding of tokens [begin, begin +
  // count).
  template <typename Visit>
  void each_piece(std::int64_t begin, std::int64_t count, Visit&& visit) const;

  std::int64_t length_, size_ = 0;
  std::vector<Part> parts_;
};

}  // namespace longhaul
