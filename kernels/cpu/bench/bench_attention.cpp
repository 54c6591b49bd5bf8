// Attention, forward and backward, of whole sequences, of packed documents and of one block of keys among several.
//
//   b, h, kv, d     batch, query heads, key heads, head dimension
//   s, t            queries and keys a sequence; t=0: as many as queries
//   window          keys that a query sees, itself counted; 0: all before it
//   documents       equal packed documents a sequence
//   block           0: the keys are the queries' tokens; 1: the t tokens before them, as one step of several sees them
//   shuffled        1: the tokens lie in the buffers in a random order
//   out             dtype of out and of the gradients: same, or float32
//   accumulate      (backward) 1: adds to the gradients, which are then float32 (or float64)
//
// FLOPs count the visible pairs: 4 d a pair and head forward, 10 d backward.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "kernels/bench/random.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_delta.h"
#include "kernels/cpu/attention_merge.h"
#include "kernels/cpu/bench/case.h"

namespace longhaul::cpu::bench {
namespace {

struct Attention {
  AttentionProblem problem;
  const AttentionImplementation* kernel = nullptr;
  DType out = DType::float32, statistics = DType::float32;
  double visible = 0;  // pairs of a head, of the whole batch
  std::int64_t queries() const { return problem.batch * problem.queries * problem.heads * problem.head_dim; }
  std::int64_t keys() const { return problem.batch * problem.keys * problem.kv_heads * problem.head_dim; }
  std::int64_t rows() const { return problem.batch * problem.heads * problem.queries; }
};

// A random order of the tokens of a sequence, or their own.
std::vector<std::int32_t> order_of(std::int64_t tokens, bool shuffled) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(tokens));
  std::iota(order.begin(), order.end(), 0);
  longhaul::bench::NormalNumbers next(5);
  for (std::size_t i = order.size(); shuffled && i > 1; --i) {
    next();
    std::swap(order[i - 1], order[(next.state >> 33) % i]);
  }
  return order;
}

Attention set_up_problem(Case& c) {
  Attention a;
  AttentionProblem& p = a.problem;
  p.batch = c.size("b");
  p.queries = c.size("s");
  p.keys = c.size("t") ? c.size("t") : p.queries;
  p.heads = c.size("h");
  p.kv_heads = c.size("kv");
  p.head_dim = c.size("d");
  p.window = c.size("window");
  if (!p.batch || !p.queries || !p.heads || !p.kv_heads || !p.head_dim) fail("b, s, h, kv and d are at least 1");
  if (p.heads % p.kv_heads) fail("h={} is no multiple of kv={}", p.heads, p.kv_heads);
  p.scale = 1 / std::sqrt(static_cast<double>(p.head_dim));
  const std::int64_t documents = c.size("documents");
  if (documents < 1 || documents > p.queries) fail("documents={}; allowed are 1 to s", documents);
  const bool before = c.flag("block");
  if (!before && p.keys < p.queries) fail("t={} is less than s={}; only with block=1", p.keys, p.queries);
  if (before && documents > 1) fail("documents={} with block=1: the queries would see no key", documents);
  const std::vector<std::int32_t> query_order = order_of(p.queries, c.flag("shuffled")),
                                  key_order = order_of(p.keys, c.flag("shuffled"));
  std::vector<std::int32_t>&query_index = c.integers(p.batch * p.queries), &start = c.integers(p.batch * p.queries),
  &key_index = c.integers(p.batch * p.keys);
  const std::int64_t length = (p.queries + documents - 1) / documents, offset = before ? p.keys : 0;
  for (std::int64_t i = 0; i < p.batch * p.queries; ++i) {
    const std::int64_t token = query_order[static_cast<std::size_t>(i % p.queries)], index = token + offset,
                       document = token / length * length,
                       first = std::max(document, p.window ? index - p.window + 1 : 0);
    query_index[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(index);
    start[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(document);
    a.visible += static_cast<double>(std::max<std::int64_t>(0, std::min(index, p.keys - 1) - first + 1));
  }
  for (std::int64_t i = 0; i < p.batch * p.keys; ++i)
    key_index[static_cast<std::size_t>(i)] = key_order[static_cast<std::size_t>(i % p.keys)];
  p.query_index = query_index.data();
  p.key_index = key_index.data();
  p.key_start = start.data();
  a.kernel = &select_attention(p, c.dtype);
  c.kernel = std::string(a.kernel->name);
  a.out = c.type("out");
  a.statistics = c.dtype == DType::float64 ? DType::float64 : DType::float32;
  if (a.out != c.dtype && a.out != a.statistics)
    fail("out={}; allowed are the dtype of the operands and {}", name_of(a.out), name_of(a.statistics));
  return a;
}

// Which of `count` rows are checked: all of them, or, where the plain loops would take minutes, `most`: the first, the
// last and others all over, at changing places within tiles.
std::vector<std::int64_t> sample(std::int64_t count, std::int64_t most) {
  std::vector<std::int64_t> rows;
  if (count <= most) {
    for (std::int64_t i = 0; i < count; ++i) rows.push_back(i);
    return rows;
  }
  for (std::int64_t i = 0; i < most; ++i) rows.push_back(i * count / most + i * 7919 % (count / most));
  rows.front() = 0;
  rows.back() = count - 1;
  return rows;
}

// So many rows that the oracle's multiplications stay below about 10^9.
std::int64_t affordable(const AttentionProblem& p, std::int64_t other, int products) {
  return std::max<std::int64_t>(24, 1000000000 / (p.batch * p.heads * p.head_dim * other * products));
}

// Rows `rows` of every sequence of x, [batch, tokens, width], in double.
std::vector<double> gather(const Tensor& x, std::int64_t batch, std::int64_t tokens,
                           const std::vector<std::int64_t>& rows) {
  const std::int64_t width = x.count / (batch * tokens);
  std::vector<double> out;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t row : rows)
      for (std::int64_t i = 0; i < width; ++i) out.push_back(x.narrow_at((b * tokens + row) * width + i));
  return out;
}
std::vector<std::int32_t> gather(const std::int32_t* x, std::int64_t batch, std::int64_t tokens,
                                 const std::vector<std::int64_t>& rows) {
  std::vector<std::int32_t> out;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t row : rows) out.push_back(x[b * tokens + row]);
  return out;
}
// The same of statistics, [batch, heads, tokens].
std::vector<double> gather_statistics(const Tensor& x, const AttentionProblem& p,
                                      const std::vector<std::int64_t>& rows) {
  std::vector<double> out;
  for (std::int64_t head = 0; head < p.batch * p.heads; ++head)
    for (std::int64_t row : rows) out.push_back(x.narrow_at(head * p.queries + row));
  return out;
}

void compare(Check& check, const std::vector<double>& got, const std::vector<double>& want, double bound) {
  check.compare(
      static_cast<std::int64_t>(got.size()), [&](std::int64_t i) { return got[static_cast<std::size_t>(i)]; },
      [&](std::int64_t i) { return want[static_cast<std::size_t>(i)]; }, bound);
}
// What is not compared is at least finite: nothing was left unwritten.
void all_finite(Check& check, const Tensor& x, bool infinite_too) {
  for (std::int64_t i = 0; i < x.count; ++i) {
    const double value = x.narrow_at(i);
    if (std::isnan(value) || (std::isinf(value) && !infinite_too))
      check.compare(
          1, [](std::int64_t) { return NAN; }, [](std::int64_t) { return 0.0; }, 1);
  }
}

// The problem of some queries: arrays of its own, in double.
struct QuerySample {
  QuerySample(const AttentionProblem& whole, std::int64_t most) : rows(sample(whole.queries, most)), problem(whole) {
    index = gather(whole.query_index, whole.batch, whole.queries, rows);
    start = gather(whole.key_start, whole.batch, whole.queries, rows);
    problem.queries = static_cast<std::int64_t>(rows.size());
    problem.query_index = index.data();
    problem.key_start = start.data();
  }
  std::vector<std::int64_t> rows;
  AttentionProblem problem;
  std::vector<std::int32_t> index, start;
};

// Scales of the errors: float32 statistics and sums; bfloat16 weights and outputs.
double attention_bound(const Case& c, DType type) {
  if (c.dtype == DType::bfloat16 && type == DType::float32) type = DType::bfloat16;
  return type == DType::bfloat16 ? 2e-2 : type == DType::float32 ? 1e-5 : 1e-11;
}

struct Forward {
  Tensor *q, *k, *v, *out, *log_sum_exp;
};

void check_forward(const Attention& a, const Forward& t, Case& c, Check& check) {
  const AttentionProblem& p = a.problem;
  const QuerySample part(p, affordable(p, p.keys, 2));
  const std::vector<double> q = gather(*t.q, p.batch, p.queries, part.rows);
  std::vector<double> out(q.size()), statistics(static_cast<std::size_t>(p.batch * p.heads * part.problem.queries));
  AttentionForward oracle;
  oracle.dtype = oracle.out_dtype = DType::float64;
  oracle.q = q.data();
  oracle.k = t.k->wide.data();
  oracle.v = t.v->wide.data();
  oracle.out = out.data();
  oracle.log_sum_exp = statistics.data();
  const Memory scratch(reference::attention_forward_scratch_bytes(part.problem, DType::float64, c.pool().threads()));
  reference::attention_forward(part.problem, oracle, c.pool(), scratch.data());
  compare(check, gather(*t.out, p.batch, p.queries, part.rows), out, attention_bound(c, a.out));
  compare(check, gather_statistics(*t.log_sum_exp, p, part.rows), statistics, attention_bound(c, c.dtype) / 4);
  all_finite(check, *t.out, false);
  all_finite(check, *t.log_sum_exp, true);
}

Forward forward_tensors(Case& c, const Attention& a) {
  return {&c.input(a.queries()), &c.input(a.keys()), &c.input(a.keys()), nullptr, nullptr};
}
AttentionForward forward_arguments(const Case& c, const Attention& a, const Forward& t) {
  AttentionForward tensors;
  tensors.dtype = c.dtype;
  tensors.q = t.q->narrow.data();
  tensors.k = t.k->narrow.data();
  tensors.v = t.v->narrow.data();
  tensors.out_dtype = a.out;
  tensors.out = t.out->narrow.data();
  tensors.log_sum_exp = t.log_sum_exp->narrow.data();
  return tensors;
}

void attention_forward(Case& c) {
  const Attention a = set_up_problem(c);
  Forward t = forward_tensors(c, a);
  t.out = &c.output_of(a.out, a.queries());
  t.log_sum_exp = &c.output_of(a.statistics, a.rows());
  c.scratch_bytes = a.kernel->forward_scratch_bytes(a.problem, c.dtype, c.threads());
  const AttentionForward arguments = forward_arguments(c, a, t);
  c.call = [a, arguments](Side side) { a.kernel->forward(a.problem, arguments, side.pool, side.scratch); };
  c.check = [a, t](Case& one, Check& check) { check_forward(a, t, one, check); };
  c.flops = 4 * a.visible * static_cast<double>(a.problem.heads * a.problem.head_dim);
}

struct Backward {
  Forward forward;
  Tensor *delta, *dout, *dq, *dk, *dv;
};

// delta of an output of any type, rounded as `delta` is.
void fill_delta(const Tensor& out, const Tensor& dout, const Tensor& delta) {
  const std::int64_t d = out.count / delta.count;
  dispatch_floating(out.type, [&](auto o) {
    dispatch_floating(dout.type, [&](auto g) {
      dispatch_floating(delta.type, [&](auto s) {
        for (std::int64_t row = 0; row < delta.count; ++row) {
          double sum = 0;
          for (std::int64_t i = row * d; i < (row + 1) * d; ++i)
            sum += convert<double>(static_cast<const decltype(o)*>(out.narrow.data())[i]) *
                   convert<double>(static_cast<const decltype(g)*>(dout.narrow.data())[i]);
          static_cast<decltype(s)*>(delta.narrow.data())[row] = convert<decltype(s)>(sum);
        }
      });
    });
  });
}

// The gradient's inputs, delta and statistics included, are what the kernel is given; for the oracle in double.
struct Oracle {
  std::vector<double> q, k, v, delta, statistics, dout, dq, dk, dv;
  void run(const AttentionProblem& p, ThreadPool& pool) {
    dq.resize(q.size());
    dk.resize(k.size());
    dv.resize(k.size());
    AttentionBackward arguments;
    arguments.dtype = arguments.dq_dtype = arguments.dkv_dtype = DType::float64;
    arguments.q = q.data();
    arguments.k = k.data();
    arguments.v = v.data();
    arguments.delta = delta.data();
    arguments.log_sum_exp = statistics.data();
    arguments.dout = dout.data();
    arguments.dq = dq.data();
    arguments.dk = dk.data();
    arguments.dv = dv.data();
    const Memory scratch(
        reference::attention_backward_scratch_bytes(p, DType::float64, DType::float64, pool.threads()));
    reference::attention_backward(p, arguments, pool, scratch.data());
  }
};

void add(std::vector<double>& to, const std::vector<double>& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}
// What lay in an updated tensor, at those rows.
std::vector<double> gather_before(Case& c, const Tensor& x, std::int64_t batch, std::int64_t tokens,
                                  const std::vector<std::int64_t>& rows) {
  for (const Case::Output& output : c.outputs()) {
    if (output.tensor != &x) continue;
    const std::int64_t width = x.count / (batch * tokens);
    std::vector<double> out;
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t row : rows)
        for (std::int64_t i = 0; i < width; ++i) out.push_back(x.wide_at((b * tokens + row) * width + i));
    return out;
  }
  return {};
}

void check_backward(const Attention& a, const Backward& t, Case& c, Check& check) {
  const AttentionProblem& p = a.problem;
  const Forward& f = t.forward;
  const bool adds = c.flag("accumulate");
  const double bound = attention_bound(c, a.out);
  {  // dq of some queries needs all keys
    const QuerySample part(p, affordable(p, p.keys, 5));
    const std::vector<std::int64_t> all = sample(p.keys, p.keys);
    Oracle oracle{.q = gather(*f.q, p.batch, p.queries, part.rows),
                  .k = gather(*f.k, p.batch, p.keys, all),
                  .v = gather(*f.v, p.batch, p.keys, all),
                  .delta = gather(*t.delta, p.batch, p.queries, part.rows),
                  .statistics = gather_statistics(*f.log_sum_exp, p, part.rows),
                  .dout = gather(*t.dout, p.batch, p.queries, part.rows),
                  .dq = {},
                  .dk = {},
                  .dv = {}};
    oracle.run(part.problem, c.pool());
    if (adds) add(oracle.dq, gather_before(c, *t.dq, p.batch, p.queries, part.rows));
    compare(check, gather(*t.dq, p.batch, p.queries, part.rows), oracle.dq, bound);
  }
  {  // dk and dv of some keys need all queries
    AttentionProblem part = p;
    const std::vector<std::int64_t> rows = sample(p.keys, affordable(p, p.queries, 5)),
                                    all = sample(p.queries, p.queries);
    const std::vector<std::int32_t> index = gather(p.key_index, p.batch, p.keys, rows);
    part.keys = static_cast<std::int64_t>(rows.size());
    part.key_index = index.data();
    Oracle oracle{.q = gather(*f.q, p.batch, p.queries, all),
                  .k = gather(*f.k, p.batch, p.keys, rows),
                  .v = gather(*f.v, p.batch, p.keys, rows),
                  .delta = gather(*t.delta, p.batch, p.queries, all),
                  .statistics = gather_statistics(*f.log_sum_exp, p, all),
                  .dout = gather(*t.dout, p.batch, p.queries, all),
                  .dq = {},
                  .dk = {},
                  .dv = {}};
    oracle.run(part, c.pool());
    if (adds) add(oracle.dk, gather_before(c, *t.dk, p.batch, p.keys, rows));
    if (adds) add(oracle.dv, gather_before(c, *t.dv, p.batch, p.keys, rows));
    compare(check, gather(*t.dk, p.batch, p.keys, rows), oracle.dk, bound);
    compare(check, gather(*t.dv, p.batch, p.keys, rows), oracle.dv, bound);
  }
  for (const Tensor* gradient : {t.dq, t.dk, t.dv}) all_finite(check, *gradient, false);
}

void attention_backward(Case& c) {
  const Attention a = set_up_problem(c);
  const bool adds = c.flag("accumulate");
  if (adds && a.out == DType::bfloat16) fail("accumulate=1 needs out=float32");
  Backward t{forward_tensors(c, a), nullptr, &c.input(a.queries()), nullptr, nullptr, nullptr};
  t.forward.out = &c.input_of(a.out, a.queries());  // filled by prepare
  t.forward.log_sum_exp = &c.input_of(a.statistics, a.rows());
  t.delta = &c.input_of(a.statistics, a.rows());
  const auto gradient = [&](std::int64_t count) {
    return adds ? &c.updated(c.input_of(a.out, count)) : &c.output_of(a.out, count);
  };
  t.dq = gradient(a.queries());
  t.dk = gradient(a.keys());
  t.dv = gradient(a.keys());
  const AttentionForward before = forward_arguments(c, a, t.forward);
  AttentionBackward arguments;
  arguments.dtype = c.dtype;
  arguments.q = before.q;
  arguments.k = before.k;
  arguments.v = before.v;
  arguments.dq_dtype = arguments.dkv_dtype = a.out;
  arguments.delta = t.delta->narrow.data();
  arguments.log_sum_exp = before.log_sum_exp;
  arguments.dout = t.dout->narrow.data();
  arguments.dq = t.dq->narrow.data();
  arguments.accumulate_dq = arguments.accumulate_dkv = adds;
  arguments.dk = t.dk->narrow.data();
  arguments.dv = t.dv->narrow.data();
  c.scratch_bytes = a.kernel->backward_scratch_bytes(a.problem, c.dtype, a.out, c.threads());
  c.prepare = [a, before, t,
               bytes = a.kernel->forward_scratch_bytes(a.problem, c.dtype, c.threads())](ThreadPool& pool) {
    const Memory scratch(bytes);
    a.kernel->forward(a.problem, before, pool, scratch.data());
    fill_delta(*t.forward.out, *t.dout, *t.delta);
  };
  c.call = [a, arguments](Side side) { a.kernel->backward(a.problem, arguments, side.pool, side.scratch); };
  c.check = [a, t](Case& one, Check& check) { check_backward(a, t, one, check); };
  c.flops = 10 * a.visible * static_cast<double>(a.problem.heads * a.problem.head_dim);
}

void attention_delta(Case& c) {
  const std::int64_t rows = c.size("b") * c.size("s") * c.size("h"), d = c.size("d");
  const Tensor &out = c.input(rows * d), &dout = c.input(rows * d),
               &delta = c.output_of(c.dtype == DType::float64 ? DType::float64 : DType::float32, rows);
  c.call = [=, &out, &dout, &delta](Side side) {
    const AttentionDelta p{side(out.type), side(out), side(dout), side(delta), rows, d};
    side.exact ? reference::attention_delta(p) : longhaul::cpu::attention_delta(side.pool, p);
  };
  c.tolerance = 64;
  c.bytes = static_cast<double>(out.narrow.bytes() + dout.narrow.bytes() + delta.narrow.bytes());
}

// The merge by its definition.
void merge_plainly(const AttentionMerge& p) {
  const auto at = [](const void* values, std::int64_t i) { return static_cast<const double*>(values)[i]; };
  for (std::int64_t row = 0; row < p.batch * p.queries * p.heads; ++row) {
    const std::int64_t head = row % p.heads, query = row / p.heads % p.queries, b = row / p.heads / p.queries,
                       statistic = (b * p.heads + head) * p.queries + query;
    const double weight_a = std::exp(at(p.log_sum_exp_a, statistic)),
                 weight_b = std::exp(at(p.log_sum_exp_b, statistic)), sum = weight_a + weight_b;
    for (std::int64_t i = row * p.head_dim; i < (row + 1) * p.head_dim; ++i)
      static_cast<double*>(p.out)[i] = sum == 0 ? 0 : (weight_a * at(p.out_a, i) + weight_b * at(p.out_b, i)) / sum;
    static_cast<double*>(p.log_sum_exp)[statistic] = std::log(sum);
  }
}

void set(const Tensor& tensor, std::int64_t i, double value) {
  static_cast<double*>(tensor.wide.data())[i] = value;
  dispatch_floating(tensor.type,
                    [&](auto t) { static_cast<decltype(t)*>(tensor.narrow.data())[i] = convert<decltype(t)>(value); });
}

// Two partial results become one; in place, as one of several steps does it.
void attention_merge(Case& c) {
  const std::int64_t b = c.size("b"), s = c.size("s"), h = c.size("h"), d = c.size("d");
  if (c.dtype == DType::bfloat16) fail("dtype=bfloat16; partial results are float32 or float64");
  Tensor &out = c.input(b * s * h * d), &statistics = c.input(b * h * s);
  const Tensor &partial = c.input(b * s * h * d), &partial_statistics = c.input(b * h * s);
  if (b * h * s > 3) {  // rows that saw no key on one side, on the other, on both
    for (std::int64_t row : {1, 3}) set(statistics, row, -INFINITY);
    for (std::int64_t row : {2, 3}) set(partial_statistics, row, -INFINITY);
  }
  c.updated(out);
  c.updated(statistics);
  c.call = [=, &c, &out, &statistics, &partial, &partial_statistics](Side side) {
    const AttentionMerge merge{side(c.dtype),
                               side(out),
                               side(statistics),
                               side(partial),
                               side(partial_statistics),
                               side(out),
                               side(statistics),
                               b,
                               s,
                               h,
                               d};
    if (side.exact)
      merge_plainly(merge);
    else
      longhaul::cpu::attention_merge(side.pool, merge);
  };
  c.tolerance = 64;
  c.bytes = 3.0 * static_cast<double>(out.narrow.bytes() + statistics.narrow.bytes());
}

}  // namespace

std::vector<Entry> attention_entries() {
  return {
      {"attention_forward",
       {"forward"},
       "b=1 h=2 kv=1 s=2048 t=0 d=64 window=0 documents=1 block=0 shuffled=0 out=same dtype=float32 threads=1",
       attention_forward},
      {"attention_backward",
       {"backward"},
       "b=1 h=2 kv=1 s=2048 t=0 d=64 window=0 documents=1 block=0 shuffled=0 out=same accumulate=0 dtype=float32 "
       "threads=1",
       attention_backward},
      {"attention_delta", {"attention_delta"}, "b=1 s=8192 h=16 d=128 dtype=float32 threads=1", attention_delta},
      {"attention_merge", {"attention_merge"}, "b=1 s=8192 h=16 d=128 dtype=float32 threads=1", attention_merge},
  };
}

}  // namespace longhaul::cpu::bench
