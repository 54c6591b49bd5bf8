#include "runtime/device/nccl_plane.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "comm/reduction.h"
#include "runtime/device/bind.h"

namespace longhaul {
namespace {

constexpr std::int64_t trial_bytes = 64;
constexpr std::chrono::seconds patience{10};  // with ranks that end later

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

}  // namespace

NcclPlane::NcclPlane(DeviceContext& context, Communicator& group, CollectiveWatch& watch, const DataPlaneChoice& choice,
                     std::string name)
    : DataPlane(group),
      context_(context),
      watch_(watch),
      choice_(choice),
      name_(std::move(name)),
      rank_(group.rank()),
      ranks_(group.size()),
      exceptions_(std::uncaught_exceptions()) {
  transfers_.reserve(static_cast<std::size_t>(ranks_));
  if (choice.ordered_sums && ranks_ > cuda::kMaximumInputs)
    fail("device.collectives is nccl: sums in rank order go over {} ranks at most, {} have {}", cuda::kMaximumInputs,
         name_, ranks_);
  const cuda::Api& api = context.api();
  const std::int64_t free_before = context.device().free_bytes();
  std::array<char, 128> id{};
  phase(group, [&] {
    if (rank_ == 0) context.succeed(api.nccl_unique_id(id.data()));
  });
  id = broadcast(group, id);
  void* made = nullptr;
  context.succeed(api.nccl_begin(id.data(), rank_, ranks_, &made));
  communicator_ = made;
  watch.add(this);
  // Given back behind the end of a communicator that fails: before it that would wait for what the device waits in.
  const DeviceMemory trial(context.device(), DeviceMemory::Place::device,
                           static_cast<std::size_t>(2 * ranks_ * trial_bytes));
  try {
    settle("the making of NCCL's communicator");
    try_connections(trial);
  } catch (...) {
    watch.abort();
    watch.remove(this);
    throw;
  }
  device_bytes_ = free_before - context.device().free_bytes();
}

NcclPlane::~NcclPlane() {
  watch_.remove(this);
  void* const mine = communicator_.exchange(nullptr);
  if (!mine) return;
  const cuda::Api& api = context_.api();
  if (api.device_select(context_.device().number()) != 0) return;
  if (watch_.aborted() || std::uncaught_exceptions() > exceptions_ || api.nccl_finalize(mine) != 0) {
    (void)api.nccl_abort(mine);
    return;
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    std::int32_t in_progress = 0;
    if (api.nccl_state(mine, &in_progress) != 0) {
      (void)api.nccl_abort(mine);
      return;
    }
    if (!in_progress) break;
    if (std::chrono::steady_clock::now() > deadline) {  // rather a communicator too many than a process that hangs
      spdlog::warn("NCCL's communicator of {} does not end within {} seconds and is left", name_, patience.count());
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  (void)api.nccl_destroy(mine);
}

void NcclPlane::check() {
  std::int32_t in_progress = 0;
  if (void* const mine = communicator_.load()) context_.succeed(context_.api().nccl_state(mine, &in_progress));
}

void NcclPlane::abort() noexcept {
  void* const mine = communicator_.exchange(nullptr);
  if (mine && context_.api().device_select(context_.device().number()) == 0) (void)context_.api().nccl_abort(mine);
}

void NcclPlane::settle(const std::string& what) {
  watch_.wait(
      [this] {
        std::int32_t in_progress = 0;
        context_.succeed(context_.api().nccl_state(communicator_, &in_progress));
        return in_progress == 0;
      },
      what.empty() ? what : what + " of " + name_);
}

void NcclPlane::try_connections(const DeviceMemory& memory) {
  context_.succeed(context_.api().fill(memory.data(), 0, memory.bytes(), context_.stream()));
  all_to_all(memory.data(), memory.data() + ranks_ * trial_bytes, trial_bytes);
  context_.succeed(context_.api().nccl_all_gather(communicator_, memory.data(), memory.data() + ranks_ * trial_bytes,
                                                  trial_bytes, context_.stream()));
  settle("the first use of NCCL's communicator");
  watch_.wait(
      [this] {
        std::int32_t done = 0;
        context_.succeed(context_.api().stream_query(context_.stream(), &done));
        return done != 0;
      },
      "the first use of NCCL's communicator of " + name_);
}

void NcclPlane::exchange(const std::vector<cuda::NcclTransfer>& transfers) {
  if (transfers.empty()) return;
  context_.succeed(context_.api().nccl_exchange(communicator_, transfers.data(),
                                                static_cast<std::int32_t>(transfers.size()), context_.stream()));
  settle("");
}

void NcclPlane::all_to_all(const char* send, char* receive, std::int64_t block) {
  transfers_.clear();
  for (int k = 1; k < ranks_; ++k) {
    const int peer = (rank_ + k) % ranks_;
    transfers_.push_back({peer, send + peer * block, block, receive + peer * block, block});
  }
  exchange(transfers_);
  bind::copy(context_, receive + rank_ * block, send + rank_ * block, block);
}

void NcclPlane::sum_own(const char* send, std::int64_t part_bytes, std::int64_t whole_bytes, DType type, char* slots,
                        char* result) {
  const auto part_of = [&](int rank) {
    const std::int64_t begin = std::min(rank * part_bytes, whole_bytes);
    return cuda::NcclTransfer{rank, send + begin, std::min(part_bytes, whole_bytes - begin), nullptr, 0};
  };
  const auto slot = [&](int rank) {
    return slots + static_cast<std::int64_t>(reduction_slot(rank, rank_)) * aligned(part_bytes);
  };
  const cuda::NcclTransfer own = part_of(rank_);
  transfers_.clear();
  for (int k = 1; k < ranks_; ++k) {
    cuda::NcclTransfer one = part_of((rank_ + k) % ranks_);
    one.receive = slot(one.peer), one.receive_bytes = own.send_bytes;
    transfers_.push_back(one);
  }
  exchange(transfers_);
  if (own.send_bytes == 0) return;
  cuda::Add sum{};
  sum.count = own.send_bytes / static_cast<std::int64_t>(size_of(type));
  sum.type = bind::type_of(type);
  sum.inputs = ranks_;
  for (int rank = 0; rank < ranks_; ++rank) sum.x[rank] = rank == rank_ ? own.send : slot(rank);
  sum.y = result;
  context_.succeed(context_.api().add(&sum, context_.stream()));
}

void NcclPlane::move(const CommunicationStep& step, const DeviceMessage& message) {
  const cuda::Api& api = context_.api();
  const auto* const send = static_cast<const char*>(message.send);
  auto* const receive = static_cast<char*>(message.receive);
  auto* const scratch = static_cast<char*>(message.scratch);
  const std::int64_t block = step.block_bytes, count = block / static_cast<std::int64_t>(size_of(step.dtype));
  // Threads of one process that start NCCL's kernels on several GPUs could each hold what the others' need.
  if (group().one_process() && !context_.device().is_emulated()) group().barrier();
  this->count(step);
  switch (step.collective) {
    case Collective::all_gather:
      context_.succeed(api.nccl_all_gather(communicator_, send, receive, block, context_.stream()));
      return settle("");
    case Collective::all_to_all:
      return all_to_all(send, receive, block);
    case Collective::send_receive:
      if (step.to == step.index) return bind::copy(context_, receive, send, block);
      transfers_.clear();
      transfers_.push_back({step.to, send, block, nullptr, 0});
      if (step.from == step.to)
        transfers_[0].receive = receive, transfers_[0].receive_bytes = block;
      else
        transfers_.push_back({step.from, nullptr, 0, receive, block});
      return exchange(transfers_);
    case Collective::reduce_scatter:
      if (!choice_.sums_by_nccl(step)) return sum_own(send, block, block * ranks_, step.dtype, scratch, receive);
      context_.succeed(
          api.nccl_reduce_scatter(communicator_, send, receive, count, bind::type_of(step.dtype), context_.stream()));
      return settle("");
    case Collective::all_reduce: {
      if (choice_.sums_by_nccl(step)) {
        context_.succeed(
            api.nccl_all_reduce(communicator_, send, receive, count, bind::type_of(step.dtype), context_.stream()));
        return settle("");
      }
      const auto part =
          static_cast<std::int64_t>(reduction_chunk(ranks_, static_cast<std::size_t>(count)) * size_of(step.dtype));
      const auto begin = [&](int rank) { return std::min(rank * part, block); };
      const auto bytes = [&](int rank) { return std::min(part, block - begin(rank)); };
      sum_own(send, part, block, step.dtype, scratch, receive + begin(rank_));
      transfers_.clear();
      for (int k = 1; k < ranks_; ++k) {
        const int peer = (rank_ + k) % ranks_;
        transfers_.push_back({peer, receive + begin(rank_), bytes(rank_), receive + begin(peer), bytes(peer)});
      }
      return exchange(transfers_);
    }
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
}

}  // namespace longhaul
