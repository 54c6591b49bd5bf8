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
  if (context.timed) {
    const int rounds = context.repeat;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < rounds; i++) once();
    context.succeed(context.api.synchronize());
    m.timed = true;
    m.minimum_ms = m.median_ms =  // together: the ranks' streams overlap
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() / rounds;
  }
  // Bus bandwidth as nccl-tests defines it: what a rank must send at least.
  const double remote = static_cast<double>(n - 1) / n * 4.0 * static_cast<double>(floats);
  m.bytes = kind == Kind::all_gather ? remote * n : kind == Kind::all_reduce ? 2 * remote : remote;
  return m;
}

Op op(const char* name, Kind kind) {
  return {name,
          {"ranks=2,floats=16777216", "ranks=4,floats=16777216", "ranks=4,floats=16384"},
          "ranks=3,floats=120",
          [kind](Context& context, const Shape& shape) { return run(context, shape, kind); },
          {}};
}

}  // namespace

std::vector<Op> collective_ops() {
  return {op("peer_all_to_all", Kind::all_to_all), op("peer_all_gather", Kind::all_gather),
          op("peer_reduce_scatter", Kind::reduce_scatter), op("peer_all_reduce", Kind::all_reduce)};
}

}  // namespace longhaul::cuda::bench
