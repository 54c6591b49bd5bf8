// Push collectives between ranks that are streams of one device. Over one device's memory this measures the launches
// and the copies, not a link between devices.
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/cuda/bench/bench.h"

namespace longhaul::cuda::bench {
namespace {

struct Ranks {
  Context& context;
  std::vector<Stream> streams;
  std::vector<PeerGroup> groups;
  Ranks(Context& c, int ranks, std::int64_t payload) : context(c), streams(ranks), groups(ranks) {
    const std::size_t bytes = context.api.peer_workspace_bytes(payload);
    void* workspaces[kMaximumRanks];
    for (int rank = 0; rank < ranks; rank++) {
      workspaces[rank] = context.allocate(bytes);
      context.succeed(context.api.fill(workspaces[rank], 0, bytes, nullptr));
      context.succeed(context.api.stream_create(&streams[rank]));
    }
    for (int rank = 0; rank < ranks; rank++) {
      groups[rank] = {rank, ranks, static_cast<std::int64_t>(bytes), {}};
      for (int peer = 0; peer < ranks; peer++) groups[rank].peers[peer] = workspaces[peer];
    }
    context.succeed(context.api.synchronize());
  }
  ~Ranks() {
    for (const Stream stream : streams) context.api.stream_destroy(stream);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
};

// Many calls together: the ranks' streams overlap.
template <typename Once>
void time_all(const Context& context, Measurement& m, const Once& once) {
  if (!context.timed) return;
  const int rounds = context.repeat;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < rounds; i++) once();
  context.succeed(context.api.synchronize());
  m.timed = true;
  m.minimum_ms = m.median_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() / rounds;
}

enum class Kind { all_to_all, all_gather, reduce_scatter, all_reduce };

// `floats` is what one rank sends in all (for an all-gather, its own part).
Measurement run(Context& context, const Shape& shape, Kind kind) {
  const int n = static_cast<int>(shape.number("ranks"));
  const std::int64_t floats = shape.number("floats"), part = floats / n;
  if (n < 1 || n > kMaximumRanks || floats % (4 * n))
    throw Error("ranks must be 1 to 16, and floats a multiple of 4 * ranks");
  const std::int64_t received = kind == Kind::all_gather ? n * floats : kind == Kind::reduce_scatter ? part : floats;
  Ranks ranks(context, n, (kind == Kind::all_gather || kind == Kind::all_reduce ? n + 1 : 2) * floats * 4 + 1024);
  std::vector<std::vector<float>> send(n, std::vector<float>(floats));
  std::vector<float*> from(n), to(n);
  for (int rank = 0; rank < n; rank++) {
    fill_random(send[rank].data(), send[rank].size(), rank + 1);
    from[rank] = static_cast<float*>(context.allocate(floats * 4));
    to[rank] = static_cast<float*>(context.allocate(received * 4));
    context.upload(from[rank], send[rank].data(), floats * 4);
  }
  std::uint32_t epoch = 0;
  auto once = [&] {
    epoch++;
    for (int rank = 0; rank < n; rank++) {
      const PeerGroup* group = &ranks.groups[rank];
      const Stream stream = ranks.streams[rank];
      const Api& api = context.api;
      int status = 0;
      if (kind == Kind::all_to_all) status = api.peer_all_to_all(group, epoch, from[rank], to[rank], part * 4, stream);
      if (kind == Kind::all_gather)
        status = api.peer_all_gather(group, epoch, from[rank], to[rank], floats * 4, stream);
      if (kind == Kind::reduce_scatter)
        status = api.peer_reduce_scatter(group, epoch, from[rank], to[rank], part, stream);
      if (kind == Kind::all_reduce) status = api.peer_all_reduce(group, epoch, from[rank], floats, stream);
      context.succeed(status);
    }
  };
  once();
  context.succeed(context.api.synchronize());
  Measurement m;
  std::vector<float> got(received);
  for (int rank = 0; rank < n; rank++) {
    context.download(got.data(), kind == Kind::all_reduce ? from[rank] : to[rank], received * 4);
    for (std::int64_t i = 0; i < received; i++) {
      double want = 0;
      if (kind == Kind::all_to_all) want = send[i / part][rank * part + i % part];
      if (kind == Kind::all_gather) want = send[i / floats][i % floats];
      if (kind == Kind::reduce_scatter || kind == Kind::all_reduce) {
        float sum = 0;  // in rank order, so nothing may differ
        for (int r = 0; r < n; r++) sum += send[r][kind == Kind::all_reduce ? i : rank * part + i];
        want = sum;
      }
      m.error = std::max(m.error, std::abs(got[i] - want));
    }
  }
  time_all(context, m, once);
  // Bus bandwidth as nccl-tests defines it: what a rank must send at least.
  const double remote = static_cast<double>(n - 1) / n * 4.0 * static_cast<double>(floats);
  m.bytes = kind == Kind::all_gather ? remote * n : kind == Kind::all_reduce ? 2 * remote : remote;
  return m;
}

// Heads for sequence, float32: from [s / n, h, d] of every rank to [s, h / n, d], or back.
Measurement run_heads(Context& context, const Shape& shape, bool back) {
  const int n = static_cast<int>(shape.number("ranks"));
  const std::int64_t rows = shape.number("s") / n, heads = shape.number("h"), d = shape.number("d"),
                     part = heads / n * d, floats = rows * heads * d;
  if (n < 1 || n > kMaximumRanks || shape.number("s") % n || heads % n || d % 4)
    throw Error("ranks must be 1 to 16 and divide s and h, and d must be a multiple of 4");
  Ranks ranks(context, n, 2 * floats * 4 + 1024);
  std::vector<std::vector<float>> send(n, std::vector<float>(floats));
  std::vector<float*> from(n), to(n);
  for (int rank = 0; rank < n; rank++) {
    fill_random(send[rank].data(), send[rank].size(), rank + 1);
    from[rank] = static_cast<float*>(context.allocate(floats * 4));
    to[rank] = static_cast<float*>(context.allocate(floats * 4));
    context.upload(from[rank], send[rank].data(), floats * 4);
  }
  std::uint32_t epoch = 0;
  auto once = [&] {
    epoch++;
    const auto call = back ? context.api.peer_heads_to_sequence : context.api.peer_sequence_to_heads;
    for (int rank = 0; rank < n; rank++)
      context.succeed(call(&ranks.groups[rank], epoch, 1, static_cast<std::int32_t>(rows),
                           static_cast<std::int32_t>(heads), static_cast<std::int32_t>(d * 4), from[rank], to[rank],
                           ranks.streams[rank]));
  };
  once();
  context.succeed(context.api.synchronize());
  Measurement m;
  std::vector<float> got(floats);
  for (int rank = 0; rank < n; rank++) {
    context.download(got.data(), to[rank], floats * 4);
    for (std::int64_t token = 0; token < rows * n; token++)  // of the sequence
      for (std::int64_t i = 0; i < part; i++) {              // of a rank's heads
        // by heads: all tokens of this rank's heads; back: this rank's tokens of all heads, here those of each owner
        const auto owner = static_cast<int>(token / rows);
        const std::int64_t whole = token % rows * heads * d, split = token * part + i;
        const float want =
            back ? send[owner][rank * rows * part + token % rows * part + i] : send[owner][whole + rank * part + i];
        const float is = back ? got[whole + owner * part + i] : got[split];
        m.error = std::max(m.error, static_cast<double>(std::abs(is - want)));
        if (std::isnan(is)) m.error = INFINITY;
      }
  }
  time_all(context, m, once);
  m.bytes = static_cast<double>(n - 1) / n * 4.0 * static_cast<double>(floats);
  return m;
}

// Signal and wait alone, counted on the device. What rank 0 writes before one barrier the last rank reads after it, and
// rank 0 writes anew only after another.
Measurement run_barrier(Context& context, const Shape& shape) {
  const int n = static_cast<int>(shape.number("ranks"));
  if (n < 1 || n > kMaximumRanks) throw Error("ranks must be 1 to 16");
  Ranks ranks(context, n, 256);
  const std::vector<double> one = {1};
  auto* const counters = static_cast<std::uint32_t*>(context.allocate(n * 4));
  auto* const x = static_cast<double*>(context.allocate(16));
  auto* const seen = static_cast<double*>(context.allocate(4 * 8));
  context.upload(x + 1, one.data(), 8);
  context.succeed(context.api.fill(counters, 0, n * 4, nullptr));
  context.succeed(context.api.synchronize());
  for (int rank = 0; rank < n; rank++) ranks.groups[rank].counter = counters + rank;
  auto once = [&] {
    for (int rank = 0; rank < n; rank++)
      context.succeed(context.api.peer_barrier(&ranks.groups[rank], 0, ranks.streams[rank]));
  };
  for (int round = 0; round < 4; round++) {
    const ScalarConstant write{round + 1.0, x};
    const ScalarProduct read{x, x + 1, seen + round};
    context.succeed(context.api.scalar_constant(&write, ranks.streams[0]));
    once();
    context.succeed(context.api.scalar_product(&read, ranks.streams[n - 1]));
    once();
  }
  context.succeed(context.api.synchronize());
  std::vector<double> got(4);
  context.download(got.data(), seen, 4 * 8);
  Measurement m;
  for (int round = 0; round < 4; round++)
    if (got[round] != round + 1.0) m.error = 1;
  time_all(context, m, once);
  m.bytes = 8.0 * n * n;  // a word from each to each, written and read
  return m;
}

Op op(const char* name, Kind kind) {
  return {name,
          {name},
          {"ranks=2,floats=8388608", "ranks=4,floats=8388608", "ranks=4,floats=16384"},
          {"ranks=3,floats=120"},
          [kind](Context& context, const Shape& shape) { return run(context, shape, kind); }};
}
Op heads_op(const char* name, bool back) {
  return {name,
          {name},
          {"ranks=2,s=8192,h=16,d=128", "ranks=4,s=8192,h=16,d=128"},
          {"ranks=3,s=15,h=6,d=8"},
          [back](Context& context, const Shape& shape) { return run_heads(context, shape, back); }};
}

}  // namespace

std::vector<Op> collective_ops() {
  return {op("peer_all_to_all", Kind::all_to_all),
          op("peer_all_gather", Kind::all_gather),
          op("peer_reduce_scatter", Kind::reduce_scatter),
          op("peer_all_reduce", Kind::all_reduce),
          heads_op("peer_sequence_to_heads", false),
          heads_op("peer_heads_to_sequence", true),
          {"peer_barrier", {"peer_barrier"}, {"ranks=2", "ranks=4"}, {"ranks=3"}, run_barrier}};
}

}  // namespace longhaul::cuda::bench
