#include "run/repeated_step.h"

#include <xxhash.h>

#include <bit>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/host.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

// Of each gradient, what this rank holds.
std::vector<std::uint64_t> hashes(Session& session) {
  std::vector<std::uint64_t> all;
  std::vector<std::byte> room;
  for (const StateTensor& tensor : session.state()) {
    if (tensor.key.role != Role::gradient) continue;
    const auto bytes = session.elements(tensor, tensor.begin, tensor.end, room);
    all.push_back(XXH3_64bits(bytes.data(), bytes.size()));
  }
  return all;
}

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace

void compute_again(Session& session, std::int64_t step, const StepResult& first, std::int64_t micro_batches,
                   const std::function<void(std::int64_t)>& fill) {
  const std::vector<std::uint64_t> before = hashes(session);
  const StepResult second = session.accumulate(micro_batches, fill);
  const std::vector<std::uint64_t> after = hashes(session);
  std::string names;
  int count = 0;
  std::size_t i = 0;
  for (const StateTensor& tensor : session.state()) {
    if (tensor.key.role != Role::gradient) continue;
    if (before[i] != after[i] && ++count <= 3) names += fmt::format("{}{}", names.empty() ? "" : ", ", tensor.name);
    ++i;
  }
  std::string mine;
  if (count > 0) mine = fmt::format("{} of {} gradients ({}{})", count, before.size(), names, count > 3 ? ", ..." : "");
  if (!same_bits(first.loss, second.loss))
    mine += fmt::format("{}the loss, {} and then {}", mine.empty() ? "" : ", ", first.loss, second.loss);
  if (!same_bits(first.valid_tokens, second.valid_tokens))
    mine += fmt::format("{}the number of labels, {} and then {}", mine.empty() ? "" : ", ", first.valid_tokens,
                        second.valid_tokens);
  if (!mine.empty()) mine = fmt::format("rank {} on host {}: {}", session.world().rank(), host_name(), mine);
  std::string all;
  for (const std::string& one : gather_texts(session.world(), mine))
    if (!one.empty()) all += fmt::format("{}{}", all.empty() ? "" : "; ", one);
  if (!all.empty())
    fail(
        "step {} was computed twice (checkpoint.verify_steps) with different results: {}. The same program on the same "
        "numbers gives the same bits: memory, a processor, or a file that changed is at fault where the first of these "
        "ranks is; nothing was updated or saved",
        step, all);
}

}  // namespace longhaul
