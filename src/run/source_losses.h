// The losses of a step by the source that each sample came from.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "run/session.h"
#include "run/source.h"

namespace longhaul {

struct SourceLoss {
  std::string name;
  double sum = 0, labels = 0;
};

class SourceLosses {
 public:
  /// Of a mixture, which must outlive this; of anything else nothing is ever there.
  explicit SourceLosses(const DataSource& source) : source_(source), sums_(2 * source.parts.size()) {}
  bool active() const { return !sums_.empty(); }
  void clear() { std::fill(sums_.begin(), sums_.end(), 0.0); }
  /// Adds what this rank had in a micro-batch of the step's samples, after its program has run.
  void add(Session& session, const std::vector<std::int64_t>& samples, std::int64_t micro_batch);
  /// Of all ranks, one a source. Collective where active().
  std::vector<SourceLoss> of_all(Communicator& world) const;

 private:
  const DataSource& source_;
  std::vector<double> sums_;  // a source's sum and its labels, one behind the other
  std::vector<double> room_;
};

}  // namespace longhaul
