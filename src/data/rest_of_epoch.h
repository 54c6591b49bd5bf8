// What is left of an epoch when samples become longer or shorter, or are shuffled anew, in its midst.
#pragma once
#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "data/sampler.h"

namespace longhaul {

/// A source that has, behind all tokens of another one, those again that earlier samples of an epoch have not reached,
/// in stream order: samples from first_sample() on are cut from them. Where tokens were taken out between two
/// neighbours there is a joint: a document ends there for whoever packs documents, and the token behind it is no label.
class RestOfEpoch : public TokenSource {
 public:
  /// `source` must outlive this. `sequence_length`: of the samples that will be cut.
  RestOfEpoch(const TokenSource& source, std::int64_t sequence_length, std::int64_t epoch,
              const std::vector<EarlierSamples>& earlier);

  std::int64_t first_sample() const { return begin_ / sequence_length_; }
  /// How many samples are left; may be 0.
  std::int64_t samples() const { return rest_ > 0 ? (rest_ - 1) / sequence_length_ : 0; }
  std::int64_t tokens() const { return rest_; }
  std::int64_t joints() const { return static_cast<std::int64_t>(runs_.size()) - 1; }

  std::int64_t size() const override { return begin_ + rest_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override;
  bool has_loss_mask() const override { return joints() > 0 || source_.has_loss_mask(); }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override;
  bool has_documents() const override { return source_.has_documents(); }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override;

 private:
  // Tokens that follow each other in the source; `at`: where the first lies in the rest.
  struct Run {
    std::int64_t at, begin, end;
  };
  static std::vector<Run> without(const std::vector<Run>& runs, std::int64_t epoch, const EarlierSamples& taken);
  // Calls visit(first token in the source, number) for the pieces of tokens [begin, begin + count) of this stream.
  template <typename Visit>
  void each_piece(std::int64_t begin, std::int64_t count, Visit&& visit) const;

  const TokenSource& source_;
  std::int64_t sequence_length_, begin_ = 0, rest_ = 0;
  std::vector<Run> runs_;
};

}  // namespace longhaul
