// The memory-bound kernels. Errors on a sample of rows, in double; bytes are what must move at least.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/bench/bench.h"
#include "kernels/cuda/plain/norm.h"
#include "kernels/cuda/plain/pointwise.h"
#include "kernels/cuda/plain/tokens.h"

namespace longhaul::cuda::bench {
namespace {

using Words = std::vector<std::uint16_t>;

struct Host {  // bf16 values here and on the device
  Words values;
  void* device;
  Host(Context& context, std::int64_t count, unsigned seed, float scale = 1)
      : values(count), device(context.allocate(count * 2)) {
    fill_random_bfloat16(values.data(), values.size(), seed, scale);
    context.upload(device, values.data(), values.size() * 2);
  }
  std::vector<double> part(std::int64_t from, std::int64_t count) const {
    std::vector<double> result(count);
    for (std::int64_t i = 0; i < count; i++) result[i] = from_bfloat16(values[from + i]);
    return result;
  }
};
Words download(Context& context, const void* from, std::int64_t count) {
  Words result(count);
  context.download(result.data(), from, count * 2);
  return result;
}
std::vector<float> download_float(Context& context, const void* from, std::int64_t count) {
  std::vector<float> result(count);
  context.download(result.data(), from, count * 4);
  return result;
}
void* upload_float(Context& context, const std::vector<float>& values) {
  void* to = context.allocate(values.size() * 4);
  context.upload(to, values.data(), values.size() * 4);
  return to;
}
double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double difference = 0, norm = 1e-300;
  for (std::size_t i = 0; i < want.size(); i++)
    difference += (got[i] - want[i]) * (got[i] - want[i]), norm += want[i] * want[i];
  return std::isfinite(difference) ? std::sqrt(difference / norm) : INFINITY;
}
std::vector<double> widen(const Words& words, std::int64_t from, std::int64_t count) {
  std::vector<double> result(count);
  for (std::int64_t i = 0; i < count; i++) result[i] = from_bfloat16(words[from + i]);
  return result;
}

Measurement norm_forward(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Host x(context, rows * columns, 1), residual(context, rows * columns, 2), weight(context, columns, 3);
  void *sum = context.allocate(rows * columns * 2), *y = context.allocate(rows * columns * 2);
  float* inverse = static_cast<float*>(context.allocate(rows * 4));
  const NormForward call{rows,
                         static_cast<std::int32_t>(columns),
                         0,
                         1e-5f,
                         Type::bfloat16,
                         x.device,
                         residual.device,
                         sum,
                         weight.device,
                         nullptr,
                         y,
                         inverse,
                         nullptr};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.norm_forward(&call, nullptr)); });
  const Words got_sum = download(context, sum, rows * columns), got = download(context, y, rows * columns);
  for (const std::int64_t row : {std::int64_t{0}, rows / 2, rows - 1}) {
    const std::vector<double> in = widen(got_sum, row * columns, columns);
    std::vector<double> want(columns);
    double deviation;
    plain::norm_forward<double>(1, columns, false, 1e-5, in.data(), weight.part(0, columns).data(), nullptr,
                                want.data(), &deviation, nullptr);
    m.error = std::max(m.error, relative(widen(got, row * columns, columns), want));
  }
  m.bound = 4e-3, m.bytes = 8.0 * static_cast<double>(rows * columns);
  return m;
}

Measurement norm_backward(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Host x(context, rows * columns, 1), dy(context, rows * columns, 2), weight(context, columns, 3);
  std::vector<float> inverse(rows);
  std::vector<double> scratch(columns);
  for (std::int64_t row = 0; row < rows; row++) {
    double squares = 0;
    for (std::int64_t c = 0; c < columns; c++) {
      const double value = from_bfloat16(x.values[row * columns + c]);
      squares += value * value;
    }
    inverse[row] = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(columns) + 1e-5));
  }
  void* dx = context.allocate(rows * columns * 2);
  float* dweight = static_cast<float*>(context.allocate(columns * 4));
  const NormBackward call{rows,
                          static_cast<std::int32_t>(columns),
                          0,
                          Type::bfloat16,
                          x.device,
                          weight.device,
                          dy.device,
                          static_cast<float*>(upload_float(context, inverse)),
                          nullptr,
                          nullptr,
                          dx,
                          dweight,
                          nullptr,
                          0,
                          context.allocate(context.api.norm_workspace(static_cast<std::int32_t>(columns))),
                          0};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.norm_backward(&call, nullptr)); });
  const Words got = download(context, dx, rows * columns);
  for (const std::int64_t row : {std::int64_t{0}, rows / 2, rows - 1}) {
    const double deviation = inverse[row];
    std::vector<double> want(columns);
    plain::norm_backward<double>(1, columns, false, x.part(row * columns, columns).data(),
                                 weight.part(0, columns).data(), dy.part(row * columns, columns).data(), &deviation,
                                 nullptr, want.data(), scratch.data(), nullptr);
    m.error = std::max(m.error, relative(widen(got, row * columns, columns), want));
  }
  m.bound = 4e-3, m.bytes = 6.0 * static_cast<double>(rows * columns);
  return m;
}

// The angles of tokens 0, 1, ... of a whole head of d elements.
struct Angles {
  std::vector<std::int32_t> position;
  std::vector<double> frequency;
  RopeTable call;
  Angles(Context& context, std::int64_t tokens, std::int64_t d) {
    for (std::int64_t i = 0; i < tokens; i++) position.push_back(static_cast<std::int32_t>(i));
    for (std::int64_t i = 0; i < d / 2; i++)
      frequency.push_back(std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d)));
    void *d_position = context.allocate(tokens * 4), *d_frequency = context.allocate(d * 4);
    context.upload(d_position, position.data(), tokens * 4), context.upload(d_frequency, frequency.data(), d * 4);
    call = {tokens,
            static_cast<std::int32_t>(d),
            static_cast<std::int32_t*>(d_position),
            static_cast<double*>(d_frequency),
            1,
            static_cast<float*>(context.allocate(tokens * d * 4)),
            0,
            0};
  }
};

Measurement run_rope_table(Context& context, const Shape& shape) {
  const std::int64_t tokens = shape.number("s"), d = shape.number("d");
  const Angles angles(context, tokens, d);
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.rope_table(&angles.call, nullptr)); });
  const std::vector<float> got = download_float(context, angles.call.table, tokens * d);
  for (const std::int64_t token : {std::int64_t{0}, tokens / 2, tokens - 1}) {
    std::vector<double> want;
    for (const bool sines : {false, true})
      for (const double frequency : angles.frequency) {
        const double angle = static_cast<double>(token) * frequency;
        want.push_back(sines ? std::sin(angle) : std::cos(angle));
      }
    m.error = std::max(m.error, relative({got.begin() + token * d, got.begin() + (token + 1) * d}, want));
  }
  m.bound = 1e-6, m.bytes = 4.0 * static_cast<double>(tokens * (d + 1));
  return m;
}

Measurement run_rope(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("s"), heads = shape.number("h"), d = shape.number("d");
  const Host x(context, rows * heads * d, 1);
  const Angles angles(context, rows, d);
  context.succeed(context.api.rope_table(&angles.call, nullptr));
  void* y = context.allocate(rows * heads * d * 2);
  const Rope call{1,
                  static_cast<std::int32_t>(rows),
                  static_cast<std::int32_t>(heads),
                  static_cast<std::int32_t>(d),
                  static_cast<std::int32_t>(d),
                  0,
                  static_cast<std::int32_t>(shape.number("ranks")),
                  Type::bfloat16,
                  x.device,
                  angles.call.table,
                  y};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.rope(&call, nullptr)); });
  const Words got = download(context, y, rows * heads * d);
  const std::int64_t rank_heads = heads / call.ranks, token = rows - 1;
  std::vector<double> want(heads * d), turned;
  plain::rope<double>(1, heads, d, d, false, &angles.position[token], angles.frequency.data(), 1,
                      x.part(token * heads * d, heads * d).data(), want.data());
  for (std::int64_t head = 0; head < heads; head++) {
    const std::int64_t at = ((head / rank_heads * rows + token) * rank_heads + head % rank_heads) * d;
    for (std::int64_t i = 0; i < d; i++) turned.push_back(from_bfloat16(got[at + i]));
  }
  m.error = relative(turned, want), m.bound = 4e-3;
  m.bytes = 4.0 * static_cast<double>(rows * heads * d) + 4.0 * static_cast<double>(rows * d);
  return m;
}

Measurement swiglu(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("rows") * shape.number("columns");
  const Host gate(context, count, 1), up(context, count, 2);
  void* y = context.allocate(count * 2);
  const ElementwiseActivation call{count, Activation::silu, Type::bfloat16, gate.device, up.device, y};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.activation(&call, nullptr)); });
  const Words got = download(context, y, count);
  std::vector<double> want;
  const std::int64_t sample = std::min<std::int64_t>(count, 4096);
  for (std::int64_t i = count - sample; i < count; i++)
    want.push_back(plain::activation<double>(Activation::silu, from_bfloat16(gate.values[i])) *
                   from_bfloat16(up.values[i]));
  m.error = relative(widen(got, count - sample, sample), want), m.bound = 4e-3;
  m.bytes = 6.0 * static_cast<double>(count);
  return m;
}

Measurement swiglu_gradient(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("rows") * shape.number("columns");
  const Host gate(context, count, 1), up(context, count, 2), dy(context, count, 3);
  void *dgate = context.allocate(count * 2), *dup = context.allocate(count * 2);
  const ElementwiseActivationGradient call{count,     Activation::silu, Type::bfloat16, gate.device,
                                           up.device, dy.device,        dgate,          dup};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.activation_gradient(&call, nullptr)); });
  const Words got = download(context, dgate, count);
  std::vector<double> want;
  const std::int64_t sample = std::min<std::int64_t>(count, 4096);
  for (std::int64_t i = count - sample; i < count; i++)
    want.push_back(plain::activation_slope(Activation::silu, from_bfloat16(gate.values[i])) *
                   from_bfloat16(up.values[i]) * from_bfloat16(dy.values[i]));
  m.error = relative(widen(got, count - sample, sample), want), m.bound = 4e-3;
  m.bytes = 10.0 * static_cast<double>(count);
  return m;
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::int32_t> tokens(count);
  std::uint64_t state = 1;
  for (std::int32_t& token : tokens) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    token = static_cast<std::int32_t>((state >> 33) % static_cast<std::uint64_t>(vocabulary));
  }
  return tokens;
}

Measurement embedding(Context& context, const Shape& shape) {
  const std::int64_t tokens = shape.number("tokens"), vocabulary = shape.number("vocabulary"),
                     columns = shape.number("columns");
  const Host table(context, vocabulary * columns, 1);
  const std::vector<std::int32_t> token = random_tokens(tokens, vocabulary);
  void *d_token = context.allocate(tokens * 4), *out = context.allocate(tokens * columns * 2);
  context.upload(d_token, token.data(), tokens * 4);
  const Embedding call{tokens,
                       static_cast<std::int32_t>(columns),
                       static_cast<std::int32_t>(vocabulary),
                       Type::bfloat16,
                       static_cast<std::int32_t*>(d_token),
                       table.device,
                       out};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.embedding(&call, nullptr)); });
  const Words got = download(context, out, tokens * columns);
  for (std::int64_t t = 0; t < tokens; t++)
    if (!std::equal(got.begin() + t * columns, got.begin() + (t + 1) * columns,
                    table.values.begin() + token[t] * columns))
      m.error = 1;
  m.bytes = 4.0 * static_cast<double>(tokens * columns);
  return m;
}

Measurement embedding_gradient(Context& context, const Shape& shape) {
  const std::int64_t tokens = shape.number("tokens"), vocabulary = shape.number("vocabulary"),
                     columns = shape.number("columns");
  const Host dout(context, tokens * columns, 1);
  const std::vector<std::int32_t> token = random_tokens(tokens, vocabulary);
  void *d_token = context.allocate(tokens * 4), *dtable = context.allocate(vocabulary * columns * 4);
  context.upload(d_token, token.data(), tokens * 4);
  const EmbeddingGradient call{
      tokens,
      static_cast<std::int32_t>(columns),
      static_cast<std::int32_t>(vocabulary),
      Type::bfloat16,
      static_cast<std::int32_t*>(d_token),
      dout.device,
      static_cast<float*>(dtable),
      context.allocate(context.api.embedding_workspace(tokens, static_cast<std::int32_t>(vocabulary)))};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.embedding_gradient(&call, nullptr)); });
  context.succeed(context.api.fill(dtable, 0, vocabulary * columns * 4, nullptr));
  context.succeed(context.api.embedding_gradient(&call, nullptr));
  const std::vector<float> got = download_float(context, dtable, vocabulary * columns);
  std::vector<double> want(vocabulary * columns, 0.0);
  plain::embedding_gradient(tokens, columns, token.data(), dout.part(0, tokens * columns).data(), want.data());
  m.error = relative({got.begin(), got.end()}, want), m.bound = 1e-6;
  m.bytes = 10.0 * static_cast<double>(tokens * columns);  // rows are read, and added to as often at most
  return m;
}

Measurement loss_tile(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), vocabulary = shape.number("vocabulary");
  const Host logits(context, rows * vocabulary, 1, 3);
  const std::vector<std::int32_t> label = random_tokens(rows, vocabulary);
  void *d_label = context.allocate(rows * 4), *work = context.allocate(rows * vocabulary * 2);
  context.upload(d_label, label.data(), rows * 4);
  const std::vector<float> one = {1};
  const LossTile call{static_cast<std::int32_t>(rows),
                      static_cast<std::int32_t>(vocabulary),
                      vocabulary,
                      Type::bfloat16,
                      work,
                      static_cast<std::int32_t*>(d_label),
                      1,
                      0,
                      static_cast<float*>(upload_float(context, one)),
                      static_cast<float*>(context.allocate(rows * 4))};
  context.succeed(context.api.copy(work, logits.device, rows * vocabulary * 2, nullptr));
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.loss_tile(&call, nullptr)); });
  context.succeed(context.api.copy(work, logits.device, rows * vocabulary * 2, nullptr));
  context.succeed(context.api.loss_tile(&call, nullptr));
  const Words got = download(context, work, rows * vocabulary);
  for (const std::int64_t row : {std::int64_t{0}, rows - 1}) {
    std::vector<double> want = logits.part(row * vocabulary, vocabulary);
    double loss;
    plain::loss_tile<double>(1, vocabulary, want.data(), &label[row], 1, 0, 1, &loss);
    m.error = std::max(m.error, relative(widen(got, row * vocabulary, vocabulary), want));
  }
  m.bound = 8e-3, m.bytes = 4.0 * static_cast<double>(rows * vocabulary);
  return m;
}

Measurement adamw(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Host gradient(context, count, 1);
  std::vector<float> parameter(count);
  fill_random(parameter.data(), parameter.size(), 2);
  void *d_parameter = upload_float(context, parameter), *first = context.allocate(count * 4),
       *second = context.allocate(count * 4), *rounded = context.allocate(count * 2);
  context.succeed(context.api.fill(first, 0, count * 4, nullptr));
  context.succeed(context.api.fill(second, 0, count * 4, nullptr));
  const AdamW call{count,
                   static_cast<float*>(d_parameter),
                   static_cast<float*>(first),
                   static_cast<float*>(second),
                   gradient.device,
                   Type::bfloat16,
                   nullptr,
                   1e-3f,
                   0.9f,
                   0.95f,
                   1e-8f,
                   0.1f,
                   1,
                   rounded};
  context.succeed(context.api.adamw(&call, nullptr));
  const std::vector<float> got = download_float(context, d_parameter, count);
  std::vector<double> want(parameter.begin(), parameter.end()), m1(count), m2(count);
  plain::adamw<double>(count, want.data(), m1.data(), m2.data(), gradient.part(0, count).data(), 1, 1e-3f, 0.9f, 0.95f,
                       1e-8f, 0.1f, 1);
  Measurement m;
  m.error = relative({got.begin(), got.end()}, want), m.bound = 1e-6;
  context.time(m, [&] { context.succeed(context.api.adamw(&call, nullptr)); });
  m.bytes = 28.0 * static_cast<double>(count);
  return m;
}

Measurement sum_of_squares(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Host x(context, count, 1);
  void *result = context.allocate(16), *workspace = context.allocate(context.api.sum_of_squares_workspace());
  Measurement m;
  context.time(m, [&] {
    context.succeed(context.api.sum_of_squares(x.device, Type::bfloat16, count, 0, static_cast<double*>(result),
                                               workspace, nullptr));
  });
  double got = 0, want = 0;
  context.download(&got, result, 8);
  for (const std::uint16_t word : x.values) want += static_cast<double>(from_bfloat16(word)) * from_bfloat16(word);
  m.error = std::abs(got - want) / want, m.bound = 1e-6, m.bytes = 2.0 * static_cast<double>(count);
  return m;
}

Measurement cast(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  std::vector<float> x(count);
  fill_random(x.data(), x.size(), 1);
  void *from = upload_float(context, x), *to = context.allocate(count * 2);
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.cast(from, Type::float32, to, Type::bfloat16, count, nullptr)); });
  m.error = relative(widen(download(context, to, count), 0, count), {x.begin(), x.end()}), m.bound = 4e-3;
  m.bytes = 6.0 * static_cast<double>(count);
  return m;
}

// The pack permutation of an all-to-all: [s, h, d] to [ranks, s, h / ranks, d].
Measurement pack(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("s"), heads = shape.number("h"), d = shape.number("d"),
                     ranks = shape.number("ranks");
  const Host x(context, rows * heads * d, 1);
  void* to = context.allocate(rows * heads * d * 2);
  const std::int64_t part = heads / ranks * d * 2;
  const StridedCopy call{{ranks, rows, 1}, part, {part, heads * d * 2, 0}, {rows * part, part, 0}, x.device, to};
  Measurement m;
  context.time(m, [&] { context.succeed(context.api.strided_copy(&call, nullptr)); });
  const Words got = download(context, to, rows * heads * d);
  for (std::int64_t rank = 0; rank < ranks; rank++)
    for (std::int64_t row = 0; row < rows; row++)
      if (!std::equal(got.begin() + (rank * rows + row) * part / 2, got.begin() + (rank * rows + row + 1) * part / 2,
                      x.values.begin() + row * heads * d + rank * part / 2))
        m.error = 1;
  m.bytes = 4.0 * static_cast<double>(rows * heads * d);
  return m;
}

Measurement softmax_merge(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("s"), heads = shape.number("h"), d = shape.number("d"),
                     count = rows * heads * d;
  std::vector<float> out(count), partial(count), lse(rows * heads), partial_lse(rows * heads);
  fill_random(out.data(), count, 1), fill_random(partial.data(), count, 2);
  fill_random(lse.data(), lse.size(), 3), fill_random(partial_lse.data(), lse.size(), 4);
  const SoftmaxMerge call{1,
                          static_cast<std::int32_t>(rows),
                          static_cast<std::int32_t>(heads),
                          static_cast<std::int32_t>(d),
                          static_cast<float*>(upload_float(context, out)),
                          static_cast<float*>(upload_float(context, lse)),
                          static_cast<float*>(upload_float(context, partial)),
                          static_cast<float*>(upload_float(context, partial_lse)),
                          nullptr};
  context.succeed(context.api.softmax_merge(&call, nullptr));
  const std::vector<float> got = download_float(context, call.out, count);
  std::vector<double> sampled, want;
  for (std::int64_t i = 0; i < count; i += 997) {
    const std::int64_t head = i / d % heads, at = head * rows + i / d / heads;
    const double a = std::exp(static_cast<double>(lse[at])), b = std::exp(static_cast<double>(partial_lse[at]));
    sampled.push_back(got[i]), want.push_back((out[i] * a + partial[i] * b) / (a + b));
  }
  Measurement m;
  m.error = relative(sampled, want), m.bound = 1e-5;
  context.time(m, [&] { context.succeed(context.api.softmax_merge(&call, nullptr)); });
  m.bytes = 12.0 * static_cast<double>(count);
  return m;
}

}  // namespace

std::vector<Op> memory_bound_ops() {
  const std::vector<std::string> norms = {"rows=16384,columns=4096", "rows=8192,columns=8192"},
                                 small = {"rows=20,columns=512"}, packed = {"s=16384,h=32,d=128,ranks=8"};
  return {
      {"norm_forward", {"norm_forward"}, norms, small, norm_forward},
      {"norm_backward", {"norm_backward"}, norms, small, norm_backward},
      {"rope_table", {"rope_table"}, {"s=131072,d=128"}, {"s=21,d=66"}, run_rope_table},
      {"rope",
       {"rope"},
       {"s=16384,h=32,d=128,ranks=1", "s=16384,h=32,d=128,ranks=8"},
       {"s=20,h=4,d=64,ranks=2"},
       run_rope},
      {"swiglu", {"activation"}, {"rows=4096,columns=14336"}, {"rows=20,columns=100"}, swiglu},
      {"swiglu_gradient",
       {"activation_gradient"},
       {"rows=4096,columns=14336"},
       {"rows=20,columns=100"},
       swiglu_gradient},
      {"embedding",
       {"embedding"},
       {"tokens=32768,vocabulary=32000,columns=4096"},
       {"tokens=50,vocabulary=90,columns=64"},
       embedding},
      {"embedding_gradient",
       {"embedding_gradient"},
       {"tokens=32768,vocabulary=32000,columns=1024"},
       {"tokens=50,vocabulary=90,columns=64"},
       embedding_gradient},
      {"loss_tile", {"loss_tile"}, {"rows=1024,vocabulary=128256"}, {"rows=3,vocabulary=1000"}, loss_tile},
      {"adamw", {"adamw"}, {"count=16777216"}, {"count=5000"}, adamw},
      {"sum_of_squares", {"sum_of_squares"}, {"count=134217728"}, {"count=5000"}, sum_of_squares},
      {"cast", {"cast"}, {"count=67108864"}, {"count=5000"}, cast},
      {"pack", {"strided_copy"}, packed, {"s=20,h=4,d=64,ranks=2"}, pack},
      {"softmax_merge", {"softmax_merge"}, {"s=8192,h=32,d=128"}, {"s=20,h=4,d=64"}, softmax_merge},
  };
}

}  // namespace longhaul::cuda::bench
