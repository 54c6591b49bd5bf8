// What ranks tell each other outside a step: how a phase ended, texts of any length, and single values. All of it is
// collective: every rank of the communicator calls the same functions in the same order.
#pragma once
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"

namespace longhaul {

/// Every rank calls it with its own outcome at the end of a phase (load, compile, save, export): empty = success. When
/// any rank failed, all ranks throw Error with the message of the lowest failing rank ("rank 3: ..."): an Error there,
/// a PeerFailure on the others, so that a launch reports it once. Nothing is broken by it: ranks that catch it can go
/// on.
void agree(Communicator& world, const std::string& failure);

/// What the function failed with, "" when it did not. Only what a user can act on: a defect of ours (std::logic_error)
/// and another rank's failure (PeerFailure) go on as they are.
template <typename Function>
std::string failure_of(Function&& function) {
  try {
    function();
  } catch (const PeerFailure&) {
    throw;
  } catch (const std::logic_error&) {
    throw;
  } catch (const std::exception& error) {
    return *error.what() ? error.what() : "failed without a message";
  }
  return "";
}

/// Runs this rank's part of a phase, which may fail on one rank only, and ends it with all ranks agreeing that it did
/// not; throws as agree() does.
template <typename Function>
void phase(Communicator& world, Function&& function) {
  agree(world, failure_of(function));
}

/// Every rank's text, in rank order, on every rank. Texts may have any length, any bytes, and differ in both.
std::vector<std::string> gather_texts(Communicator& world, std::string_view mine);

/// The root's text, of any length, on every rank; what others give is ignored.
std::string broadcast_text(Communicator& world, std::string text, int root = 0);

/// The root's value on every rank.
template <typename T>
T broadcast(Communicator& world, T value, int root = 0) {
  static_assert(std::is_trivially_copyable_v<T>);
  world.broadcast(&value, sizeof value, root);
  return value;
}

/// Every rank's value, in rank order, on every rank.
template <typename T>
std::vector<T> all_gather(Communicator& world, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);
  std::vector<T> all(static_cast<std::size_t>(world.size()));
  world.all_gather(&mine, all.data(), sizeof mine);
  return all;
}

/// The same of a list, which has one length on all ranks: the ranks' lists, one behind the other.
template <typename T>
std::vector<T> all_gather(Communicator& world, const std::vector<T>& mine) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);
  std::vector<T> all(mine.size() * static_cast<std::size_t>(world.size()));
  if (!mine.empty()) world.all_gather(mine.data(), all.data(), mine.size() * sizeof(T));
  return all;
}

}  // namespace longhaul
