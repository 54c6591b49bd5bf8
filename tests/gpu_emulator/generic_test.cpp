// The generic kernels against plain loops in double, on sizes that no fast kernel takes.
#include <catch2/catch.hpp>

#include "kernels/cuda/plain/attention.h"
#include "kernels/cuda/plain/norm.h"
#include "kernels/cuda/plain/pointwise.h"
#include "kernels/cuda/plain/tokens.h"
#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {
namespace {

template <typename T>
constexpr cuda::Type type_of = sizeof(T) == 2 ? cuda::Type::bfloat16 : cuda::Type::float32;
template <typename T>
constexpr double tolerance = sizeof(T) == 2 ? 4e-3 : 4e-6;
template <typename T>
std::vector<T> random_values(std::int64_t count, unsigned seed, float scale = 1) {
  if constexpr (sizeof(T) == 2)
    return random_bfloat16(static_cast<std::size_t>(count), seed, scale);
  else
    return random_float(static_cast<std::size_t>(count), seed, scale);
}

}  // namespace

TEMPLATE_TEST_CASE("sums, multiples, biases and columns of any number of elements", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t rows = 131, columns = 13, count = rows * columns;
  const std::vector<T> a = random_values<T>(count, 1), b = random_values<T>(count, 2), c = random_values<T>(count, 3),
                       bias = random_values<T>(columns, 4);
  std::vector<double> sum, multiple, biased, columns_of(columns, 0.0);
  for (std::int64_t i = 0; i < count; i++) {
    const double value = static_cast<float>(a[i]);
    sum.push_back(value + static_cast<float>(b[i]) + static_cast<float>(c[i]));
    multiple.push_back(0.25 * value);
    biased.push_back(value + static_cast<float>(bias[i % columns]));
    columns_of[i % columns] += value;
  }
  const DeviceArray<T> d_a(a), d_b(b), d_c(c), d_bias(bias);
  for_each_schedule(2, [&] {
    const DeviceArray<T> y(count);
    cuda::Add add{};
    add.count = count, add.type = type_of<T>, add.inputs = 3, add.y = y.data();
    add.x[0] = d_a.data(), add.x[1] = d_b.data(), add.x[2] = d_c.data();
    succeed(device().add(&add, nullptr));
    CHECK(difference(y.values(), sum).relative < tolerance<T>);
    cuda::Scale scale{count, type_of<T>, 0.25f, d_a.data(), y.data(), nullptr};
    succeed(device().scale(&scale, nullptr));
    CHECK(difference(y.values(), multiple).relative == 0);
    const DeviceArray<double> square(std::vector<double>{4, 0});
    scale.square = square.data(), scale.factor = 0.5f;  // half of it by its norm
    succeed(device().scale(&scale, nullptr));
    CHECK(difference(y.values(), multiple).relative == 0);
    scale.square = square.data() + 1, scale.factor = 0.25e-7f;  // a norm of 0 divides by the least
    succeed(device().scale(&scale, nullptr));
    CHECK(difference(y.values(), multiple).relative < tolerance<T>);
    const cuda::AddBias add_bias{rows, columns, type_of<T>, type_of<T>, d_a.data(), d_bias.data(), y.data()};
    succeed(device().add_bias(&add_bias, nullptr));
    CHECK(difference(y.values(), biased).relative < tolerance<T>);
    const DeviceArray<float> out(columns);
    const DeviceArray<char> workspace(device().column_sums_workspace(rows, columns));
    const cuda::ColumnSums sums{rows,       columns,    type_of<T>,      cuda::Type::float32,
                                d_a.data(), out.data(), workspace.data()};
    succeed(device().column_sums(&sums, nullptr));
    CHECK(difference(out.values(), columns_of).relative < 1e-5);
  });
  cuda::Add none{};
  CHECK(device().add(&none, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("1 to 256 tensors, not 0"));
}

TEMPLATE_TEST_CASE("heads are repeated and summed, rows added", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t rows = 7, head_dim = 5;
  const std::int32_t many = 6, few = 2;
  const std::vector<T> x = random_values<T>(rows * many * head_dim, 1), kv = random_values<T>(rows * few * head_dim, 2);
  std::vector<double> expanded, reduced(kv.size(), 0.0);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); i++) {
    const std::int64_t head = i / head_dim % many,
                       at = (i / head_dim / many * few + head / 3) * head_dim + i % head_dim;
    expanded.push_back(static_cast<float>(kv[at]));
    reduced[at] += static_cast<float>(x[i]);
  }
  const DeviceArray<T> d_x(x), d_kv(kv), to_many(x.size());
  const DeviceArray<float> to_few(kv.size());
  const cuda::Heads expand{rows, many, few, 5, type_of<T>, type_of<T>, d_kv.data(), to_many.data()};
  succeed(device().expand_heads(&expand, nullptr));
  CHECK(difference(to_many.values(), expanded).largest == 0);
  const cuda::Heads reduce{rows, many, few, 5, type_of<T>, cuda::Type::float32, d_x.data(), to_few.data()};
  succeed(device().reduce_heads(&reduce, nullptr));
  CHECK(difference(to_few.values(), reduced).relative < 1e-6);

  const std::vector<T> part = random_values<T>(2 * 2 * 3, 3), whole = random_values<T>(2 * 5 * 3, 4);
  std::vector<double> added = to_double(whole);
  for (int b = 0; b < 2; b++)
    for (int i = 0; i < 6; i++) added[b * 15 + 6 + i] += static_cast<float>(part[b * 6 + i]);
  const DeviceArray<T> d_part(part), d_whole(whole);
  cuda::AddRows rows_call{2, 5, 2, 2, 3, type_of<T>, d_part.data(), d_whole.data()};
  succeed(device().add_rows(&rows_call, nullptr));
  CHECK(difference(d_whole.values(), added).relative < tolerance<T>);
  rows_call.first = 4;
  CHECK(device().add_rows(&rows_call, nullptr) != 0);
}

TEST_CASE("a table copies boxes of any alignment, and writes zeros") {
  std::vector<std::uint16_t> from(200);
  for (std::size_t i = 0; i < from.size(); i++) from[i] = static_cast<std::uint16_t>(i + 1);
  const DeviceArray<std::uint16_t> d_from(from), d_to(std::vector<std::uint16_t>(300, 9999));
  std::vector<std::uint16_t> want(300, 9999);
  std::vector<cuda::CopyEntry> table;
  // Runs of 16, 8, 4 and 2 bytes; more entries than one launch takes.
  std::int64_t at = 0;
  for (int repeat = 0; repeat < 9; repeat++)
    for (const std::int64_t run : {8, 4, 2, 1}) {
      if (at % run) at += run - at % run;
      const std::int64_t source = run * repeat;
      table.push_back({d_from.data() + source, d_to.data() + at, {1, 2}, 2 * run, {0, 32 * run}, {0, 2 * run}});
      for (std::int64_t k = 0; k < 2; k++)
        for (std::int64_t i = 0; i < run; i++) want[at + k * run + i] = from[source + k * 16 * run + i];
      at += 2 * run;
      if (at + 20 > 300) break;
    }
  CHECK(table.size() > 32);
  table.push_back({nullptr, d_to.data() + 290, {1, 1}, 10, {0, 0}, {0, 0}});
  for (int i = 290; i < 295; i++) want[i] = 0;
  succeed(device().copy_table(table.data(), static_cast<std::int32_t>(table.size()), nullptr));
  CHECK(d_to.values() == want);
  table = {{d_from.data(), d_to.data(), {1, 1}, 3, {0, 0}, {0, 0}}};
  CHECK(device().copy_table(table.data(), 1, nullptr) != 0);
}

TEST_CASE("scalars: constant, product, clipping, counts") {
  const DeviceArray<double> s(std::vector<double>{16, 3, 0, 0, 0, 0, 0});
  double* const d = s.data();
  const cuda::ScalarConstant constant{2.5, d + 2};
  const cuda::ScalarProduct product{d + 1, d + 2, d + 3};
  const cuda::ClipCoefficient clip{d, 1, d + 4, d + 5};
  const DeviceArray<std::int32_t> label(std::vector<std::int32_t>(300, -1)), one(std::vector<std::int32_t>{4, -1, 0});
  const cuda::CountValid count{3, one.data(), d + 6};
  succeed(device().scalar_constant(&constant, nullptr));
  succeed(device().scalar_product(&product, nullptr));
  succeed(device().clip_coefficient(&clip, nullptr));
  succeed(device().count_valid(&count, nullptr));
  const std::vector<double> got = s.values();
  CHECK(got[2] == 2.5);
  CHECK(got[3] == 7.5);
  CHECK(got[4] == 1 / (4 + 1e-6));
  CHECK(got[5] == 4);
  CHECK(got[6] == 2);
  const cuda::ClipCoefficient nan{d, 0, d + 4, d + 5};
  succeed(device().clip_coefficient(&nan, nullptr));
  CHECK(s.values()[4] == 1);
}

TEMPLATE_TEST_CASE("norms of any number of columns, without statistics", "", bfloat16, float) {
  using T = TestType;
  for (const auto norm : {cuda::Norm::rms, cuda::Norm::layer})
    for (const std::int64_t columns : {7, 50}) {
      const bool layer = norm == cuda::Norm::layer;
      INFO("columns " << columns << ", layer " << layer);
      const std::int64_t rows = 70, count = rows * columns;
      const std::vector<T> x = random_values<T>(count, 1), dy = random_values<T>(count, 2);
      const std::vector<float> weight = random_float(columns, 3), bias = random_float(columns, 4);
      std::vector<double> offset = to_double(weight), y(count), inverse(rows), mean(rows), dx(count),
                          dweight(columns, 0.0), dbias(columns, 0.0);
      if (!layer)
        for (double& w : offset) w += 1;
      cuda::plain::norm_forward(rows, columns, layer, 1e-5, to_double(x).data(), offset.data(), to_double(bias).data(),
                                y.data(), inverse.data(), mean.data());
      cuda::plain::norm_backward(rows, columns, layer, to_double(x).data(), offset.data(), to_double(dy).data(),
                                 inverse.data(), mean.data(), dx.data(), dweight.data(), dbias.data());
      const DeviceArray<T> d_x(x);
      const DeviceArray<float> d_weight(weight), d_bias(bias);
      for_each_schedule(2, [&] {
        const DeviceArray<T> d_y(count), d_dy(dy);
        const DeviceArray<float> d_dweight(columns), d_dbias(columns);
        const float add = layer ? 0.0f : 1.0f;
        const cuda::GenericNorm forward{
            rows,       columns,         norm,          1e-5f,     add, type_of<T>, cuda::Type::float32,
            d_x.data(), d_weight.data(), d_bias.data(), d_y.data()};
        succeed(device().generic_norm(&forward, nullptr));
        CHECK(difference(d_y.values(), y).relative < tolerance<T>);
        const DeviceArray<char> workspace(device().generic_norm_workspace(rows, columns));
        const cuda::GenericNormGradient backward{rows,
                                                 columns,
                                                 norm,
                                                 1e-5f,
                                                 add,
                                                 type_of<T>,
                                                 cuda::Type::float32,
                                                 d_x.data(),
                                                 d_weight.data(),
                                                 d_dy.data(),
                                                 d_dy.data(),  // in place
                                                 d_dweight.data(),
                                                 d_dbias.data(),
                                                 workspace.data()};
        succeed(device().generic_norm_gradient(&backward, nullptr));
        CHECK(difference(d_dy.values(), dx).relative < tolerance<T>);
        CHECK(difference(d_dweight.values(), dweight).relative < 4e-6);
        if (layer) CHECK(difference(d_dbias.values(), dbias).relative < 4e-6);
      });
    }
  const DeviceArray<T> x(random_values<T>(2 * 3, 1)), y(6);
  const cuda::GenericNorm center{2,       3,       cuda::Norm::center, 0, 0, type_of<T>, type_of<T>, x.data(), nullptr,
                                 nullptr, y.data()};
  succeed(device().generic_norm(&center, nullptr));
  const std::vector<double> in = to_double(x.values());
  std::vector<double> want;
  for (int i = 0; i < 6; i++) want.push_back(in[i] - (in[i / 3 * 3] + in[i / 3 * 3 + 1] + in[i / 3 * 3 + 2]) / 3);
  CHECK(difference(y.values(), want).relative < tolerance<T>);
}

TEMPLATE_TEST_CASE("losses of rows of any stride, and their gradients", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t rows = 5, vocabulary = 29, stride = 31;
  const std::vector<float> logits = random_float(rows * stride, 1, 3);
  const std::vector<std::int32_t> label = {3, -1, 28, 0, 7};
  for (const float soft_cap : {0.0f, 5.0f}) {
    std::vector<double> dense, loss(rows);
    for (std::int64_t r = 0; r < rows; r++)
      for (std::int64_t v = 0; v < vocabulary; v++) dense.push_back(logits[r * stride + v]);
    cuda::plain::loss_tile<double>(rows, vocabulary, dense.data(), label.data(), 0.5, soft_cap, 0.125, loss.data());
    const DeviceArray<float> d_logits(logits), d_loss(rows);
    const DeviceArray<std::int32_t> d_label(label);
    const DeviceArray<double> scale(std::vector<double>{0.125}), total(std::vector<double>{10});
    const DeviceArray<T> gradient(rows * vocabulary);
    cuda::LossRows call{
        rows,       vocabulary,     stride, vocabulary, d_logits.data(), cuda::Type::float32, gradient.data(),
        type_of<T>, d_label.data(), 0.5f,   soft_cap,   scale.data(),    d_loss.data()};
    succeed(device().loss_rows(&call, nullptr));
    CHECK(difference(d_loss.values(), loss).relative < 1e-6);
    CHECK(difference(gradient.values(), dense).relative < tolerance<T>);
    const cuda::LossSum sum{rows, d_loss.data(), 1, total.data()};
    succeed(device().loss_sum(&sum, nullptr));
    CHECK(std::abs(total.values()[0] - (10 + loss[0] + loss[2] + loss[3] + loss[4])) < 1e-5);
    call.gradient = nullptr;  // the loss only
    succeed(device().loss_rows(&call, nullptr));
    CHECK(difference(d_loss.values(), loss).relative < 1e-6);
  }
}

TEMPLATE_TEST_CASE("attention of any head dimension, windows, packed documents, several query heads a KV head", "",
                   bfloat16, float) {
  using T = TestType;
  struct Sizes {
    std::int32_t head_dim, window;
  };
  for (const Sizes sizes : {Sizes{8, 0}, Sizes{20, 5}, Sizes{3, 4}, Sizes{256, 0}}) {
    INFO("head_dim " << sizes.head_dim);
    const std::int32_t batch = 2, queries = 13, keys = 17, heads = 4, kv_heads = 2, d = sizes.head_dim;
    const cuda::AttentionShape shape{batch, queries, keys, heads, kv_heads, d, 0.4f};
    const std::vector<T> q = random_values<T>(batch * queries * heads * d, 1),
                         k = random_values<T>(batch * keys * kv_heads * d, 2),
                         v = random_values<T>(batch * keys * kv_heads * d, 3),
                         dout = random_values<T>(batch * queries * heads * d, 4);
    std::vector<std::int32_t> query_index, key_start, key_index;
    for (int b = 0; b < batch; b++) {
      for (int i = 0; i < queries; i++) query_index.push_back(i + 2), key_start.push_back(i < 6 ? 0 : 6);
      for (int i = 0; i < keys; i++) key_index.push_back(i);
    }
    const std::vector<double> dq_in = to_double(q), dk_in = to_double(k), dv_in = to_double(v);
    const cuda::plain::AttentionInputs<double> in{
        shape,        sizes.window, query_index.data(), key_start.data(), key_index.data(),
        dq_in.data(), dk_in.data(), dv_in.data()};
    std::vector<double> out(q.size()), lse(batch * heads * queries), dq(q.size()), dk(k.size()), dv(v.size());
    cuda::plain::attention_forward(in, out.data(), lse.data());
    cuda::plain::attention_backward(in, out.data(), lse.data(), to_double(dout).data(), dq.data(), dk.data(),
                                    dv.data());

    const DeviceArray<T> d_q(q), d_k(k), d_v(v), d_dout(dout), d_dq(q.size());
    const DeviceArray<std::int32_t> d_query(query_index), d_start(key_start), d_key(key_index);
    const DeviceArray<float> d_out(out.size()), d_lse(lse.size()), d_delta(lse.size()), d_dk(k.size()), d_dv(v.size());
    const cuda::GenericAttention problem{
        batch, queries,        keys,           heads,        kv_heads,   d,          sizes.window, 0.4f,
        0,     d_query.data(), d_start.data(), d_key.data(), type_of<T>, d_q.data(), d_k.data(),   d_v.data()};
    const cuda::GenericAttentionForward forward{problem, cuda::Type::float32, d_out.data(), d_lse.data()};
    succeed(device().generic_attention_forward(&forward, nullptr));
    CHECK(difference(d_out.values(), out).relative < 4e-6);
    CHECK(difference(d_lse.values(), lse).relative < 4e-6);
    const cuda::AttentionDelta delta{batch,        queries,       heads,         d, cuda::Type::float32, type_of<T>,
                                     d_out.data(), d_dout.data(), d_delta.data()};
    succeed(device().attention_delta(&delta, nullptr));
    cuda::GenericAttentionBackward backward{problem,      d_dout.data(),
                                            d_lse.data(), d_delta.data(),
                                            type_of<T>,   cuda::Type::float32,
                                            d_dq.data(),  d_dk.data(),
                                            d_dv.data(),  0};
    succeed(device().generic_attention_backward(&backward, nullptr));
    CHECK(difference(d_dq.values(), dq).relative < tolerance<T>);
    CHECK(difference(d_dk.values(), dk).relative < 8e-6);
    CHECK(difference(d_dv.values(), dv).relative < 8e-6);
    // Twice the gradients when they are added to what is there.
    const DeviceArray<float> twice(std::vector<float>(q.size(), 0.0f));
    backward.dq = twice.data(), backward.dq_type = cuda::Type::float32, backward.accumulate = 1;
    succeed(device().generic_attention_backward(&backward, nullptr));
    for (double& x : dk) x *= 2;
    CHECK(difference(twice.values(), dq).relative < 8e-6);
    CHECK(difference(d_dk.values(), dk).relative < 8e-6);
  }
}

TEST_CASE("soft caps bound the scores of attention") {
  // One query, two keys: the weights by hand.
  const DeviceArray<std::int32_t> index(std::vector<std::int32_t>{0, 0}), start(std::vector<std::int32_t>{0});
  const DeviceArray<float> q(std::vector<float>{2}), k(std::vector<float>{1, 3}), v(std::vector<float>{10, 20}), out(1),
      lse(1);
  const cuda::GenericAttentionForward call{{1, 1, 2, 1, 1, 1, 0, 0.5f, 1.5f, index.data(), start.data(), index.data(),
                                            cuda::Type::float32, q.data(), k.data(), v.data()},
                                           cuda::Type::float32,
                                           out.data(),
                                           lse.data()};
  succeed(device().generic_attention_forward(&call, nullptr));
  const double a = std::exp(1.5 * std::tanh(1.0 / 1.5)), b = std::exp(1.5 * std::tanh(3.0 / 1.5));
  CHECK(std::abs(out.values()[0] - (10 * a + 20 * b) / (a + b)) < 1e-5);
  CHECK(std::abs(lse.values()[0] - std::log(a + b)) < 1e-6);
}

TEST_CASE("partial softmaxes of any head dimension are merged, empty ones too") {
  const std::int32_t batch = 2, rows = 3, heads = 2, d = 5;
  std::vector<float> a = random_float(60, 1), b = random_float(60, 2), la = random_float(12, 3),
                     lb = random_float(12, 4);
  la[0] = -INFINITY, lb[1] = -INFINITY, la[2] = lb[2] = -INFINITY;
  const auto row_of = [&](std::size_t at) {  // of [b, h, s] in [b, s, h, d]
    return (at / 6 * 3 + at % 3) * 2 + at / 3 % 2;
  };
  for (std::size_t i = 0; i < 5; i++) a[row_of(2) * 5 + i] = b[row_of(2) * 5 + i] = 0;
  std::vector<double> out = to_double(a), lse = to_double(la);
  cuda::plain::softmax_merge<double>(batch, rows, heads, d, out.data(), lse.data(), to_double(b).data(),
                                     to_double(lb).data());
  const DeviceArray<float> d_a(a), d_b(b), d_la(la), d_lb(lb), d_out(60), d_lse(12);
  cuda::GenericMerge call{batch,      rows,        heads,        d,           d_a.data(), d_la.data(),
                          d_b.data(), d_lb.data(), d_out.data(), d_lse.data()};
  succeed(device().generic_merge(&call, nullptr));
  CHECK(difference(d_out.values(), out).relative < 1e-6);
  CHECK(difference(d_lse.values(), lse).relative < 1e-6);
  call.out = d_a.data(), call.log_sum_exp = d_la.data();
  succeed(device().generic_merge(&call, nullptr));
  CHECK(same_bits(d_a.values(), d_out.values()));
  CHECK(same_bits(d_la.values(), d_lse.values()));
}

TEMPLATE_TEST_CASE("embedding and rotary embedding of odd sizes", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t tokens = 21, columns = 13, vocabulary = 5;
  std::vector<std::int32_t> token;
  for (std::int64_t i = 0; i < tokens; i++) token.push_back(static_cast<std::int32_t>(i * 7 % vocabulary));
  const std::vector<T> table = random_values<T>(vocabulary * columns, 1), dout = random_values<T>(tokens * columns, 2);
  std::vector<double> out(tokens * columns), dtable(vocabulary * columns, 1.0);
  cuda::plain::embedding<double>(tokens, columns, token.data(), to_double(table).data(), out.data());
  cuda::plain::embedding_gradient<double>(tokens, columns, token.data(), to_double(dout).data(), dtable.data());
  const DeviceArray<std::int32_t> d_token(token);
  const DeviceArray<T> d_table(table), d_dout(dout), d_out(out.size());
  const DeviceArray<float> d_dtable(std::vector<float>(dtable.size(), 1.0f));
  const cuda::Embedding look{tokens, 13, 5, type_of<T>, d_token.data(), d_table.data(), d_out.data()};
  succeed(device().embedding(&look, nullptr));
  CHECK(difference(d_out.values(), out).largest == 0);
  const DeviceArray<char> workspace(device().embedding_workspace(tokens, 5));
  const cuda::EmbeddingGradient gradient{
      tokens, 13, 5, type_of<T>, d_token.data(), d_dout.data(), d_dtable.data(), workspace.data()};
  succeed(device().embedding_gradient(&gradient, nullptr));
  CHECK(difference(d_dtable.values(), dtable).relative < 1e-6);

  const std::int64_t rows = 9, heads = 3, head_dim = 10, rotated = 6;
  const std::vector<T> x = random_values<T>(rows * heads * head_dim, 3);
  std::vector<std::int32_t> position;
  for (std::int64_t i = 0; i < rows; i++) position.push_back(static_cast<std::int32_t>(i * 11));
  const std::vector<double> frequencies = {1, 0.1, 0.01};
  std::vector<double> turned(x.size());
  cuda::plain::rope(rows, heads, head_dim, rotated, false, position.data(), frequencies.data(), 1, to_double(x).data(),
                    turned.data());
  const DeviceArray<std::int32_t> d_position(position);
  const DeviceArray<double> d_frequencies(frequencies);
  const DeviceArray<float> cosines(rows * rotated), grown(rows * rotated);
  const DeviceArray<T> d_x(x);
  cuda::RopeTable make{rows, 6, d_position.data(), d_frequencies.data(), 1, cosines.data(), 0, 0};
  succeed(device().rope_table(&make, nullptr));
  const cuda::Rope turn{1, 9, 3, 10, 6, 0, 1, type_of<T>, d_x.data(), cosines.data(), d_x.data()};
  succeed(device().rope(&turn, nullptr));
  CHECK(difference(d_x.values(), turned).relative < tolerance<T>);
  make.growth = 0.1, make.growth_length = 20, make.table = grown.data();
  succeed(device().rope_table(&make, nullptr));
  const std::vector<float> plain = cosines.values(), with = grown.values();
  CHECK(std::abs(with[8 * 6] / plain[8 * 6] - (1 + 0.1 * std::log(1.0 + 4))) < 1e-5);  // position 88: 88 / 20 = 4
}

}  // namespace longhaul::test
