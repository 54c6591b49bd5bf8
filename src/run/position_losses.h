// Losses by how much context a token had: the metric of long contexts, from each token's own loss.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "run/session.h"

namespace longhaul {

/// Labels whose context is from `first` to 2 `first` - 1 tokens long (the last bucket: to the end of the sample). The
/// context of a label is the tokens of its own document before it in the sample.
struct PositionLoss {
  std::int64_t first = 1;
  double sum = 0, labels = 0;
};

class PositionLosses {
 public:
  /// For samples of `sequence` tokens: buckets from 1, 2, 4, ... tokens on.
  explicit PositionLosses(std::int64_t sequence);
  /// Adds what this rank's micro_batch() had in the last evaluation.
  void add(Session& session);
  /// Of all ranks; buckets without labels are left out. Collective.
  std::vector<PositionLoss> of_all(Communicator& world) const;

 private:
  std::vector<PositionLoss> buckets_;
  std::vector<double> room_;
};

}  // namespace longhaul
