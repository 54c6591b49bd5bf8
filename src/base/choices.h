// Choices that an experiment states and the compiler acts on, each one enum for both: neither room knows the other.
#pragma once
#include <cstdint>
#include <string_view>

namespace longhaul {

/// Where the tokens of a padded sequence lie in the buffers of the ranks that share it: in order; in 2·n chunks of
/// which rank i of n holds chunks i and 2·n − 1 − i, so that causal attention costs every rank the same; or dealt out
/// anew for every sequence, by any permutation, so that the attention of its documents does.
enum class TokenOrder : std::uint8_t { contiguous, zigzag, balanced };
constexpr std::string_view name_of(TokenOrder order) {
  return order == TokenOrder::contiguous ? "contiguous" : order == TokenOrder::zigzag ? "zigzag" : "balanced";
}

/// How long a parameter that is sharded stays whole once it is gathered: never longer than its layer's forward or
/// backward pass, from forward to backward, or for all micro-batches of a step.
enum class KeepGathered : std::uint8_t { never, backward, step };

/// What the backward pass finds kept of the forward pass: all but what costs next to nothing to make again; all; or
/// only what passes between layers and what attention gave.
enum class ActivationMode : std::uint8_t { automatic, keep, recompute };

/// How parameters follow their gradients.
enum class OptimizerKind : std::uint8_t { adamw, sgd, muon };

/// Whether what is kept may wait for the backward pass in host memory: only where a run would not fit otherwise and
/// device and host are two memories; never; or before anything is made again.
enum class OffloadMode : std::uint8_t { automatic, off, on };

/// How messages travel between the devices of ranks: auto, by what is there; through memory of the host; by NCCL; or
/// written by the device itself into its peers' memory, on one machine.
enum class DataPlaneKind : std::uint8_t { automatic, staged, nccl, push };
constexpr std::string_view name_of(DataPlaneKind kind) {
  constexpr std::string_view names[] = {"auto", "staged", "nccl", "push"};
  return names[static_cast<int>(kind)];
}

/// Whether collectives run beside computation: unless that is predicted to gain nothing; never; or wherever they can.
enum class OverlapMode : std::uint8_t { automatic, off, on };

}  // namespace longhaul
