// The parameters of a live session on rank 0, piece by piece: nobody gathers the model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/spec.h"
#include "run/session.h"

namespace longhaul {

class ParameterPieces {
 public:
  /// Of parameters(spec), in their order; the session must have been built for `spec`, and outlive this. Collective.
  ParameterPieces(Session& session, const TransformerSpec& spec);

  std::size_t count() const { return tensors_.size(); }
  const StateTensor& tensor(std::size_t i) const { return *tensors_[i]; }

  /// On rank 0 `take` gets parameter i in pieces of at most piece_elements, each element once and in order, in
  /// tensor(i).dtype; on others it is not called. What it fails with is returned there once the parameter has been sent
  /// all the same (the others do not know of it yet): agree on it. Collective; throws as agree() does when rank 0 has
  /// no room for a piece.
  std::string for_each(std::size_t i,
                       const std::function<void(std::int64_t begin, std::int64_t end, const char* data)>& take);

  /// 4 MiB of float64.
  static constexpr std::int64_t piece_elements = 1 << 19;

 private:
  // Who holds which elements, each element once.
  struct Segment {
    std::int64_t begin = 0, end = 0;
    int rank = 0;
  };
  static std::vector<Segment> segments_of(const std::vector<std::int64_t>& ranges, std::int64_t count,
                                          const std::string& name);
  void gather_ranges();
  const char* fetch(const StateTensor& tensor, int owner, std::int64_t begin, std::int64_t end);

  Session& session_;
  Communicator& world_;
  std::vector<const StateTensor*> tensors_;
  std::vector<std::vector<Segment>> segments_;
  std::vector<std::byte> own_;
  std::vector<char> received_;
};

}  // namespace longhaul
