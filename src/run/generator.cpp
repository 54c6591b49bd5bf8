#include "run/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "comm/threads/world.h"
#include "ir/state.h"
#include "model/graph.h"
#include "model/initialise.h"
#include "model/parameters.h"
#include "model/rope.h"
#include "passes/pass.h"
#include "passes/plan_memory.h"
#include "run/target.h"

namespace longhaul {
namespace {

// New tokens that one run takes in without their logits.
constexpr std::int64_t largest_chunk = 128;
// Of parameters that are converted on their way, at a time.
constexpr std::int64_t piece_elements = 1 << 20;

std::unique_ptr<Program> compile(const TransformerSpec& spec, const Continuation& tokens, const char* name) {
  auto program = std::make_unique<Program>();
  program->graph = continuation_graph(spec, tokens, Mesh());
  program->graph.name = name;
  CompileOptions options;
  options.precision = {
      .dtype = tokens.dtype, .gradient = master_dtype(tokens.dtype), .gradient_reduce = master_dtype(tokens.dtype)};
  // It has no loss: of the passes that make the specification none has anything to do.
  run_passes(program->graph, {options, ProgramKind::evaluate}, specification_passes(),
             static_cast<int>(pipeline().size()));
  return program;
}

}  // namespace

Generator::Generator(const TransformerSpec& spec, std::int64_t capacity, DType dtype, int threads)
    : spec_(at_length(spec, capacity)), capacity_(capacity), dtype_(dtype) {
  LONGHAUL_CHECK(capacity > 0 && is_floating(dtype), "a generator of {} tokens in {}", capacity, name_of(dtype));
  if (spec_.learned_positions && capacity > spec_.max_positions)
    fail("prompt and new tokens come to {}, but the model has a table of {} learned positions", capacity,
         spec_.max_positions);
  chunk_ = std::min(largest_chunk, capacity);
  programs_.push_back(compile(spec_, {.count = 1, .capacity = capacity, .dtype = dtype, .logits = true}, "continue"));
  if (chunk_ > 1)
    programs_.push_back(
        compile(spec_, {.count = chunk_, .capacity = capacity, .dtype = dtype, .logits = false}, "take_in"));

  target_ = host_target(threads);
  std::vector<const Graph*> graphs;
  std::vector<const Program*> programs;
  for (const auto& program : programs_) {
    graphs.push_back(&program->graph);
    programs.push_back(program.get());
  }
  const NamedBuffers named = plan_named_buffers(graphs);
  for (const auto& program : programs_)
    program->plan = plan_memory(program->graph, named,
                                [&](const Graph& graph, const Op& op) { return target_->scratch_bytes(graph, op); });
  world_ = std::make_unique<ThreadsWorld>(1);
  alone_ = world_->communicators();
  executor_ = target_->executor(*alone_.front(), programs, named);

  std::vector<std::int32_t> rows(static_cast<std::size_t>(capacity));
  std::iota(rows.begin(), rows.end(), 0);
  executor_->write("cache.index", 0, std::as_bytes(std::span(rows)));
}

Generator::~Generator() = default;

void Generator::set_parameters(const ParameterSource& source) {
  const DType master = master_dtype(dtype_);
  std::vector<std::byte> piece;
  for (const Parameter& parameter : parameters(spec_))
    for (std::int64_t begin = 0; begin < parameter.elements(); begin += piece_elements) {
      const std::int64_t end = std::min(begin + piece_elements, parameter.elements());
      piece.resize(static_cast<std::size_t>(end - begin) * size_of(master));
      source(parameter.name, begin, end, master, piece.data());
      set_elements(parameter.name, begin, end, piece.data(), master);
    }
}

void Generator::set_elements(const std::string& parameter, std::int64_t begin, std::int64_t end, const void* data,
                             DType type) {
  const Role role = dtype_ == master_dtype(dtype_) ? Role::parameter : Role::compute_parameter;
  const auto count = static_cast<std::size_t>(end - begin);
  std::span<const std::byte> bytes(static_cast<const std::byte*>(data), count * size_of(type));
  if (type != dtype_) {
    narrow_.resize(count * size_of(dtype_));
    dispatch_floating(type, [&](auto from_zero) {
      dispatch_floating(dtype_, [&](auto to_zero) {
        using From = decltype(from_zero);
        using To = decltype(to_zero);
        std::transform(static_cast<const From*>(data), static_cast<const From*>(data) + count,
                       reinterpret_cast<To*>(narrow_.data()), [](From value) {
                         return static_cast<To>(static_cast<accumulate_t<To>>(static_cast<accumulate_t<From>>(value)));
                       });
      });
    });
    bytes = narrow_;
  }
  executor_->write(name_of(StateKey{role, parameter}), begin * static_cast<std::int64_t>(size_of(dtype_)), bytes);
}

// `tokens` at the program's first slots; what is left of its `count` comes after them in the sequence: nothing sees it,
// and the tokens that belong there take its rows of the cache.
void Generator::run(std::size_t program, std::span<const std::int32_t> tokens, std::int64_t count) {
  std::vector<std::int32_t> ids(tokens.begin(), tokens.end()), index(static_cast<std::size_t>(count)),
      zero(static_cast<std::size_t>(count), 0);
  ids.resize(static_cast<std::size_t>(count), 0);
  std::iota(index.begin(), index.end(), static_cast<std::int32_t>(length_));
  std::vector<std::int32_t> position = index;
  for (std::int32_t& one : position) one = std::min(one, static_cast<std::int32_t>(capacity_ - 1));
  executor_->write("tokens", 0, std::as_bytes(std::span(ids)));
  executor_->write("index", 0, std::as_bytes(std::span(index)));
  executor_->write("key_start", 0, std::as_bytes(std::span(zero)));
  executor_->write("position", 0, std::as_bytes(std::span(position)));
  executor_->run(program);
  length_ += static_cast<std::int64_t>(tokens.size());
}

std::vector<double> Generator::append(std::span<const std::int32_t> tokens) {
  LONGHAUL_CHECK(!tokens.empty(), "no tokens to append");
  if (length_ + static_cast<std::int64_t>(tokens.size()) > capacity_)
    fail("{} tokens and {} more are beyond the {} that there is room for", length_, tokens.size(), capacity_);
  for (const std::int32_t token : tokens)
    if (token < 0 || token >= spec_.vocabulary)
      fail("token {} is outside the model's vocabulary of {}", token, spec_.vocabulary);
  while (tokens.size() > 1) {
    const std::size_t count = std::min(tokens.size() - 1, static_cast<std::size_t>(chunk_));
    run(1, tokens.first(count), chunk_);
    tokens = tokens.subspan(count);
  }
  run(0, tokens, 1);

  std::vector<double> logits(static_cast<std::size_t>(spec_.vocabulary));
  std::vector<std::byte> bytes(logits.size() * size_of(dtype_));
  executor_->read("logits", 0, bytes);
  dispatch_floating(dtype_, [&](auto zero) {
    using T = decltype(zero);
    const T* values = reinterpret_cast<const T*>(bytes.data());
    for (std::size_t i = 0; i < logits.size(); ++i)
      logits[i] = static_cast<double>(static_cast<accumulate_t<T>>(values[i])) * spec_.logits_scale;
  });
  if (spec_.logits_soft_cap != 0)
    for (double& one : logits) one = spec_.logits_soft_cap * std::tanh(one / spec_.logits_soft_cap);
  return logits;
}

std::int32_t choose_token(std::span<const double> logits, const Sampling& sampling, std::uint64_t sequence,
                          std::int64_t place) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (best == logits.end() || !std::all_of(logits.begin(), logits.end(), [](double one) { return std::isfinite(one); }))
    fail("the logits of token {} are not finite: the model's parameters are spoiled, or its dtype is too narrow",
         place);
  if (sampling.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  std::vector<double> sums(order.size());  // of the likeliest tokens, up to the largest logit's factor
  double sum = 0;
  for (std::size_t i = 0; i < order.size(); ++i)
    sums[i] = sum += std::exp((logits[static_cast<std::size_t>(order[i])] - *best) / sampling.temperature);
  const auto first_of = [&](double wanted) {
    return std::min(static_cast<std::size_t>(std::lower_bound(sums.begin(), sums.end(), wanted) - sums.begin()),
                    sums.size() - 1);
  };
  const std::size_t last = first_of(sampling.top_p * sum);
  const auto low = static_cast<std::uint64_t>(place);
  const auto words =
      philox({static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
              static_cast<std::uint32_t>(sequence), static_cast<std::uint32_t>(sequence >> 32)},
             {static_cast<std::uint32_t>(sampling.seed), static_cast<std::uint32_t>(sampling.seed >> 32)});
  const double uniform =  // in (0, 1]
      (static_cast<double>((static_cast<std::uint64_t>(words[0]) << 21) ^ (words[1] >> 11)) + 1) * 0x1p-53;
  return order[std::min(first_of(uniform * sums[last]), last)];
}

std::vector<std::int32_t> generate(Generator& generator, std::span<const std::int32_t> prompt, std::int64_t max_tokens,
                                   const Sampling& sampling, const std::set<std::int32_t>& ends, std::uint64_t sequence,
                                   const std::function<void(std::int32_t)>& told) {
  std::vector<std::int32_t> made;
  generator.restart();
  std::vector<double> logits = generator.append(prompt);
  while (static_cast<std::int64_t>(made.size()) < max_tokens) {
    const std::int32_t next = choose_token(logits, sampling, sequence, generator.length());
    if (ends.contains(next)) break;
    made.push_back(next);
    if (told) told(next);
    // The last token's successors are nobody's business.
    if (static_cast<std::int64_t>(made.size()) < max_tokens) logits = generator.append(std::span(&made.back(), 1));
  }
  return made;
}

}  // namespace longhaul
