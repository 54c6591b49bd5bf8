#include "runtime/device/push_plane.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "comm/reduction.h"
#include "runtime/device/bind.h"

namespace longhaul {
namespace {

// What a rank tells the others of its memory.
struct Told {
  std::int64_t process;
  std::int32_t device;
  char *arena, *signals;
  std::size_t arena_bytes;
  std::array<char, 64> arena_handle, signals_handle;
};

std::size_t signal_bytes() {
  return static_cast<std::size_t>(PeerMemory::most_groups) * cuda::kSignalBytes;
}

}  // namespace

PeerMemory::PeerMemory(DeviceContext& context, Communicator& world, const DeviceMemory& arena)
    : context_(context),
      world_(world),
      arena_bytes_(arena.bytes()),
      signals_(context.device(), DeviceMemory::Place::device, signal_bytes()),
      counters_(context.device(), DeviceMemory::Place::device, most_groups * sizeof(std::uint32_t)),
      give_up_(context.device(), DeviceMemory::Place::host, sizeof(std::uint32_t)),
      exceptions_(std::uncaught_exceptions()) {
  std::memset(give_up_.data(), 0, give_up_.bytes());
  const std::vector<std::string> hosts = gather_texts(world, host_name());
  for (std::size_t rank = 0; rank < hosts.size(); ++rank)
    if (hosts[rank] != hosts[0])
      fail(
          "device.collectives is push: rank 0 is on {}, rank {} on {}; devices write into each other's memory on one "
          "machine only: set it to nccl or staged",
          hosts[0], rank, hosts[rank]);
  const cuda::Api& api = context.api();
  Told mine{::getpid(), context.device().number(), arena.data(), signals_.data(), arena.bytes(), {}, {}};
  phase(world, [&] {
    context.succeed(api.fill(signals_.data(), 0, signals_.bytes(), context.stream()));
    context.succeed(api.fill(counters_.data(), 0, counters_.bytes(), context.stream()));
    context.device().synchronize();
    if (world.one_process()) return;
    context.succeed(api.share_memory(arena.data(), mine.arena_handle.data()));
    context.succeed(api.share_memory(signals_.data(), mine.signals_handle.data()));
  });
  const std::vector<Told> all = all_gather(world, mine);
  phase(world, [&] {
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      const Told& one = all[rank];
      if (one.arena_bytes != arena_bytes_)
        fail("device.collectives is push: rank {} plans {} bytes, this one {}: set it to nccl or staged", rank,
             one.arena_bytes, arena_bytes_);
      if (one.process == mine.process) {
        context.succeed(api.reach_device(one.device));
        arenas_.push_back(one.arena);
        areas_.push_back(one.signals);
        continue;
      }
      for (const auto& [handle, to] : {std::pair{&one.arena_handle, &arenas_}, {&one.signals_handle, &areas_}}) {
        void* opened = nullptr;
        context.succeed(api.open_memory(handle->data(), &opened));
        opened_.push_back(opened);
        to->push_back(static_cast<char*>(opened));
      }
    }
  });
}

PeerMemory::~PeerMemory() {
  const auto others = [&] {
    if (std::uncaught_exceptions() > exceptions_ || opened_.empty()) return;
    try {
      world_.barrier();
    } catch (const std::exception& error) {
      log_debug("the end of memory that ranks share is not waited for: {}", error.what());
    }
  };
  others();  // have written their last
  const cuda::Api& api = context_.api();
  if (api.device_select(context_.device().number()) == 0)
    for (void* one : opened_) (void)api.close_memory(one);
  others();  // have closed what this rank frees now
}

cuda::PeerGroup PeerMemory::group(int number, const std::vector<int>& ranks) const {
  LONGHAUL_CHECK(number < most_groups, "{} groups of ranks", number + 1);
  if (ranks.size() > cuda::kMaximumRanks)
    fail("device.collectives is push: a group of {} ranks, more than {}: set it to nccl or staged", ranks.size(),
         cuda::kMaximumRanks);
  cuda::PeerGroup group{};
  group.ranks = static_cast<std::int32_t>(ranks.size());
  group.rank = static_cast<std::int32_t>(std::find(ranks.begin(), ranks.end(), world_.rank()) - ranks.begin());
  group.workspace_bytes = cuda::kSignalBytes;
  for (std::size_t i = 0; i < ranks.size(); ++i)
    group.peers[i] = areas_[static_cast<std::size_t>(ranks[i])] + number * cuda::kSignalBytes;
  group.counter = reinterpret_cast<std::uint32_t*>(counters_.data()) + number;
  group.give_up = reinterpret_cast<const std::uint32_t*>(give_up_.data());
  return group;
}

void PeerMemory::give_up() noexcept {
  __atomic_store_n(reinterpret_cast<std::uint32_t*>(give_up_.data()), 1u, __ATOMIC_RELEASE);
}

PushPlane::PushPlane(DeviceContext& context, Communicator& group, CollectiveWatch& watch, PeerMemory& memory,
                     int number, const std::vector<int>& ranks)
    : DataPlane(group),
      context_(context),
      watch_(watch),
      memory_(memory),
      peers_(memory.group(number, ranks)),
      world_ranks_(ranks),
      rank_(group.rank()),
      ranks_(group.size()) {
  entries_.reserve(static_cast<std::size_t>(ranks_));
  watch.add(this);
}

PushPlane::~PushPlane() {
  watch_.remove(this);
}

void PushPlane::barrier() {
  context_.succeed(context_.api().peer_barrier(&peers_, 0, context_.stream()));
}

char* PushPlane::at(int rank, const void* here) const {
  const std::int64_t offset =
      static_cast<const char*>(here) - memory_.arena(world_ranks_[static_cast<std::size_t>(rank_)]);
  LONGHAUL_CHECK(offset >= 0 && offset < static_cast<std::int64_t>(memory_.arena_bytes()),
                 "a message that does not lie in the plan");
  return memory_.arena(world_ranks_[static_cast<std::size_t>(rank)]) + offset;
}

void PushPlane::add(int rank, const char* from, const char* to_as_here, std::int64_t bytes) {
  if (bytes > 0) entries_.push_back({from, at(rank, to_as_here), {1, 1}, bytes, {0, 0}, {0, 0}});
}

void PushPlane::push(bool all_here) {
  if (!all_here) barrier();
  if (!entries_.empty())
    context_.succeed(
        context_.api().copy_table(entries_.data(), static_cast<std::int32_t>(entries_.size()), context_.stream()));
  entries_.clear();
  barrier();
}

void PushPlane::move(const CommunicationStep& step, const DeviceMessage& message) {
  const auto* const send = static_cast<const char*>(message.send);
  auto* const receive = static_cast<char*>(message.receive);
  auto* const scratch = static_cast<char*>(message.scratch);
  const std::int64_t block = step.block_bytes;
  const bool all_reduce = step.collective == Collective::all_reduce;
  count(step);
  switch (step.collective) {
    case Collective::all_gather:
      for (int k = 1; k < ranks_; ++k) add((rank_ + k) % ranks_, send, receive + rank_ * block, block);
      bind::copy(context_, receive + rank_ * block, send, block);
      return push();
    case Collective::all_to_all:
      for (int k = 1; k < ranks_; ++k) {
        const int peer = (rank_ + k) % ranks_;
        add(peer, send + peer * block, receive + rank_ * block, block);
      }
      bind::copy(context_, receive + rank_ * block, send + rank_ * block, block);
      return push();
    case Collective::send_receive:
      if (step.to == step.index)
        bind::copy(context_, receive, send, block);
      else
        add(step.to, send, receive, block);
      return push();
    case Collective::reduce_scatter:
    case Collective::all_reduce: {
      // Part r of what everybody sends to rank r, into slots of its scratch.
      const auto element = static_cast<std::int64_t>(size_of(step.dtype));
      const std::int64_t whole = all_reduce ? block : block * ranks_,
                         part = all_reduce ? static_cast<std::int64_t>(
                                                 reduction_chunk(ranks_, static_cast<std::size_t>(block / element))) *
                                                 element
                                           : block;
      const auto begin = [&](int rank) { return std::min(rank * part, whole); };
      const auto bytes = [&](int rank) { return std::min(part, whole - begin(rank)); };
      const std::int64_t apart = (part + 63) / 64 * 64;
      const auto slot = [&](int from, int rank) {
        return scratch + static_cast<std::int64_t>(reduction_slot(from, rank)) * apart;
      };
      for (int k = 1; k < ranks_; ++k) {
        const int peer = (rank_ + k) % ranks_;
        add(peer, send + begin(peer), slot(rank_, peer), bytes(peer));
      }
      push();
      char* const result = all_reduce ? receive + begin(rank_) : receive;
      if (bytes(rank_) > 0) {
        cuda::Add sum{};
        sum.count = bytes(rank_) / element;
        sum.type = bind::type_of(step.dtype);
        sum.inputs = ranks_;
        for (int rank = 0; rank < ranks_; ++rank) sum.x[rank] = rank == rank_ ? send + begin(rank_) : slot(rank, rank_);
        sum.y = result;
        context_.succeed(context_.api().add(&sum, context_.stream()));
      }
      if (!all_reduce) return;
      for (int k = 1; k < ranks_; ++k) add((rank_ + k) % ranks_, result, result, bytes(rank_));
      return push(true);  // all have sent what they had, so what they receive may take its place
    }
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
}

}  // namespace longhaul
