// Push collectives over peer pointers: see peer_plan.h for the protocol. The same launches run over NVLink peers, over
// IPC handles on one GPU, and in the emulator's memory.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/peer_plan.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {
namespace {

struct PushParameters {
  const char* from[kMaximumRanks];
  char* to[kMaximumRanks];
  std::int64_t row_bytes[kMaximumRanks];
  std::int64_t extent[2], from_stride[2], to_stride[2];
};
/// Grid (blocks, peers).
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) peer_push(GPU_PARAMETER PushParameters p) {
  const int peer = gpu::block_y();
  const std::uint32_t chunks = static_cast<std::uint32_t>(p.row_bytes[peer] / 16);
  const std::uint32_t inner = static_cast<std::uint32_t>(p.extent[1]);
  for_each_vector<1>(p.extent[0] * p.extent[1] * chunks, [&](std::int64_t at, std::int64_t) {
    const std::uint32_t n = static_cast<std::uint32_t>(at);  // 64-bit division costs as much as the memory access
    const std::int64_t chunk = n % chunks, j = n / chunks % inner, i = n / chunks / inner;
    const char* from = p.from[peer] + i * p.from_stride[0] + j * p.from_stride[1] + chunk * 16;
    char* to = p.to[peer] + i * p.to_stride[0] + j * p.to_stride[1] + chunk * 16;
    gpu::global_store(reinterpret_cast<uint4*>(to), gpu::global_load_mutable(reinterpret_cast<const uint4*>(from)));
  });
}

struct SignalParameters {
  std::uint32_t* lines[kMaximumRanks];  // signal: this rank's line at each peer; wait: each peer's line here
  std::int32_t ranks;
  std::uint32_t value;
  const std::uint32_t* give_up;
  std::uint32_t* counter;  // not null: `value` is what comes after what it holds; the wait moves it on
};
GPU_DEVICE std::uint32_t value_of(const SignalParameters& p) {
  return p.counter ? gpu::global_load_mutable(p.counter) + 1 : p.value;
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(32, 1) peer_signal(GPU_PARAMETER SignalParameters p) {
  const int peer = gpu::thread_index();
  if (peer < p.ranks && !(GPU_FAULT(peer_signal_missing) && peer == 0)) gpu::signal_system(p.lines[peer], value_of(p));
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(32, 1) peer_wait(GPU_PARAMETER SignalParameters p) {
  const int peer = gpu::thread_index();
  const std::uint32_t value = value_of(p);
  if (peer < p.ranks) gpu::await_system(p.lines[peer], value - (GPU_FAULT(peer_epoch_behind) ? 2 : 0), p.give_up);
  if (!p.counter) return;
  gpu::warp_sync();  // all have read it
  if (peer == 0 && !GPU_FAULT(peer_counter_stands)) gpu::global_store(p.counter, value);
}

struct SumParameters {
  const float* contributions;  // [ranks][stride]
  float* to;
  std::int64_t count, stride;
  std::int32_t ranks, rank;
};
/// In rank order, wherever it runs: the same bits at every rank and over every transport.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) peer_sum(GPU_PARAMETER SumParameters p) {
  for_each_vector<4>(p.count, [&](std::int64_t at, std::int64_t) {
    float sum[4];
    load_vector<float>(sum, p.contributions + at + (GPU_FAULT(peer_sum_order) ? p.rank * p.stride : 0));
    for (int i = 1; i < p.ranks; i++) {
      const int rank = GPU_FAULT(peer_sum_order) ? (p.rank + i) % p.ranks : i;
      float x[4];
      load_vector<float>(x, p.contributions + rank * p.stride + at);
#pragma unroll
      for (int e = 0; e < 4; e++) sum[e] += x[e];
    }
    store_vector<float>(p.to + at, sum);
  });
}

/// The buffers of one collective. Signals count half epochs: an all-reduce has two phases.
struct Exchange {
  const PeerGroup& group;
  std::uint32_t epoch;
  Stream stream;
  std::uint32_t* counter = nullptr;

  std::int64_t buffer_bytes() const { return (group.workspace_bytes - kSignalBytes) / 2 / 16 * 16; }
  char* buffer(int rank) const {
    const bool second = epoch & 1 && !GPU_FAULT(peer_single_buffer);
    return static_cast<char*>(group.peers[rank]) + kSignalBytes + (second ? buffer_bytes() : 0);
  }
  void check(const char* name, std::int64_t bytes) const {
    require(epoch >= 1, std::string(name) + ": epochs are counted from 1");
    require(bytes <= buffer_bytes(), std::string(name) + ": needs a workspace for " + std::to_string(bytes) +
                                         " bytes, this one is for " + std::to_string(buffer_bytes()));
  }
  void push(const PeerPlan& plan, const void* send, std::int64_t offset = 0) const {
    PushParameters p{};
    std::int64_t longest = 0;
    for (std::size_t i = 0; i < plan.size(); i++) {
      const PeerCopy& copy = plan[i];
      require(copy.row_bytes % 16 == 0 && copy.from % 16 == 0,
              "peer collective: every part must be a multiple of 16 bytes");
      p.from[i] = static_cast<const char*>(send) + copy.from;
      p.to[i] = buffer(copy.peer) + offset + copy.to;
      p.row_bytes[i] = copy.row_bytes;
      longest = copy.row_bytes > longest ? copy.row_bytes : longest;
    }
    for (int d = 0; d < 2; d++) {
      p.extent[d] = plan[0].extent[d];
      p.from_stride[d] = plan[0].from_stride[d], p.to_stride[d] = plan[0].to_stride[d];
    }
    require(p.extent[0] * p.extent[1] * longest / 16 <= std::int64_t{0xffffffff},
            "peer collective: more than 64 GiB for one peer");
    const unsigned blocks = elementwise_blocks(p.extent[0] * p.extent[1] * longest / 16);
    gpu::launch(peer_push, dim3(blocks < 128 ? blocks : 128, static_cast<unsigned>(group.ranks)), kElementwiseThreads,
                0, p, native(stream));
  }
  void signal_and_wait(std::uint32_t phase) const {
    SignalParameters there{}, here{};
    there.ranks = here.ranks = group.ranks;
    there.value = here.value = 2 * epoch + phase;
    here.give_up = group.give_up;
    there.counter = here.counter = counter;
    auto line = [&](int at, int source) {
      return reinterpret_cast<std::uint32_t*>(static_cast<char*>(group.peers[at]) + source * kSignalStride);
    };
    for (int i = 0; i < group.ranks; i++) there.lines[i] = line(i, group.rank), here.lines[i] = line(group.rank, i);
    gpu::launch(peer_signal, dim3(1), 32, 0, there, native(stream));
    if (!GPU_FAULT(peer_wait_missing)) gpu::launch(peer_wait, dim3(1), 32, 0, here, native(stream));
  }
  void take(void* receive, std::int64_t bytes, std::int64_t offset = 0) const {
    if (!receive) return;  // the caller reads the workspace
    const StridedCopy copy{{1, 1, 1}, bytes, {0, 0, 0}, {0, 0, 0}, buffer(group.rank) + offset, receive};
    strided_copy(copy, stream);
  }
  void sum(float* to, std::int64_t count, std::int64_t stride) const {
    if (count <= 0) return;
    const SumParameters p{
        reinterpret_cast<const float*>(buffer(group.rank)), to, count, stride, group.ranks, group.rank};
    gpu::launch(peer_sum, dim3(elementwise_blocks(count / 4)), kElementwiseThreads, 0, p, native(stream));
  }
};

void permute(const char* name, const Exchange& exchange, const PeerPlan& plan, std::int64_t bytes, const void* send,
             void* receive) {
  exchange.check(name, bytes);
  exchange.push(plan, send);
  exchange.signal_and_wait(1);
  exchange.take(receive, bytes);
}
void check_heads(const char* name, std::int32_t heads, std::int32_t ranks) {
  require(heads % ranks == 0, std::string(name) + ": heads must be a multiple of the ranks, got " +
                                  std::to_string(heads) + " and " + std::to_string(ranks));
}

}  // namespace

std::size_t peer_workspace_bytes(std::int64_t payload_bytes) {
  // Of ranks on one device one waits there while others have kernels to launch.
  gpu::load(peer_push), gpu::load(peer_signal), gpu::load(peer_wait), gpu::load(peer_sum);
  load_strided_copy();
  return static_cast<std::size_t>(kSignalBytes + 2 * divide_up<std::int64_t>(payload_bytes, 16) * 16);
}

void peer_barrier(const PeerGroup& group, std::uint32_t epoch, Stream stream) {
  require(epoch >= 1 || group.counter, "peer_barrier: epochs are counted from 1");
  Exchange{group, epoch, stream, group.counter}.signal_and_wait(1);
}

void peer_all_to_all(const PeerGroup& group, std::uint32_t epoch, const void* send, void* receive,
                     std::int64_t bytes_per_peer, Stream stream) {
  permute("peer_all_to_all", {group, epoch, stream}, plan_all_to_all(group.rank, group.ranks, bytes_per_peer),
          group.ranks * bytes_per_peer, send, receive);
}

void peer_all_gather(const PeerGroup& group, std::uint32_t epoch, const void* send, void* receive, std::int64_t bytes,
                     Stream stream) {
  permute("peer_all_gather", {group, epoch, stream}, plan_all_gather(group.rank, group.ranks, bytes),
          group.ranks * bytes, send, receive);
}

void peer_sequence_to_heads(const PeerGroup& group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                            std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                            Stream stream) {
  check_heads("peer_sequence_to_heads", heads, group.ranks);
  permute("peer_sequence_to_heads", {group, epoch, stream},
          plan_sequence_to_heads(group.rank, group.ranks, batch, rows, heads, head_bytes),
          static_cast<std::int64_t>(batch) * rows * heads * head_bytes, send, receive);
}

void peer_heads_to_sequence(const PeerGroup& group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                            std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                            Stream stream) {
  check_heads("peer_heads_to_sequence", heads, group.ranks);
  permute("peer_heads_to_sequence", {group, epoch, stream},
          plan_heads_to_sequence(group.rank, group.ranks, batch, rows, heads, head_bytes),
          static_cast<std::int64_t>(batch) * rows * heads * head_bytes, send, receive);
}

void peer_reduce_scatter(const PeerGroup& group, std::uint32_t epoch, const float* send, float* receive,
                         std::int64_t count_per_rank, Stream stream) {
  const Exchange exchange{group, epoch, stream};
  const std::int64_t bytes = count_per_rank * static_cast<std::int64_t>(sizeof(float));
  exchange.check("peer_reduce_scatter", group.ranks * bytes);
  exchange.push(plan_all_to_all(group.rank, group.ranks, bytes), send);
  exchange.signal_and_wait(1);
  exchange.sum(receive, count_per_rank, count_per_rank);
}

void peer_all_reduce(const PeerGroup& group, std::uint32_t epoch, float* data, std::int64_t count, Stream stream) {
  const Exchange exchange{group, epoch, stream};
  const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(float));
  const AllReducePlan plan = plan_all_reduce(group.ranks, bytes);
  exchange.check("peer_all_reduce", plan.buffer_bytes);
  if (plan.one_shot) {
    exchange.push(plan_all_gather(group.rank, group.ranks, bytes), data);
    exchange.signal_and_wait(1);
    exchange.sum(data, count, count);
    return;
  }
  const std::int64_t chunk = plan.chunk_bytes / static_cast<std::int64_t>(sizeof(float)), first = group.rank * chunk;
  exchange.push(plan_scatter(group.rank, group.ranks, bytes, plan.chunk_bytes), data);
  exchange.signal_and_wait(0);
  exchange.sum(data + first, count - first < chunk ? count - first : chunk, chunk);
  // Everybody's chunks, to behind the contributions.
  const std::int64_t own = bytes - first * 4, gathered = group.ranks * plan.chunk_bytes;
  PeerPlan gather = plan_all_gather(group.rank, group.ranks, plan.chunk_bytes);
  for (PeerCopy& copy : gather) copy.row_bytes = own < 0 ? 0 : own < copy.row_bytes ? own : copy.row_bytes;
  exchange.push(gather, data + first, gathered);
  exchange.signal_and_wait(1);
  exchange.take(data, bytes, gathered);
}

}  // namespace longhaul::cuda
