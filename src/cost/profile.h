// What a machine does in a second, as a JSON file that people read and write: the shipped ones of configs/clusters,
// with the source of every number, and those that `longhaul calibrate` measures.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"

namespace longhaul {

/// Points (x, y), x ascending; in between by straight lines, beyond its ends as at them. Only + - * /: the same bits on
/// every machine.
class Curve {
 public:
  Curve() = default;
  explicit Curve(std::vector<std::pair<double, double>> points) : points_(std::move(points)) {}
  double at(double x) const;
  const std::vector<std::pair<double, double>>& points() const { return points_; }

 private:
  std::vector<std::pair<double, double>> points_;
};

/// Matrix products in one dtype.
struct ProductProfile {
  double peak = 1;   ///< FLOP/s of one rank
  Curve efficiency;  ///< by the FLOPs of a product: the share of the peak that it reaches
  std::string source;
};

/// Attention in one dtype, by head_dim: FLOP/s of the pairs that are computed, two products forward and five backward.
struct AttentionProfile {
  Curve forward, backward;
  std::int64_t tile = 1;  ///< keys of a tile: the kernel computes whole ones
  std::string source;
};

/// What a rank sends to others of its host, or of other hosts.
struct LinkProfile {
  double latency = 0;    ///< seconds until the first byte, for each doubling of the group
  double bandwidth = 1;  ///< bytes a second that leave a rank while all send
  double reducing = 1;   ///< the same where sums are made on the way
  std::string source;
};

struct MachineProfile {
  std::string name;
  std::string about;
  std::int64_t ranks_per_host = 1;
  std::int64_t device_memory = 0;  ///< bytes that a rank may plan
  std::int64_t host_memory = 0;    ///< bytes of a host, for all its ranks
  std::string memory_source;
  double launch = 0;                                ///< seconds that an instruction takes besides its work
  double bandwidth = 1;                             ///< bytes a second that a rank's ops read and write
  std::map<std::string, double> op_bandwidth = {};  ///< of ops, by name, that move theirs at another rate
  std::string execution_source;
  std::map<DType, ProductProfile> products;
  std::map<DType, AttentionProfile> attention;
  LinkProfile host;
  std::optional<LinkProfile> network;  ///< none: never measured between hosts
};

/// Reads a profile. Throws Error, naming the file, the line and what is allowed, for a syntax error, a key that is
/// missing, unknown or twice there, a number out of its range, a curve whose points do not ascend, an op or a dtype
/// that does not exist, and a number without a source.
MachineProfile parse_profile(std::string_view text, const std::string& origin);
MachineProfile read_profile(const std::filesystem::path& file);

/// As JSON that parse_profile reads to the same numbers.
std::string profile_text(const MachineProfile& profile);

}  // namespace longhaul
