#include <algorithm>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/launch.h"
#include "comm/rank_message.h"
#include "comm/threads/world.h"

namespace longhaul {
namespace {

/// Throws the exception again with its rank in the message, and as the same kind as far as callers tell kinds apart: a
/// user's error, a defect, anything else. What is no std::exception is thrown as it is.
[[noreturn]] void rethrow_with_rank(const std::exception_ptr& exception, int rank) {
  try {
    std::rethrow_exception(exception);
  } catch (const PeerFailure& failure) {
    throw Error(failure.what());  // carries its origin's rank already
  } catch (const Error& error) {
    throw Error(with_rank(rank, error.what()));
  } catch (const std::logic_error& error) {
    throw std::logic_error(with_rank(rank, error.what()));
  } catch (const std::exception& error) {
    throw std::runtime_error(with_rank(rank, error.what()));
  }
}

/// Runs the body of one rank; whatever it throws becomes the world's failure.
int run_rank(ThreadsWorld& world, Communicator& communicator, int ranks,
             const std::function<int(Communicator&)>& body) {
  const int rank = communicator.rank();
  try {
    set_log_rank(rank, ranks);
    return body(communicator);
  } catch (const PeerFailure& failure) {
    world.fail({rank, failure.what(), std::current_exception(), true});
  } catch (const std::exception& error) {
    world.fail({rank, with_rank(rank, error.what()), std::current_exception(), false});
  } catch (...) {
    world.fail({rank, with_rank(rank, "an exception of unknown type"), std::current_exception(), false});
  }
  return 0;
}

}  // namespace

int run_threads(int ranks, const std::function<int(Communicator&)>& body) {
  if (ranks < 1) fail("a run needs at least one rank, not {}: give --ranks 1 or more", ranks);
  ThreadsWorld world(ranks);
  const auto communicators = world.communicators();
  std::vector<int> results(static_cast<std::size_t>(ranks), 0);
  if (ranks == 1) {
    // On the calling thread, exceptions as they are.
    set_log_rank(0, 1);
    results[0] = body(*communicators[0]);
  } else {
    std::vector<std::thread> threads;
    std::string refusal;
    try {
      threads.reserve(results.size());
      for (int rank = 0; rank < ranks; ++rank)
        threads.emplace_back([&, rank] {
          const auto place = static_cast<std::size_t>(rank);
          results[place] = run_rank(world, *communicators[place], ranks, body);
        });
    } catch (const std::system_error& error) {
      refusal = fmt::format("cannot start a thread for rank {} of {}: {}; give fewer --ranks", threads.size(), ranks,
                            error.what());
      world.fail({static_cast<int>(threads.size()), refusal, nullptr, false});
    }
    for (auto& thread : threads) thread.join();
    if (!refusal.empty()) throw Error(refusal);
  }
  const auto failure = world.failure();
  if (failure.exception) rethrow_with_rank(failure.exception, failure.rank);
  if (failure.rank >= 0) throw Error(ranks > 1 ? with_rank(failure.rank, failure.message) : failure.message);
  return *std::max_element(results.begin(), results.end());
}

}  // namespace longhaul
