#include "tests/gpu_emulator/attention_case.h"

#include <catch2/catch.hpp>
#include <memory>

namespace longhaul::test {

std::string name_of(MaskKind kind) {
  const char* names[] = {"full", "causal", "window", "packed", "ring", "zigzag", "dead rows", "dead tiles"};
  return names[static_cast<int>(kind)];
}

AttentionCase::AttentionCase(MaskKind kind, std::int32_t batch, std::int32_t heads, std::int32_t kv_heads,
                             std::int32_t queries, std::int32_t keys, std::int32_t head_dim, unsigned seed)
    : shape{batch, queries, keys, heads, kv_heads, head_dim, static_cast<float>(1 / std::sqrt(head_dim))} {
  for (std::int32_t b = 0; b < batch; b++) {
    auto zigzag = [](std::int32_t i, std::int32_t count) { return i < count / 2 ? i : i + count; };
    for (std::int32_t i = 0; i < keys; i++)
      key_index.push_back(kind == MaskKind::ring         ? (2 * i < keys ? i : i + 300)
                          : kind == MaskKind::dead_tiles ? i + 150
                          : kind == MaskKind::zigzag     ? zigzag(i, keys)
                                                         : i);
    for (std::int32_t i = 0; i < queries; i++) {
      std::int32_t index = i + (keys - queries), start = 0;
      if (kind == MaskKind::full) index = 0x7ffffffe;
      if (kind == MaskKind::ring) index = i + 70;
      if (kind == MaskKind::zigzag) index = zigzag(i, queries);
      if (kind == MaskKind::packed) start = std::max(0, index / 45 * 45);
      if (kind == MaskKind::dead_rows && i % 3 == 0) start = 0x7ffffffe;
      query_index.push_back(index);
      key_start.push_back(start);
    }
  }
  if (kind == MaskKind::window) window = 21;
  q = random_bfloat16(static_cast<std::size_t>(batch) * queries * heads * head_dim, seed);
  k = random_bfloat16(static_cast<std::size_t>(batch) * keys * kv_heads * head_dim, seed + 1);
  v = random_bfloat16(k.size(), seed + 2);
  dout = random_bfloat16(q.size(), seed + 3);

  const std::vector<double> q_values = to_double(q), k_values = to_double(k), v_values = to_double(v);
  const cuda::plain::AttentionInputs<double> inputs{
      shape,           window,          query_index.data(), key_start.data(), key_index.data(),
      q_values.data(), k_values.data(), v_values.data()};
  out.resize(q.size()), log_sum_exp.resize(static_cast<std::size_t>(batch) * heads * queries);
  dq.resize(q.size()), dk.resize(k.size()), dv.resize(k.size());
  cuda::plain::attention_forward(inputs, out.data(), log_sum_exp.data());
  cuda::plain::attention_backward(inputs, out.data(), log_sum_exp.data(), to_double(dout).data(), dq.data(), dk.data(),
                                  dv.data());
}

std::string AttentionCase::describe() const {
  return "batch " + std::to_string(shape.batch) + ", heads " + std::to_string(shape.heads) + "/" +
         std::to_string(shape.kv_heads) + ", queries " + std::to_string(shape.queries) + ", keys " +
         std::to_string(shape.keys) + ", head_dim " + std::to_string(shape.head_dim);
}

namespace {
struct DeviceMask {
  DeviceArray<std::int32_t> query_index, key_start, key_index;
  DeviceArray<char> mask;
  explicit DeviceMask(const AttentionCase& c)
      : query_index(c.query_index),
        key_start(c.key_start),
        key_index(c.key_index),
        mask(device().attention_mask_bytes(c.shape.batch, c.shape.queries, c.shape.keys)) {
    const cuda::AttentionMask call{c.shape.batch,      c.shape.queries,  c.shape.keys,    c.window,
                                   query_index.data(), key_start.data(), key_index.data()};
    succeed(device().attention_mask(&call, mask.data(), nullptr));
  }
};
cuda::HeadMatrix whole(const void* data) {
  return {const_cast<void*>(data), 0, 0, 0};
}
// A result on the device, of either type.
struct DeviceResult {
  cuda::Type type;
  DeviceArray<float> wide;
  DeviceArray<bfloat16> narrow;
  DeviceResult(cuda::Type t, std::size_t count, bool ones)
      : type(t), wide(ones ? std::vector<float>(count, 1.0f) : std::vector<float>(count, NAN)), narrow(count) {}
  void* data() const { return type == cuda::Type::float32 ? static_cast<void*>(wide.data()) : narrow.data(); }
  std::vector<float> values() const {
    return type == cuda::Type::float32 ? wide.values() : to_float(to_double(narrow.values()));
  }
};
}  // namespace

ForwardResult run_forward(const AttentionCase& c, cuda::Type out_type, cuda::Implementation implementation) {
  const DeviceMask mask(c);
  const DeviceArray<bfloat16> q(c.q), k(c.k), v(c.v);
  const DeviceResult out(out_type, c.q.size(), false);
  const DeviceArray<float> log_sum_exp(c.log_sum_exp.size());
  const cuda::AttentionForward call{c.shape,         mask.mask.data(),   whole(q.data()),
                                    whole(k.data()), whole(v.data()),    whole(out.data()),
                                    out_type,        log_sum_exp.data(), implementation};
  succeed(device().attention_forward(&call, nullptr));
  return {out.values(), log_sum_exp.values()};
}
void check_forward(const AttentionCase& c, const ForwardResult& result) {
  const Difference out = difference(result.out, c.out), lse = difference(result.log_sum_exp, c.log_sum_exp);
  CHECK(out.relative < 6e-3);
  CHECK(out.largest < 3e-2);
  CHECK(lse.largest < 1e-4);
}

BackwardResult run_backward(const AttentionCase& c, BackwardOptions options, cuda::Implementation implementation) {
  const DeviceMask mask(c);
  const DeviceArray<bfloat16> q(c.q), k(c.k), v(c.v), dout(c.dout), out(to_bfloat16(c.out));
  const DeviceArray<float> wide_out(to_float(c.out)), log_sum_exp(to_float(c.log_sum_exp));
  const DeviceResult dq(options.type, c.q.size(), options.accumulate), dk(options.type, c.k.size(), options.accumulate),
      dv(options.type, c.k.size(), options.accumulate);
  cuda::AttentionBackward call{};
  call.shape = c.shape;
  call.shape.parts = options.parts;
  const DeviceArray<char> workspace(device().attention_backward_workspace(&call.shape));
  call.mask = mask.mask.data();
  call.q = whole(q.data()), call.k = whole(k.data()), call.v = whole(v.data()), call.dout = whole(dout.data());
  call.out = options.float_out ? whole(wide_out.data()) : whole(out.data());
  call.out_type = options.float_out ? cuda::Type::float32 : cuda::Type::bfloat16;
  call.log_sum_exp = log_sum_exp.data();
  call.dq = whole(dq.data()), call.dk = whole(dk.data()), call.dv = whole(dv.data());
  call.dq_type = call.dkv_type = options.type;
  call.accumulate_dq = call.accumulate_dkv = options.accumulate;
  call.unordered_dq = options.unordered;
  call.workspace = workspace.data();
  call.implementation = implementation;
  succeed(device().attention_backward(&call, nullptr));
  BackwardResult result{dq.values(), dk.values(), dv.values()};
  if (options.accumulate)
    for (std::vector<float>* gradient : {&result.dq, &result.dk, &result.dv})
      for (float& value : *gradient) value -= 1;
  return result;
}

BlockwiseResult run_blockwise(const AttentionCase& c, int blocks, cuda::Implementation implementation) {
  const cuda::AttentionShape& s = c.shape;
  const DeviceArray<bfloat16> q(c.q), k(c.k), v(c.v), dout(c.dout), rounded(c.q.size());
  const DeviceArray<std::int32_t> query_index(c.query_index), key_start(c.key_start);
  const DeviceArray<float> out(std::vector<float>(c.q.size(), 0.0f)), partial(c.q.size()),
      lse(std::vector<float>(c.log_sum_exp.size(), -INFINITY)), partial_lse(c.log_sum_exp.size());
  const DeviceArray<float> dq(std::vector<float>(c.q.size(), 0.0f)), dk(std::vector<float>(c.k.size(), 0.0f)),
      dv(std::vector<float>(c.k.size(), 0.0f));
  struct Block {
    cuda::AttentionShape shape;
    std::int64_t first;
    std::unique_ptr<DeviceArray<std::int32_t>> key_index;
    std::unique_ptr<DeviceArray<char>> mask;
  };
  std::vector<Block> all;
  for (int i = 0; i < blocks; i++) {
    Block block{s, static_cast<std::int64_t>(s.keys) * i / blocks, nullptr, nullptr};
    block.shape.keys = static_cast<std::int32_t>(static_cast<std::int64_t>(s.keys) * (i + 1) / blocks - block.first);
    std::vector<std::int32_t> index;
    for (std::int32_t b = 0; b < s.batch; b++)
      index.insert(index.end(), c.key_index.begin() + b * s.keys + block.first,
                   c.key_index.begin() + b * s.keys + block.first + block.shape.keys);
    block.key_index = std::make_unique<DeviceArray<std::int32_t>>(index);
    block.mask =
        std::make_unique<DeviceArray<char>>(device().attention_mask_bytes(s.batch, s.queries, block.shape.keys));
    const cuda::AttentionMask mask{
        s.batch, s.queries, block.shape.keys, c.window, query_index.data(), key_start.data(), block.key_index->data()};
    succeed(device().attention_mask(&mask, block.mask->data(), nullptr));
    all.push_back(std::move(block));
  }
  // A block's keys: a view of the whole, so batches lie apart.
  const std::int64_t row = static_cast<std::int64_t>(s.kv_heads) * s.head_dim;
  auto view = [&](auto* data, const Block& block) {
    return cuda::HeadMatrix{const_cast<void*>(static_cast<const void*>(data + block.first * row)), s.keys * row, row,
                            s.head_dim};
  };
  for (const Block& block : all) {
    const cuda::AttentionForward call{block.shape,           block.mask->data(),    whole(q.data()),
                                      view(k.data(), block), view(v.data(), block), whole(partial.data()),
                                      cuda::Type::float32,   partial_lse.data(),    implementation};
    succeed(device().attention_forward(&call, nullptr));
    const cuda::SoftmaxMerge merge{s.batch,        s.queries,          s.heads,
                                   s.head_dim,     out.data(),         lse.data(),
                                   partial.data(), partial_lse.data(), rounded.data()};
    succeed(device().softmax_merge(&merge, nullptr));
  }
  for (const Block& block : all) {
    const DeviceArray<char> workspace(device().attention_backward_workspace(&block.shape));
    cuda::AttentionBackward call{};
    call.shape = block.shape, call.mask = block.mask->data();
    call.q = whole(q.data()), call.k = view(k.data(), block), call.v = view(v.data(), block);
    call.out = whole(out.data()), call.out_type = cuda::Type::float32;
    call.dout = whole(dout.data()), call.log_sum_exp = lse.data();
    call.dq = whole(dq.data()), call.dk = view(dk.data(), block), call.dv = view(dv.data(), block);
    call.dq_type = call.dkv_type = cuda::Type::float32;
    call.accumulate_dq = call.accumulate_dkv = 1;
    call.workspace = workspace.data(), call.implementation = implementation;
    succeed(device().attention_backward(&call, nullptr));
    succeed(device().synchronize());  // the workspace is about to go
  }
  return {{out.values(), lse.values()}, {dq.values(), dk.values(), dv.values()}};
}
void check_backward(const AttentionCase& c, const BackwardResult& result) {
  CHECK(difference(result.dq, c.dq).relative < 8e-3);
  CHECK(difference(result.dk, c.dk).relative < 8e-3);
  CHECK(difference(result.dv, c.dv).relative < 8e-3);
}

}  // namespace longhaul::test
