// What programs read and leave behind: roles of values, and state, which is of a parameter. Meaning is in these types;
// the text of a name is for buffers, messages and people, and is made in one place.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace longhaul {

/// What a graph input is, or the buffer of an output; `intermediate` for everything else that an op produces.
enum class Role : std::uint8_t {
  intermediate,
  data,    // of one micro-batch: tokens, labels, index, key_start, position
  scalar,  // step, learning rate, 1/count
  // State, of one parameter each:
  parameter,          // master copy, what checkpoints hold
  compute_parameter,  // low-precision copy that the forward reads; made from the master after every update
  gathered,           // a sharded one of these that is kept whole for the micro-batches of a step
  first_moment,
  second_moment,
  first_scale,  // of a first moment in 8 bits, one of each block of its elements
  second_scale,
  accumulator,  // gradient of the step so far
  gradient,     // of the whole step, reduced: what the update reads
};
inline constexpr int roles = 12;
/// "compute_parameter", as the text form of graphs has it.
std::string_view name_of(Role role);

/// Values that outlive a program run.
constexpr bool is_state(Role role) {
  return role >= Role::parameter;
}
/// The numbers of a parameter, in whatever dtype and layout.
constexpr bool holds_parameter(Role role) {
  return role == Role::parameter || role == Role::compute_parameter || role == Role::gathered;
}
constexpr bool is_scale(Role role) {
  return role == Role::first_scale || role == Role::second_scale;
}
/// What an optimizer keeps between steps.
constexpr bool is_moment(Role role) {
  return role == Role::first_moment || role == Role::second_moment || is_scale(role);
}
/// Nothing of it is left when a step is done.
constexpr bool lives_within_a_step(Role role) {
  return role == Role::accumulator || role == Role::gathered;
}

/// The identity of a state tensor in all programs of a run.
struct StateKey {
  Role role = Role::parameter;
  std::string parameter;
  bool operator==(const StateKey&) const = default;
};
/// The name of its buffer: the parameter's, for other roles after a word of their own ("gradient.head.weight").
std::string name_of(const StateKey& key);

}  // namespace longhaul
