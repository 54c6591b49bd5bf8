// A model that goes on with a sequence token by token, with the keys and values of earlier tokens kept: one rank, on
// the CPU, its programs compiled from the same spec as a run's (continuation_graph in model/graph.h).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "model/spec.h"
#include "run/session.h"
#include "runtime/executor.h"
#include "runtime/program.h"
#include "runtime/target.h"

namespace longhaul {

class ThreadsWorld;

class Generator {
 public:
  /// `spec` as a file or a checkpoint has it; `capacity`: the most tokens that a sequence may come to. RoPE that
  /// depends on the length of sequences (dynamic, longrope) is that of `capacity` tokens. `dtype`: of activations,
  /// parameters and the cache (floating). `threads`: of the host. Throws Error for more tokens than a table of learned
  /// positions has. Parameters are zero until set_parameters.
  Generator(const TransformerSpec& spec, std::int64_t capacity, DType dtype, int threads);
  ~Generator();
  Generator(const Generator&) = delete;

  void set_parameters(const ParameterSource& source);
  /// Elements [begin, end) of one, given in `type` (float64, float32).
  void set_elements(const std::string& parameter, std::int64_t begin, std::int64_t end, const void* data, DType type);

  /// Forgets the sequence.
  void restart() { length_ = 0; }
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t vocabulary() const { return spec_.vocabulary; }
  /// Appends tokens (at least one) to the sequence and returns the logits of the next one, [vocabulary], scaled and
  /// capped as the loss has them. Throws Error for a token outside the vocabulary and beyond the capacity.
  std::vector<double> append(std::span<const std::int32_t> tokens);

  /// Of parameters, cache and activations.
  std::int64_t bytes() const { return executor_->arena_bytes(); }

 private:
  void run(std::size_t program, std::span<const std::int32_t> tokens, std::int64_t count);

  const TransformerSpec spec_;
  const std::int64_t capacity_;
  const DType dtype_;
  std::vector<std::byte> narrow_;  // of elements on their way
  std::int64_t chunk_ = 1, length_ = 0;
  std::unique_ptr<ThreadsWorld> world_;
  std::vector<std::unique_ptr<Communicator>> alone_;
  std::shared_ptr<Target> target_;
  std::vector<std::unique_ptr<Program>>
      programs_;  // one token with logits; a chunk without, when there is room for one
  std::unique_ptr<Executor> executor_;
};

/// How the next token is taken from its logits.
struct Sampling {
  double temperature = 0;  ///< 0: the likeliest token; else logits are divided by it
  double top_p = 1;        ///< of the likeliest tokens, as few as have this much of the probability together
  std::uint64_t seed = 0;
};

/// The token that follows. A draw depends on the seed, the sequence's number, the token's place in it and the logits
/// alone. Of equal logits the lowest token is taken. Throws Error for logits that are not finite.
std::int32_t choose_token(std::span<const double> logits, const Sampling& sampling, std::uint64_t sequence,
                          std::int64_t place);

/// Goes on with `prompt` (at least one token) until a token of `ends`, which is not returned, or `max_tokens` new ones.
/// `told` is called with each as it is made. Throws Error when prompt and new tokens exceed the generator's capacity.
std::vector<std::int32_t> generate(Generator& generator, std::span<const std::int32_t> prompt, std::int64_t max_tokens,
                                   const Sampling& sampling, const std::set<std::int32_t>& ends,
                                   std::uint64_t sequence = 0, const std::function<void(std::int32_t)>& told = nullptr);

}  // namespace longhaul
