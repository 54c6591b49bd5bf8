// Attention problems. Errors are measured on a sample of rows, in double, so that long sequences can be checked too.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "base/error.h"
#include "kernels/cuda/bench/bench.h"
#include "kernels/cuda/plain/attention.h"

namespace longhaul::cuda::bench {
namespace {

struct Problem {
  AttentionShape shape;
  std::int32_t window = 0;
  std::vector<std::int32_t> query_index, key_start, key_index;
  std::vector<std::uint16_t> q, k, v, dout;
  double visible = 0;  // pairs of a head of the whole batch

  explicit Problem(const Shape& s) {
    const std::int32_t batch = static_cast<std::int32_t>(s.number("b")),
                       rows = static_cast<std::int32_t>(s.number("s"));
    const std::int32_t d = static_cast<std::int32_t>(s.number("d"));
    shape = {batch,
             rows,
             rows,
             static_cast<std::int32_t>(s.number("h")),
             static_cast<std::int32_t>(s.number("kv")),
             d,
             static_cast<float>(1 / std::sqrt(d))};
    const bool full = s.number("full") != 0;
    window = static_cast<std::int32_t>(s.number("window"));
    const std::int32_t documents = static_cast<std::int32_t>(s.number("documents"));
    if (documents < 1 || documents > rows) throw Error("documents must be 1 to s");
    if (full && (window || documents > 1)) throw Error("full=1 excludes windows and documents");
    if (s.word("dtype") != "bfloat16") throw Error("dtype=" + s.word("dtype") + "; device kernels are bfloat16");
    const std::int32_t document = (rows + documents - 1) / documents;
    for (std::int32_t b = 0; b < batch; b++)
      for (std::int32_t i = 0; i < rows; i++) {
        query_index.push_back(full ? rows : i);
        key_start.push_back(i / document * document);
        key_index.push_back(i);
        const std::int32_t own = full ? rows - 1 : i;
        visible += own - std::max(key_start.back(), window ? own - window + 1 : 0) + 1;
      }
    auto random = [](std::int64_t count, unsigned seed) {
      std::vector<std::uint16_t> values(count);
      fill_random_bfloat16(values.data(), values.size(), seed);
      return values;
    };
    const std::int64_t queries = static_cast<std::int64_t>(batch) * rows * shape.heads * d,
                       keys = static_cast<std::int64_t>(batch) * rows * shape.kv_heads * d;
    q = random(queries, 1), k = random(keys, 2), v = random(keys, 3), dout = random(queries, 4);
  }
  /// Multiply-adds count twice; each visible pair takes part in `products` products.
  double flops(double products) const { return 2 * products * visible * shape.heads * shape.head_dim; }
  double input_bytes() const { return 2.0 * static_cast<double>(q.size() + k.size() + v.size()); }
};

struct OnDevice {
  void *q, *k, *v, *dout, *mask;
  AttentionMask mask_call;
  OnDevice(Context& context, const Problem& p) {
    auto put = [&](const auto& values) {
      void* memory = context.allocate(values.size() * sizeof(values[0]));
      context.upload(memory, values.data(), values.size() * sizeof(values[0]));
      return memory;
    };
    q = put(p.q), k = put(p.k), v = put(p.v), dout = put(p.dout);
    mask_call = {p.shape.batch,
                 p.shape.queries,
                 p.shape.keys,
                 p.window,
                 static_cast<std::int32_t*>(put(p.query_index)),
                 static_cast<std::int32_t*>(put(p.key_start)),
                 static_cast<std::int32_t*>(put(p.key_index))};
    mask = context.allocate(context.api.attention_mask_bytes(p.shape.batch, p.shape.queries, p.shape.keys));
    context.succeed(context.api.attention_mask(&mask_call, mask, nullptr));
  }
};

class RootMeanSquare {  // root mean square over samples, relative
 public:
  void add(double got, double want) { difference_ += (got - want) * (got - want), norm_ += want * want; }
  double value() const {
    return std::isfinite(difference_) ? std::sqrt(difference_ / std::max(norm_, 1e-300)) : INFINITY;
  }

 private:
  double difference_ = 0, norm_ = 0;
};

// One row's softmax in double.
struct Row {
  std::vector<double> weight, out;
  double log_sum_exp = 0;
};
struct Sampler {
  const Problem& p;
  plain::AttentionInputs<double> index;  // for its addresses and visibility alone
  explicit Sampler(const Problem& problem)
      : p(problem), index{p.shape, p.window, p.query_index.data(), p.key_start.data(), p.key_index.data(), nullptr,
                          nullptr, nullptr} {}
  double dot(const std::vector<std::uint16_t>& a, std::int64_t at_a, const std::vector<std::uint16_t>& b,
             std::int64_t at_b) const {
    double sum = 0;
    for (std::int64_t d = 0; d < p.shape.head_dim; d++)
      sum += static_cast<double>(from_bfloat16(a[at_a + d])) * from_bfloat16(b[at_b + d]);
    return sum;
  }
  Row row(std::int64_t b, std::int64_t query, std::int64_t head) const {
    Row r;
    r.weight.assign(p.shape.keys, 0), r.out.assign(p.shape.head_dim, 0);
    double top = -INFINITY, sum = 0;
    for (std::int64_t key = 0; key < p.shape.keys; key++)
      if (index.visible(b, query, key)) {
        r.weight[key] = p.shape.scale * dot(p.q, index.query_at(b, query, head), p.k, index.key_at(b, key, head));
        top = std::max(top, r.weight[key]);
      }
    for (std::int64_t key = 0; key < p.shape.keys; key++) {
      r.weight[key] = index.visible(b, query, key) ? std::exp(r.weight[key] - top) : 0;
      sum += r.weight[key];
    }
    for (std::int64_t key = 0; key < p.shape.keys; key++) {
      r.weight[key] /= sum;
      for (std::int64_t d = 0; d < p.shape.head_dim; d++)
        r.out[d] += r.weight[key] * from_bfloat16(p.v[index.key_at(b, key, head) + d]);
    }
    r.log_sum_exp = top + std::log(sum);
    return r;
  }
  // Some rows of every region, the same in every run.
  std::vector<std::array<std::int64_t, 3>> rows(int count) const {
    std::mt19937 random(11);
    std::vector<std::array<std::int64_t, 3>> result;
    for (int i = 0; i < count; i++)
      result.push_back({static_cast<std::int64_t>(random() % p.shape.batch),
                        i < 2 ? (p.shape.queries - 1) * i : static_cast<std::int64_t>(random() % p.shape.queries),
                        static_cast<std::int64_t>(random() % p.shape.heads)});
    return result;
  }
};

Implementation implementation_of(const Shape& shape) {
  const std::string name = shape.word("kernel");
  if (name == "auto") return Implementation::automatic;
  if (name == "portable") return Implementation::portable;
  if (name == "hopper") return Implementation::hopper;
  throw Error("--shape: kernel=" + name + " is not auto, portable or hopper");
}

struct Forward {
  void* out;
  float* log_sum_exp;
  AttentionForward call;
  Forward(Context& context, const Problem& p, const OnDevice& on, Implementation implementation) {
    out = context.allocate(p.q.size() * 2);
    log_sum_exp = static_cast<float*>(
        context.allocate(sizeof(float) * p.shape.batch * p.shape.heads * static_cast<std::size_t>(p.shape.queries)));
    call = {p.shape,        on.mask,        {on.q, 0, 0, 0}, {on.k, 0, 0, 0}, {on.v, 0, 0, 0},
            {out, 0, 0, 0}, Type::bfloat16, log_sum_exp,     implementation};
  }
};

// Of some rows of the output.
double forward_error(Context& context, const Problem& p, const Forward& forward, int rows) {
  std::vector<std::uint16_t> out(p.q.size());
  context.download(out.data(), forward.out, out.size() * 2);
  const Sampler sampler(p);
  RootMeanSquare error;
  for (const auto& [b, query, head] : sampler.rows(rows)) {
    const Row row = sampler.row(b, query, head);
    for (std::int64_t d = 0; d < p.shape.head_dim; d++)
      error.add(from_bfloat16(out[sampler.index.query_at(b, query, head) + d]), row.out[d]);
  }
  return error.value();
}

Measurement run_forward(Context& context, const Shape& shape) {
  const Problem p(shape);
  const OnDevice on(context, p);
  const Forward forward(context, p, on, implementation_of(shape));
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.attention_forward(&forward.call, nullptr)); });
  m.error = forward_error(context, p, forward, 12), m.bound = 6e-3;
  m.flops = p.flops(2), m.bytes = p.input_bytes() + 2.0 * static_cast<double>(p.q.size());
  return m;
}

// What a mask holds is the kernels' own; it is right when attention sees what it should.
Measurement run_mask(Context& context, const Shape& shape) {
  const Problem p(shape);
  const OnDevice on(context, p);
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.attention_mask(&on.mask_call, on.mask, nullptr)); });
  const Forward forward(context, p, on, implementation_of(shape));
  context.succeed(context.api.attention_forward(&forward.call, nullptr));
  m.error = forward_error(context, p, forward, 40), m.bound = 6e-3;
  // Indices and starts are read; ranges and a copy of the keys' indices written.
  m.bytes = static_cast<double>(p.shape.batch) * (16.0 * p.shape.queries + 8.0 * p.shape.keys);
  return m;
}

Measurement run_backward(Context& context, const Shape& shape) {
  Problem p(shape);
  p.shape.parts = static_cast<std::int32_t>(shape.number("parts"));
  const OnDevice on(context, p);
  const Forward forward(context, p, on, implementation_of(shape));
  context.succeed(context.api.attention_forward(&forward.call, nullptr));
  void* dq = context.allocate(p.q.size() * 4);
  void *dk = context.allocate(p.k.size() * 4), *dv = context.allocate(p.k.size() * 4);
  AttentionBackward call{};
  call.shape = p.shape, call.mask = on.mask;
  call.q = {on.q, 0, 0, 0}, call.k = {on.k, 0, 0, 0}, call.v = {on.v, 0, 0, 0};
  call.out = {forward.out, 0, 0, 0}, call.out_type = Type::bfloat16;
  call.dout = {on.dout, 0, 0, 0}, call.log_sum_exp = forward.log_sum_exp;
  call.dq = {dq, 0, 0, 0}, call.dk = {dk, 0, 0, 0}, call.dv = {dv, 0, 0, 0};
  call.dq_type = call.dkv_type = Type::float32;
  call.unordered_dq = shape.word("dq") == "unordered";
  call.workspace = context.allocate(context.api.attention_backward_workspace(&p.shape));
  call.implementation = implementation_of(shape);
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.attention_backward(&call, nullptr)); });

  std::vector<float> got_dq(p.q.size()), got_dk(p.k.size()), got_dv(p.k.size());
  std::vector<float> lse(static_cast<std::size_t>(p.shape.batch) * p.shape.heads * p.shape.queries);
  std::vector<std::uint16_t> out(p.q.size());
  context.download(got_dq.data(), dq, got_dq.size() * 4);
  context.download(got_dk.data(), dk, got_dk.size() * 4);
  context.download(got_dv.data(), dv, got_dv.size() * 4);
  context.download(lse.data(), forward.log_sum_exp, lse.size() * 4);
  context.download(out.data(), forward.out, out.size() * 2);
  const Sampler sampler(p);
  const AttentionShape& s = p.shape;
  RootMeanSquare dq_error, dk_error, dv_error;
  for (const auto& [b, query, head] : sampler.rows(6)) {  // dQ of a row
    const Row row = sampler.row(b, query, head);
    const std::int64_t q_at = sampler.index.query_at(b, query, head);
    double delta = 0;
    for (std::int64_t d = 0; d < s.head_dim; d++) delta += row.out[d] * from_bfloat16(p.dout[q_at + d]);
    std::vector<double> want(s.head_dim, 0.0);
    for (std::int64_t key = 0; key < s.keys; key++) {
      if (row.weight[key] == 0) continue;
      const std::int64_t k_at = sampler.index.key_at(b, key, head);
      const double ds = s.scale * row.weight[key] * (sampler.dot(p.dout, q_at, p.v, k_at) - delta);
      for (std::int64_t d = 0; d < s.head_dim; d++) want[d] += ds * from_bfloat16(p.k[k_at + d]);
    }
    for (std::int64_t d = 0; d < s.head_dim; d++) dq_error.add(got_dq[q_at + d], want[d]);
  }
  const std::int64_t group = s.heads / s.kv_heads;
  for (const auto& [b, key, head] : sampler.rows(6)) {  // dK and dV of a key, from the forward's output and LSE
    const std::int64_t k_at = sampler.index.key_at(b, key, head), first = head / group * group;
    std::vector<double> want_dk(s.head_dim, 0.0), want_dv(s.head_dim, 0.0);
    for (std::int64_t h = first; h < first + group; h++)
      for (std::int64_t query = 0; query < s.queries; query++) {
        if (!sampler.index.visible(b, query, key)) continue;
        const std::int64_t q_at = sampler.index.query_at(b, query, h);
        const double weight =
            std::exp(s.scale * sampler.dot(p.q, q_at, p.k, k_at) - lse[(b * s.heads + h) * s.queries + query]);
        const double ds =
            s.scale * weight * (sampler.dot(p.dout, q_at, p.v, k_at) - sampler.dot(p.dout, q_at, out, q_at));
        for (std::int64_t d = 0; d < s.head_dim; d++) {
          want_dk[d] += ds * from_bfloat16(p.q[q_at + d]);
          want_dv[d] += weight * from_bfloat16(p.dout[q_at + d]);
        }
      }
    for (std::int64_t d = 0; d < s.head_dim; d++)
      dk_error.add(got_dk[k_at + d], want_dk[d]), dv_error.add(got_dv[k_at + d], want_dv[d]);
  }
  m.error = std::max({dq_error.value(), dk_error.value(), dv_error.value()}), m.bound = 1e-2;
  m.flops = p.flops(5);
  m.bytes = p.input_bytes() + 4.0 * static_cast<double>(p.q.size()) + 8.0 * static_cast<double>(p.k.size());
  return m;
}

Measurement run_plain_forward(const Shape& shape) {
  const Problem p(shape);
  auto widen = [](const std::vector<std::uint16_t>& from) {
    std::vector<float> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(), from_bfloat16);
    return to;
  };
  const std::vector<float> q = widen(p.q), k = widen(p.k), v = widen(p.v);
  std::vector<float> out(q.size()), lse(static_cast<std::size_t>(p.shape.batch) * p.shape.heads * p.shape.queries);
  const plain::AttentionInputs<float> in{
      p.shape, p.window, p.query_index.data(), p.key_start.data(), p.key_index.data(), q.data(), k.data(), v.data()};
  const auto begin = std::chrono::steady_clock::now();
  plain::attention_forward(in, out.data(), lse.data());
  Measurement m;
  m.minimum_ms = m.median_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  const Sampler sampler(p);
  RootMeanSquare error;
  for (const auto& [b, query, head] : sampler.rows(12)) {
    const Row row = sampler.row(b, query, head);
    for (std::int64_t d = 0; d < p.shape.head_dim; d++)
      error.add(out[sampler.index.query_at(b, query, head) + d], row.out[d]);
  }
  m.error = error.value(), m.bound = 1e-5, m.flops = p.flops(2), m.bytes = 2 * p.input_bytes();
  return m;
}

}  // namespace

std::vector<Op> attention_ops() {
  const std::vector<std::string> forward = {
      "b=2 s=8192 h=16 kv=16 d=128",
      "b=1 s=16384 h=16 kv=16 d=128",
      "b=2 s=8192 h=16 kv=16 d=128 full=1",
      "b=2 s=8192 h=32 kv=8 d=128",
      "b=2 s=8192 h=16 kv=16 d=64",
      "b=2 s=8192 h=8 kv=8 d=256",
      "b=2 s=8192 h=16 kv=16 d=128 window=1024",
      "b=2 s=8192 h=16 kv=16 d=128 documents=8",
      "b=2 s=8192 h=16 kv=16 d=128 kernel=portable",
  };
  std::vector<std::string> backward;
  for (const std::string& shape : forward)
    if (shape.find("d=256") == std::string::npos) backward.push_back(shape);
  backward.push_back("b=2 s=8192 h=16 kv=16 d=128 dq=unordered");
  // Few kv heads: the rule divides their groups, and without.
  backward.push_back("b=1 s=8192 h=12 kv=2 d=128");
  backward.push_back("b=1 s=8192 h=12 kv=2 d=128 parts=1");
  backward.push_back("b=2 s=8192 h=32 kv=8 d=128 parts=1");
  const std::string small = "b=1 h=2 kv=1 s=200 d=128 window=0 documents=1 full=0 kernel=auto dtype=bfloat16";
  return {{"attention_forward", {"attention_forward"}, forward, {small}, run_forward, run_plain_forward},
          {"attention_backward", {"attention_backward"}, backward, {small + " dq=ordered parts=0"}, run_backward},
          {"attention_mask",
           {"attention_mask"},
           {"b=1 s=131072 window=0 documents=1", "b=1 s=131072 window=4096 documents=8"},
           {"b=1 h=1 kv=1 s=300 d=64 window=40 documents=2 full=0 kernel=auto dtype=bfloat16"},
           run_mask}};
}

}  // namespace longhaul::cuda::bench
