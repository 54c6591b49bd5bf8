// How rows of the table of keys reach their members, and what their limits usually are. Private to the files that hold
// rows.
#pragma once
#include <limits>
#include <type_traits>
#include <vector>

#include "config/experiment_keys.h"

namespace longhaul::config {

/// A key that is a member of a section.
template <auto SectionMember, auto Member>
auto& member(Experiment& experiment) {
  return (experiment.*SectionMember).*Member;
}

/// An enumeration whose values count up from 0 in the order of the key's choices.
template <auto SectionMember, auto Member>
ChoiceAccess choice() {
  return {[](const Experiment& e) { return static_cast<int>((e.*SectionMember).*Member); },
          [](Experiment& e, int value) {
            auto& target = (e.*SectionMember).*Member;
            target = static_cast<std::remove_reference_t<decltype(target)>>(value);
          }};
}

/// The same, and auto.
template <auto SectionMember, auto Member>
ChoiceAccess optional_choice() {
  return {[](const Experiment& e) {
            const auto& source = (e.*SectionMember).*Member;
            return source ? static_cast<int>(*source) : -1;
          },
          [](Experiment& e, int value) {
            auto& target = (e.*SectionMember).*Member;
            using Enum = typename std::remove_reference_t<decltype(target)>::value_type;
            if (value < 0)
              target.reset();
            else
              target = static_cast<Enum>(value);
          }};
}

inline constexpr double unbounded = std::numeric_limits<double>::infinity();
constexpr Limits at_least(double minimum) {
  return {minimum, unbounded, false};
}
/// Of counts: what is computed from them stays far from the ends of 64 bits.
constexpr Limits count_from(double minimum) {
  return {minimum, 1e12, false};
}
constexpr Limits small_count_from(double minimum) {
  return {minimum, 1e9, false};
}

/// The rows of section data.
std::vector<Key> data_keys();
/// The rows from checkpoint on: how a run is kept, watched and placed.
std::vector<Key> running_keys();

}  // namespace longhaul::config
