// The memory-bound kernels against plain loops in double, on odd shapes, under several schedules.
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
constexpr double tolerance = sizeof(T) == 2 ? 4e-3 : 2e-6;
template <typename T>
std::vector<T> random_values(std::size_t count, unsigned seed, float scale = 1) {
  if constexpr (sizeof(T) == 2)
    return random_bfloat16(count, seed, scale);
  else
    return random_float(count, seed, scale);
}
std::vector<float> ones(std::size_t count) {
  return std::vector<float>(count, 1.0f);
}

}  // namespace

TEMPLATE_TEST_CASE("norms forward and backward, with residuals", "", bfloat16, float) {
  using T = TestType;
  struct Shape {
    std::int64_t rows;
    std::int32_t columns;
  };
  // Teams of 2, 4, 32 and 64 or 128 threads; rows that fill no block.
  for (const Shape shape : {Shape{37, 64}, Shape{13, 128}, Shape{5, 1000}, Shape{3, 2048}})
    for (const bool layer : {false, true}) {
      INFO("rows " << shape.rows << ", columns " << shape.columns << ", layer " << layer);
      const std::size_t count = shape.rows * shape.columns, columns = shape.columns, rows = shape.rows;
      const std::vector<T> x = random_values<T>(count, 1), residual = random_values<T>(count, 2),
                           weight = random_values<T>(columns, 3), bias = random_values<T>(columns, 4),
                           dy = random_values<T>(count, 5), dresidual = random_values<T>(count, 6);
      std::vector<double> sum(count), y(count), inverse(rows), mean(rows), dx(count), dweight(columns, 1.0),
          dbias(columns, 1.0);
      for (std::size_t i = 0; i < count; i++)
        sum[i] = static_cast<float>(T(static_cast<float>(x[i]) + static_cast<float>(residual[i])));
      cuda::plain::norm_forward(shape.rows, columns, layer, 1e-5, sum.data(), to_double(weight).data(),
                                to_double(bias).data(), y.data(), inverse.data(), mean.data());
      cuda::plain::norm_backward(shape.rows, columns, layer, sum.data(), to_double(weight).data(), to_double(dy).data(),
                                 inverse.data(), mean.data(), dx.data(), dweight.data(), dbias.data());
      for (std::size_t i = 0; i < count; i++) dx[i] += static_cast<float>(dresidual[i]);

      const DeviceArray<T> d_x(x), d_residual(residual), d_weight(weight), d_bias(bias), d_dy(dy),
          d_dresidual(dresidual);
      for_each_schedule(2, [&] {
        const DeviceArray<T> d_sum(count), d_y(count), d_dx(count);
        const DeviceArray<float> d_inverse(rows), d_mean(rows), d_dweight(ones(columns)), d_dbias(ones(columns));
        const cuda::NormForward forward{shape.rows, shape.columns,     layer,        1e-5f,           type_of<T>,
                                        d_x.data(), d_residual.data(), d_sum.data(), d_weight.data(), d_bias.data(),
                                        d_y.data(), d_inverse.data(),  d_mean.data()};
        succeed(device().norm_forward(&forward, nullptr));
        CHECK(difference(d_sum.values(), sum).largest == 0);
        CHECK(difference(d_y.values(), y).relative < tolerance<T>);
        CHECK(difference(d_inverse.values(), inverse).relative < 2e-6);
        if (layer) CHECK(difference(d_mean.values(), mean).largest < 1e-6);

        const DeviceArray<char> workspace(device().norm_workspace(shape.columns));
        const cuda::NormBackward backward{shape.rows,
                                          shape.columns,
                                          layer,
                                          type_of<T>,
                                          d_sum.data(),
                                          d_weight.data(),
                                          d_dy.data(),
                                          d_inverse.data(),
                                          d_mean.data(),
                                          d_dresidual.data(),
                                          d_dx.data(),
                                          d_dweight.data(),
                                          d_dbias.data(),
                                          1,
                                          workspace.data(),
                                          0};
        succeed(device().norm_backward(&backward, nullptr));
        CHECK(difference(d_dx.values(), dx).relative < tolerance<T>);
        CHECK(difference(d_dweight.values(), dweight).relative < 4e-6);
        if (layer) CHECK(difference(d_dbias.values(), dbias).relative < 4e-6);

        // Without statistics: they are computed again.
        const DeviceArray<T> again(count);
        const DeviceArray<float> again_dweight(ones(columns)), again_dbias(ones(columns));
        cuda::NormBackward bare = backward;
        bare.inverse_deviation = bare.mean = nullptr;
        bare.epsilon = 1e-5f;
        bare.dx = again.data(), bare.dweight = again_dweight.data(), bare.dbias = again_dbias.data();
        succeed(device().norm_backward(&bare, nullptr));
        CHECK(difference(again.values(), dx).relative < tolerance<T>);
        CHECK(difference(again_dweight.values(), dweight).relative < 4e-6);
        if (layer) CHECK(difference(again_dbias.values(), dbias).relative < 4e-6);
        cuda::NormForward without = forward;
        without.inverse_deviation = without.mean = nullptr;
        const DeviceArray<T> y_again(count);
        without.y = y_again.data();
        succeed(device().norm_forward(&without, nullptr));
        CHECK(same_bits(y_again.values(), d_y.values()));
      });
    }
}

TEST_CASE("a norm without residual, and what it refuses") {
  const std::vector<float> x = random_float(6 * 64, 1), weight = random_float(64, 2);
  std::vector<double> y(x.size()), inverse(6);
  cuda::plain::norm_forward<double>(6, 64, false, 1e-6, to_double(x).data(), to_double(weight).data(), nullptr,
                                    y.data(), inverse.data(), nullptr);
  const DeviceArray<float> d_x(x), d_weight(weight), d_y(x.size()), d_inverse(6);
  cuda::NormForward call{6,
                         64,
                         0,
                         1e-6f,
                         cuda::Type::float32,
                         d_x.data(),
                         nullptr,
                         nullptr,
                         d_weight.data(),
                         nullptr,
                         d_y.data(),
                         d_inverse.data(),
                         nullptr};
  succeed(device().norm_forward(&call, nullptr));
  CHECK(difference(d_y.values(), y).relative < 2e-6);
  call.columns = 30;
  CHECK(device().norm_forward(&call, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("columns must be a multiple of 4"));
}

TEMPLATE_TEST_CASE("rotary embedding, its inverse, and packed for an all-to-all", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t batch = 2, rows = 19, heads = 6, head_dim = 64, rotated = 48, tokens = batch * rows;
  const std::vector<T> x = random_values<T>(tokens * heads * head_dim, 1);
  std::vector<std::int32_t> position;
  std::vector<double> frequencies, turned(x.size());
  for (std::int64_t t = 0; t < tokens; t++) position.push_back(static_cast<std::int32_t>(t % rows * 50000));
  for (int i = 0; i < rotated / 2; i++) frequencies.push_back(std::pow(10000.0, -2.0 * i / rotated));
  cuda::plain::rope(tokens, heads, head_dim, rotated, false, position.data(), frequencies.data(), 1.25,
                    to_double(x).data(), turned.data());

  const DeviceArray<std::int32_t> d_position(position);
  const DeviceArray<double> d_frequencies(frequencies);
  const DeviceArray<float> table(tokens * rotated), unit_table(tokens * rotated);
  const cuda::RopeTable table_call{tokens, rotated, d_position.data(), d_frequencies.data(), 1.25, table.data(), 0, 0};
  succeed(device().rope_table(&table_call, nullptr));
  const cuda::RopeTable unit_call{tokens, rotated, d_position.data(), d_frequencies.data(), 1, unit_table.data(), 0, 0};
  succeed(device().rope_table(&unit_call, nullptr));

  const DeviceArray<T> d_x(x), d_y(x.size()), packed(x.size());
  for_each_schedule(2, [&] {
    cuda::Rope call{batch, rows, heads, head_dim, rotated, 0, 1, type_of<T>, d_x.data(), table.data(), d_y.data()};
    succeed(device().rope(&call, nullptr));
    const std::vector<T> y = d_y.values();
    CHECK(difference(y, turned).relative < tolerance<T>);

    call.ranks = 3, call.y = packed.data();
    succeed(device().rope(&call, nullptr));
    const std::vector<T> p = packed.values();
    std::int64_t wrong = 0;
    for (std::int64_t t = 0; t < tokens; t++)
      for (std::int64_t h = 0; h < heads; h++)
        for (std::int64_t d = 0; d < head_dim; d++) {
          const float a = static_cast<float>(y[(t * heads + h) * head_dim + d]);
          const float b = static_cast<float>(p[((h / 2 * tokens + t) * 2 + h % 2) * head_dim + d]);
          wrong += a != b;
        }
    CHECK(wrong == 0);
  });
  // There and back, in place.
  cuda::Rope call{batch,
                  rows,
                  heads,
                  head_dim,
                  rotated,
                  0,
                  1,
                  type_of<T>,
                  d_x.data(),
                  unit_table.data(),
                  const_cast<T*>(d_x.data())};
  succeed(device().rope(&call, nullptr));
  call.inverse = 1;
  succeed(device().rope(&call, nullptr));
  CHECK(difference(d_x.values(), to_double(x)).relative < 2 * tolerance<T>);
}

TEMPLATE_TEST_CASE("activations, plain and gated, with gradients", "", bfloat16, float) {
  using T = TestType;
  using cuda::Activation;
  const std::size_t count = 1003;  // no multiple of a vector
  const std::vector<T> gate = random_values<T>(count, 1, 2), up = random_values<T>(count, 2),
                       dy = random_values<T>(count, 3);
  const DeviceArray<T> d_gate(gate), d_up(up), d_dy(dy);
  for (const auto kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu})
    for (const bool gated : {false, true}) {
      INFO("activation " << static_cast<int>(kind) << ", gated " << gated);
      std::vector<double> y(count), dgate(count), dup(count);
      for (std::size_t i = 0; i < count; i++) {
        const double g = static_cast<float>(gate[i]), u = gated ? static_cast<float>(up[i]) : 1,
                     d = static_cast<float>(dy[i]);
        y[i] = cuda::plain::activation(kind, g) * u;
        dgate[i] = d * u * cuda::plain::activation_slope(kind, g);
        dup[i] = d * cuda::plain::activation(kind, g);
      }
      const DeviceArray<T> d_y(count), d_dgate(count), d_dup(count);
      const void* device_up = gated ? d_up.data() : nullptr;
      const cuda::ElementwiseActivation call{
          static_cast<std::int64_t>(count), kind, type_of<T>, d_gate.data(), device_up, d_y.data()};
      succeed(device().activation(&call, nullptr));
      CHECK(difference(d_y.values(), y).relative < tolerance<T>);
      const cuda::ElementwiseActivationGradient gradient{
          static_cast<std::int64_t>(count), kind, type_of<T>, d_gate.data(), device_up, d_dy.data(), d_dgate.data(),
          gated ? d_dup.data() : nullptr};
      succeed(device().activation_gradient(&gradient, nullptr));
      CHECK(difference(d_dgate.values(), dgate).relative < tolerance<T>);
      if (gated) CHECK(difference(d_dup.values(), dup).relative < tolerance<T>);
    }
}

TEMPLATE_TEST_CASE("embedding and its ordered gradient", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t columns = 72;
  for (const std::int32_t vocabulary : {40, 50000}) {  // one and two digits of the sort
    const std::int64_t tokens = 600;
    INFO("vocabulary " << vocabulary);
    std::mt19937 random(5);
    std::vector<std::int32_t> token(tokens);
    for (auto& t : token) t = static_cast<std::int32_t>(random() % 3 ? random() % vocabulary : 7);  // 7 is frequent
    const std::vector<T> table = random_values<T>(vocabulary * columns, 1),
                         dout = random_values<T>(tokens * columns, 2);
    std::vector<double> out(tokens * columns), dtable(vocabulary * columns, 1.0);
    cuda::plain::embedding(tokens, columns, token.data(), to_double(table).data(), out.data());
    cuda::plain::embedding_gradient(tokens, columns, token.data(), to_double(dout).data(), dtable.data());

    const DeviceArray<std::int32_t> d_token(token);
    const DeviceArray<T> d_table(table), d_dout(dout);
    std::vector<float> first;
    for_each_schedule(2, [&] {
      const DeviceArray<T> d_out(tokens * columns);
      const cuda::Embedding call{
          tokens,      static_cast<std::int32_t>(columns), vocabulary, type_of<T>, d_token.data(), d_table.data(),
          d_out.data()};
      succeed(device().embedding(&call, nullptr));
      CHECK(difference(d_out.values(), out).largest == 0);
      const DeviceArray<float> d_dtable(ones(vocabulary * columns));
      const DeviceArray<char> workspace(device().embedding_workspace(tokens, vocabulary));
      const cuda::EmbeddingGradient gradient{tokens,          static_cast<std::int32_t>(columns),
                                             vocabulary,      type_of<T>,
                                             d_token.data(),  d_dout.data(),
                                             d_dtable.data(), workspace.data()};
      succeed(device().embedding_gradient(&gradient, nullptr));
      const std::vector<float> got = d_dtable.values();
      CHECK(difference(got, dtable).relative < 1e-6);
      if (first.empty()) first = got;
      CHECK(same_bits(first, got));
    });
  }
}

TEMPLATE_TEST_CASE("loss head tile", "", bfloat16, float) {
  using T = TestType;
  const std::int32_t rows = 5, vocabulary = 5003, stride = 5008;
  const std::vector<T> logits = random_values<T>(rows * stride, 1, 3);
  const std::vector<std::int32_t> label = {17, -100, 5002, 0, 4096};
  const DeviceArray<std::int32_t> d_label(label);
  const DeviceArray<float> scale(std::vector<float>{0.25f});
  for (const float soft_cap : {0.0f, 30.0f}) {
    INFO("soft cap " << soft_cap);
    std::vector<double> dense(rows * vocabulary), loss(rows);
    for (std::int32_t r = 0; r < rows; r++)
      for (std::int32_t v = 0; v < vocabulary; v++)
        dense[r * vocabulary + v] = static_cast<float>(logits[r * stride + v]);
    cuda::plain::loss_tile<double>(rows, vocabulary, dense.data(), label.data(), 0.5, soft_cap, 0.25, loss.data());
    for_each_schedule(2, [&] {
      const DeviceArray<T> d_logits(logits);
      const DeviceArray<float> d_loss(rows);
      cuda::LossTile call{rows,           vocabulary, stride,   type_of<T>, d_logits.data(),
                          d_label.data(), 0.5f,       soft_cap, nullptr,    d_loss.data()};
      succeed(device().loss_tile(&call, nullptr));  // evaluation: the loss alone
      CHECK(difference(d_loss.values(), loss).largest < 2e-6 * 10);
      CHECK(same_bits(d_logits.values(), logits));
      call.gradient_scale = scale.data();
      succeed(device().loss_tile(&call, nullptr));
      CHECK(difference(d_loss.values(), loss).largest < 2e-6 * 10);
      const std::vector<T> gradient = d_logits.values();
      std::vector<T> packed;
      for (std::int32_t r = 0; r < rows; r++)
        packed.insert(packed.end(), gradient.begin() + r * stride, gradient.begin() + r * stride + vocabulary);
      CHECK(difference(packed, dense).relative < 2 * tolerance<T>);
    });
  }
}

TEMPLATE_TEST_CASE("AdamW and the sum of squares", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t count = 3005;
  const std::vector<T> gradient = random_values<T>(count, 1);
  const std::vector<float> parameter = random_float(count, 2), first = random_float(count, 3, 0.1f);
  std::vector<float> second = random_float(count, 4, 0.1f);
  for (float& v : second) v = v * v;
  std::vector<double> p = to_double(parameter), m = to_double(first), v = to_double(second);
  // The constants as the kernel gets them: in float.
  cuda::plain::adamw<double>(count, p.data(), m.data(), v.data(), to_double(gradient).data(), 0.5f, 1e-3f, 0.9f, 0.95f,
                             1e-8f, 0.1f, 7);
  const DeviceArray<T> d_gradient(gradient);
  const DeviceArray<float> scale(std::vector<float>{0.5f}), d_p(parameter), d_m(first), d_v(second);
  const DeviceArray<bfloat16> rounded(count);
  const cuda::AdamW call{count,      d_p.data(),   d_m.data(), d_v.data(),    d_gradient.data(),
                         type_of<T>, scale.data(), 1e-3f,      0.9f,          0.95f,
                         1e-8f,      0.1f,         7,          rounded.data()};
  succeed(device().adamw(&call, nullptr));
  CHECK(difference(d_p.values(), p).relative < 1e-6);
  CHECK(difference(d_m.values(), m).relative < 1e-6);
  CHECK(difference(d_v.values(), v).relative < 1e-6);
  CHECK(difference(rounded.values(), p).relative < 4e-3);

  double squares = 0;
  for (const T& g : gradient) squares += static_cast<double>(static_cast<float>(g)) * static_cast<float>(g);
  const DeviceArray<double> result(std::vector<double>{10});
  const DeviceArray<char> workspace(device().sum_of_squares_workspace());
  for_each_schedule(3, [&] {
    const double before = result.values()[0];
    succeed(device().sum_of_squares(d_gradient.data(), type_of<T>, count, 1, result.data(), workspace.data(), nullptr));
    CHECK(result.values()[0] == Approx(before + squares).epsilon(1e-7));
  });
}

TEST_CASE("casts, strided copies, and the merge of partial softmaxes") {
  const std::vector<float> x = random_float(1003, 1);
  const DeviceArray<float> wide(x), back(x.size());
  const DeviceArray<bfloat16> narrow(x.size());
  succeed(device().cast(wide.data(), cuda::Type::float32, narrow.data(), cuda::Type::bfloat16, 1003, nullptr));
  succeed(device().cast(narrow.data(), cuda::Type::bfloat16, back.data(), cuda::Type::float32, 1003, nullptr));
  const std::vector<bfloat16> rounded = to_bfloat16(to_double(x));
  CHECK(difference(narrow.values(), to_double(rounded)).largest == 0);
  CHECK(difference(back.values(), to_double(rounded)).largest == 0);
  CHECK(device().cast(wide.data(), cuda::Type::float32, back.data(), cuda::Type::float32, 3, nullptr) != 0);

  // [2, 3, 4] rows of 32 bytes to [3, 4, 2].
  std::vector<float> box = random_float(2 * 3 * 4 * 8, 2), expected(box.size());
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 3; j++)
      for (int k = 0; k < 4; k++)
        for (int e = 0; e < 8; e++) expected[((j * 4 + k) * 2 + i) * 8 + e] = box[((i * 3 + j) * 4 + k) * 8 + e];
  const DeviceArray<float> from(box), to(box.size());
  const cuda::StridedCopy copy{{2, 3, 4}, 32, {12 * 32, 4 * 32, 32}, {32, 8 * 32, 2 * 32}, from.data(), to.data()};
  succeed(device().strided_copy(&copy, nullptr));
  CHECK(same_bits(to.values(), expected));

  const std::int32_t batch = 2, rows = 7, heads = 3, head_dim = 36;
  std::vector<float> out = random_float(batch * rows * heads * head_dim, 3), partial = random_float(out.size(), 4);
  std::vector<float> lse = random_float(batch * heads * rows, 5, 5), partial_lse = random_float(lse.size(), 6, 5);
  // Rows that saw no key before, in the new block, or in both.
  for (const int i : {0, 2})
    lse[i] = -INFINITY, std::fill(out.begin() + i * heads * head_dim, out.begin() + (i * heads + 1) * head_dim, 0.0f);
  for (const int i : {1, 2})
    partial_lse[i] = -INFINITY,
    std::fill(partial.begin() + i * heads * head_dim, partial.begin() + (i * heads + 1) * head_dim, 0.0f);
  std::vector<double> want = to_double(out), want_lse = to_double(lse);
  cuda::plain::softmax_merge<double>(batch, rows, heads, head_dim, want.data(), want_lse.data(),
                                     to_double(partial).data(), to_double(partial_lse).data());
  for_each_schedule(2, [&] {
    const DeviceArray<float> d_out(out), d_lse(lse), d_partial(partial), d_partial_lse(partial_lse);
    const DeviceArray<bfloat16> d_rounded(out.size());
    const cuda::SoftmaxMerge call{
        batch,           rows, heads, head_dim, d_out.data(), d_lse.data(), d_partial.data(), d_partial_lse.data(),
        d_rounded.data()};
    succeed(device().softmax_merge(&call, nullptr));
    CHECK(difference(d_out.values(), want).relative < 2e-6);
    CHECK(difference(d_lse.values(), want_lse).largest < 4e-6);
    CHECK(difference(d_rounded.values(), want).relative < 4e-3);
  });
}

}  // namespace longhaul::test
