// attention, attention_block, their gradients, attention_delta and attention_merge. On a rank a block is attention of
// what it holds.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

cuda::GenericAttention problem_of(const DeviceProblem& problem) {
  const auto &q = problem.operands[0], &k = problem.operands[1];
  cuda::GenericAttention attention{};
  attention.batch = static_cast<std::int32_t>(q.shape[0]);
  attention.queries = static_cast<std::int32_t>(q.shape[1]);
  attention.keys = static_cast<std::int32_t>(k.shape[1]);
  attention.heads = static_cast<std::int32_t>(q.shape[2]);
  attention.kv_heads = static_cast<std::int32_t>(k.shape[2]);
  attention.head_dim = static_cast<std::int32_t>(q.shape[3]);
  attention.window = static_cast<std::int32_t>(problem.op.attributes.integer("window"));
  attention.scale = static_cast<float>(problem.op.attributes.number("scale", 1));
  attention.soft_cap = static_cast<float>(problem.op.attributes.number("soft_cap", 0));
  attention.type = bind::type_of(q.dtype);
  return attention;
}

// What both rungs ask for.
bool takes(const DeviceProblem& problem, std::string& refusal) {
  const auto &q = problem.operands[0], &k = problem.operands[1];
  if (!bind::narrow(refusal, {&q, &k}) || !bind::fits(refusal, {q.shape[0], q.shape[1], k.shape[1]})) return false;
  if (q.shape[3] > 256) {
    refusal = "a head dimension of " + std::to_string(q.shape[3]) + ", more than 256";
    return false;
  }
  return true;
}
// The largest head dimension of the kernels on tensor cores.
constexpr std::int64_t most_of(bool backward) {
  return backward ? 128 : 256;
}
// The kernels on tensor cores, for heads of `d`.
bool takes_tensor_cores(const DeviceProblem& problem, std::int64_t d, bool backward, std::string& refusal) {
  if (!takes(problem, refusal)) return false;
  const auto& q = problem.operands[0];
  const cuda::Api& api = problem.context.api();
  const Device& device = problem.context.device();
  const std::int64_t most = most_of(backward), shared = device.info().shared_bytes_per_block;
  if (!api.attention_mask || !api.attention_forward || !api.attention_backward)
    refusal = "the device's library has no attention on matrix units";
  else if (q.dtype != DType::bfloat16)
    refusal = "q, k and v in " + std::string(name_of(q.dtype)) + ", not bfloat16";
  else if (d > most || (d != 64 && d != 128 && d != 256))
    refusal = "a head dimension of " + std::to_string(d) + "; 64, 128" + (most >= 256 ? " and 256" : "") + " are taken";
  else if (problem.op.attributes.number("soft_cap", 0) != 0)
    refusal = "scores with a soft cap";
  else if (q.shape[0] * q.shape[1] * q.shape[2] >= std::int64_t{1} << 30)
    refusal = "2^30 rows of heads or more";
  else if (!device.has_hopper_kernels() && shared < api.attention_shared_bytes(static_cast<std::int32_t>(d), backward))
    refusal = fmt::format("{} bytes of shared memory a block for heads of {}; this device has {}",
                          api.attention_shared_bytes(static_cast<std::int32_t>(d), backward), d, shared);
  else
    return true;
  return false;
}

void set_operands(cuda::GenericAttention& attention, const DeviceCall& call) {
  attention.q = call.operands[0], attention.k = call.operands[1], attention.v = call.operands[2];
  attention.query_index = static_cast<const std::int32_t*>(call.operands[3]);
  attention.key_index = static_cast<const std::int32_t*>(call.operands[4]);
  attention.key_start = static_cast<const std::int32_t*>(call.operands[5]);
}

std::size_t round_up(std::size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

struct FastAttention {
  cuda::AttentionShape shape;
  cuda::AttentionMask mask;
  std::size_t mask_bytes;
  cuda::Implementation implementation;
};
FastAttention fast_of(const DeviceProblem& problem, std::int64_t head_dim) {
  cuda::GenericAttention p = problem_of(problem);
  p.head_dim = static_cast<std::int32_t>(head_dim);
  return {
      {p.batch, p.queries, p.keys, p.heads, p.kv_heads, p.head_dim, p.scale},
      {p.batch, p.queries, p.keys, p.window, nullptr, nullptr, nullptr},
      round_up(problem.context.api().attention_mask_bytes(p.batch, p.queries, p.keys)),
      problem.context.device().has_hopper_kernels() ? cuda::Implementation::hopper : cuda::Implementation::portable};
}
// Makes the mask at the head of the scratch.
void make_mask(const FastAttention& fast, const DeviceCall& call) {
  cuda::AttentionMask mask = fast.mask;
  mask.query_index = static_cast<const std::int32_t*>(call.operands[3]);
  mask.key_index = static_cast<const std::int32_t*>(call.operands[4]);
  mask.key_start = static_cast<const std::int32_t*>(call.operands[5]);
  call.context.succeed(call.context.api().attention_mask(&mask, call.scratch, call.context.stream()));
}
cuda::HeadMatrix matrix(const void* data) {
  return {const_cast<void*>(data), 0, 0, 0};
}

std::int64_t head_dim(const DeviceProblem& problem) {
  return problem.operands[0].shape[3];
}
void name_fast(const FastAttention& fast, const char* padded, DeviceKernel& kernel) {
  kernel.name = std::string(padded) + (fast.implementation == cuda::Implementation::hopper ? "hopper" : "portable");
}

// Tensors [.., head_dim] that lie in scratch with heads of a fast kernel, zeros behind theirs.
class PaddedHeads {
 public:
  PaddedHeads(std::int64_t own, std::int64_t padded, std::size_t begin) : own_(own), padded_(padded), bytes_(begin) {}
  // Where in the scratch the padded one lies.
  std::size_t add(const TensorType& type) {
    const std::size_t at = bytes_;
    tensors_.push_back({at, type.count() / own_, static_cast<std::int64_t>(size_of(type.dtype))});
    bytes_ += round_up(static_cast<std::size_t>(tensors_.back().rows * padded_) * size_of(type.dtype));
    return at;
  }
  std::size_t bytes() const { return bytes_; }
  // Tensors [first, first + count) from these places, in one launch, or to them.
  void in(const DeviceCall& call, std::size_t first, std::initializer_list<const void*> from) const {
    std::vector<cuda::CopyEntry> table;
    for (const void* one : from) {
      const Tensor& t = tensors_[first++];
      char* const to = static_cast<char*>(call.scratch) + t.at;
      const std::int64_t own = own_ * t.element, row = padded_ * t.element;
      table.push_back({one, to, {1, t.rows}, own, {0, own}, {0, row}});
      table.push_back({nullptr, to + own, {1, t.rows}, row - own, {0, 0}, {0, row}});
    }
    copy(call, table);
  }
  void out(const DeviceCall& call, std::size_t first, std::initializer_list<void*> to) const {
    std::vector<cuda::CopyEntry> table;
    for (void* one : to) {
      const Tensor& t = tensors_[first++];
      const std::int64_t own = own_ * t.element, row = padded_ * t.element;
      table.push_back({static_cast<char*>(call.scratch) + t.at, one, {1, t.rows}, own, {0, row}, {0, own}});
    }
    copy(call, table);
  }

 private:
  struct Tensor {
    std::size_t at;
    std::int64_t rows, element;
  };
  static void copy(const DeviceCall& call, const std::vector<cuda::CopyEntry>& table) {
    call.context.succeed(
        call.context.api().copy_table(table.data(), static_cast<std::int32_t>(table.size()), call.context.stream()));
  }
  std::int64_t own_, padded_;
  std::size_t bytes_;
  std::vector<Tensor> tensors_;
};

// The head dimension that a fast kernel is given instead, or 0 with the reason: at most twice as much is computed.
std::int64_t padded_dim(const DeviceProblem& problem, bool backward, std::string& refusal) {
  const std::int64_t d = head_dim(problem), most = most_of(backward);
  for (const std::int64_t padded : {64, 128, 256})
    if (padded <= most && d < padded && 2 * d >= padded)
      return takes_tensor_cores(problem, padded, backward, refusal) ? padded : 0;
  refusal = "a head dimension of " + std::to_string(d) + "; 32 to " + std::to_string(most) + " are padded";
  return 0;
}

void run_forward(const FastAttention& fast, const DeviceCall& call, const void* q, const void* k, const void* v,
                 void* out, cuda::Type out_type) {
  make_mask(fast, call);
  cuda::AttentionForward one{};
  one.shape = fast.shape, one.mask = call.scratch, one.implementation = fast.implementation;
  one.q = matrix(q), one.k = matrix(k), one.v = matrix(v);
  one.out = matrix(out), one.out_type = out_type;
  one.log_sum_exp = static_cast<float*>(call.results[1]);
  call.context.succeed(call.context.api().attention_forward(&one, call.context.stream()));
}

bool make_fast(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!takes_tensor_cores(problem, head_dim(problem), false, refusal)) return false;
  const FastAttention fast = fast_of(problem, head_dim(problem));
  name_fast(fast, "", kernel);
  kernel.scratch_bytes = fast.mask_bytes;
  kernel.run = [fast, out_type = bind::type_of(problem.results[0].dtype)](const DeviceCall& call) {
    run_forward(fast, call, call.operands[0], call.operands[1], call.operands[2], call.results[0], out_type);
  };
  return true;
}

bool make_padded(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const std::int64_t dim = padded_dim(problem, false, refusal);
  if (dim == 0) return false;
  const FastAttention fast = fast_of(problem, dim);
  PaddedHeads heads(head_dim(problem), dim, fast.mask_bytes);
  const std::size_t q = heads.add(problem.operands[0]), k = heads.add(problem.operands[1]),
                    v = heads.add(problem.operands[2]), out = heads.add(problem.results[0]);
  name_fast(fast, "padded_", kernel);
  kernel.scratch_bytes = heads.bytes();
  kernel.run = [=, out_type = bind::type_of(problem.results[0].dtype)](const DeviceCall& call) {
    char* const room = static_cast<char*>(call.scratch);
    heads.in(call, 0, {call.operands[0], call.operands[1], call.operands[2]});
    run_forward(fast, call, room + q, room + k, room + v, room + out, out_type);
    heads.out(call, 3, {call.results[0]});
  };
  return true;
}

bool make_generic(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!takes(problem, refusal)) return false;
  const cuda::GenericAttentionForward forward{problem_of(problem), bind::type_of(problem.results[0].dtype), nullptr,
                                              nullptr};
  kernel.run = [forward](const DeviceCall& call) {
    cuda::GenericAttentionForward one = forward;
    set_operands(one.problem, call);
    one.out = call.results[0], one.log_sum_exp = static_cast<float*>(call.results[1]);
    call.context.succeed(call.context.api().generic_attention_forward(&one, call.context.stream()));
  };
  return true;
}

// operands: ..., 6 delta, 7 log_sum_exp, 8 dout, then what is added to: dq, dk and dv by attention_block_gradient_add,
// dk and dv by attention_gradient_add.
bool adds_dq(const DeviceProblem& problem) {
  return problem.operands.size() == 12;
}
bool adds_dkv(const DeviceProblem& problem) {
  return problem.operands.size() >= 11;
}
void add_to_operands(const DeviceProblem& problem, DeviceKernel& kernel) {
  if (adds_dq(problem))
    bind::copy_first(
        kernel,
        {{9, 0, problem.results[0].bytes()}, {10, 1, problem.results[1].bytes()}, {11, 2, problem.results[2].bytes()}});
  else if (adds_dkv(problem))
    bind::copy_first(kernel, {{9, 1, problem.results[1].bytes()}, {10, 2, problem.results[2].bytes()}});
}

struct FastGradient {
  FastAttention fast;
  cuda::Type dq_type, dkv_type;
  bool to_dq, to_dkv;  // what is added to
  std::size_t workspace;
};
bool fast_gradient_of(const DeviceProblem& problem, std::int64_t dim, FastGradient& gradient, std::string& refusal) {
  const bool to_dq = adds_dq(problem), to_dkv = adds_dkv(problem);
  for (std::size_t i = 0; i < 3; ++i)
    if ((i == 0 ? to_dq : to_dkv) && !bind::single(problem.results[i], "sums of gradients", refusal)) return false;
  const FastAttention fast = fast_of(problem, dim);
  gradient = {fast,
              bind::type_of(problem.results[0].dtype),
              bind::type_of(problem.results[1].dtype),
              to_dq,
              to_dkv,
              round_up(problem.context.api().attention_backward_workspace(&fast.shape))};
  return true;
}
struct GradientTensors {
  const void *q, *k, *v, *dout;
  void *dq, *dk, *dv;
};
// The workspace lies behind the mask.
void run_backward(const FastGradient& gradient, const DeviceCall& call, const GradientTensors& tensors) {
  const FastAttention& fast = gradient.fast;
  make_mask(fast, call);
  cuda::AttentionBackward one{};
  one.shape = fast.shape, one.mask = call.scratch, one.implementation = fast.implementation;
  one.q = matrix(tensors.q), one.k = matrix(tensors.k), one.v = matrix(tensors.v), one.dout = matrix(tensors.dout);
  one.delta = static_cast<const float*>(call.operands[6]);
  one.log_sum_exp = static_cast<const float*>(call.operands[7]);
  one.dq = matrix(tensors.dq), one.dk = matrix(tensors.dk), one.dv = matrix(tensors.dv);
  one.dq_type = gradient.dq_type, one.dkv_type = gradient.dkv_type;
  one.accumulate_dq = gradient.to_dq, one.accumulate_dkv = gradient.to_dkv;
  one.workspace = static_cast<char*>(call.scratch) + fast.mask_bytes;
  call.context.succeed(call.context.api().attention_backward(&one, call.context.stream()));
}

bool make_fast_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  FastGradient gradient{};
  if (!takes_tensor_cores(problem, head_dim(problem), true, refusal) ||
      !fast_gradient_of(problem, head_dim(problem), gradient, refusal))
    return false;
  name_fast(gradient.fast, "", kernel);
  kernel.scratch_bytes = gradient.fast.mask_bytes + gradient.workspace;
  kernel.run = [=](const DeviceCall& call) {
    run_backward(gradient, call,
                 {call.operands[0], call.operands[1], call.operands[2], call.operands[8], call.results[0],
                  call.results[1], call.results[2]});
  };
  add_to_operands(problem, kernel);
  return true;
}

bool make_padded_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  FastGradient gradient{};
  const std::int64_t dim = padded_dim(problem, true, refusal);
  if (dim == 0 || !fast_gradient_of(problem, dim, gradient, refusal)) return false;
  PaddedHeads heads(head_dim(problem), dim, gradient.fast.mask_bytes + gradient.workspace);
  const std::size_t q = heads.add(problem.operands[0]), k = heads.add(problem.operands[1]),
                    v = heads.add(problem.operands[2]), dout = heads.add(problem.operands[8]),
                    dq = heads.add(problem.results[0]), dk = heads.add(problem.results[1]),
                    dv = heads.add(problem.results[2]);
  name_fast(gradient.fast, "padded_", kernel);
  kernel.scratch_bytes = heads.bytes();
  kernel.run = [=](const DeviceCall& call) {
    char* const room = static_cast<char*>(call.scratch);
    heads.in(call, 0, {call.operands[0], call.operands[1], call.operands[2], call.operands[8]});
    if (gradient.to_dq)
      heads.in(call, 4, {call.operands[9], call.operands[10], call.operands[11]});
    else if (gradient.to_dkv)
      heads.in(call, 5, {call.operands[9], call.operands[10]});
    run_backward(gradient, call, {room + q, room + k, room + v, room + dout, room + dq, room + dk, room + dv});
    heads.out(call, 4, {call.results[0], call.results[1], call.results[2]});
  };
  return true;
}

bool make_generic_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!takes(problem, refusal)) return false;
  cuda::GenericAttentionBackward backward{};
  backward.problem = problem_of(problem);
  backward.dq_type = bind::type_of(problem.results[0].dtype);
  backward.dkv_type = bind::type_of(problem.results[1].dtype);
  backward.accumulate = adds_dkv(problem);
  // Where only dk and dv are added to, dq begins with zeros: the kernel adds to all or none.
  const std::size_t zeros =
      backward.accumulate && !adds_dq(problem) ? static_cast<std::size_t>(problem.results[0].bytes()) : 0;
  kernel.run = [backward, zeros](const DeviceCall& call) {
    if (zeros) call.context.succeed(call.context.api().fill(call.results[0], 0, zeros, call.context.stream()));
    cuda::GenericAttentionBackward one = backward;
    set_operands(one.problem, call);
    one.delta = static_cast<const float*>(call.operands[6]);
    one.log_sum_exp = static_cast<const float*>(call.operands[7]);
    one.dout = call.operands[8];
    one.dq = call.results[0], one.dk = call.results[1], one.dv = call.results[2];
    call.context.succeed(call.context.api().generic_attention_backward(&one, call.context.stream()));
  };
  add_to_operands(problem, kernel);
  return true;
}

bool make_delta(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto &out = problem.operands[0], &dout = problem.operands[1];
  if (!bind::narrow(refusal, {&out, &dout}) || !bind::single(problem.results[0], "delta", refusal)) return false;
  using Delta = cuda::AttentionDelta;
  const Delta delta{static_cast<std::int32_t>(out.shape[0]),
                    static_cast<std::int32_t>(out.shape[1]),
                    static_cast<std::int32_t>(out.shape[2]),
                    static_cast<std::int32_t>(out.shape[3]),
                    bind::type_of(out.dtype),
                    bind::type_of(dout.dtype),
                    nullptr,
                    nullptr,
                    nullptr};
  return bind::run(kernel, delta, bind::operands(&Delta::out, &Delta::dout), bind::results(&Delta::delta),
                   &cuda::Api::attention_delta);
}

// Partial outputs are float32.
bool merges(const DeviceProblem& problem, std::string& refusal) {
  const auto& out = problem.results[0];
  return bind::single(out, "partial outputs", refusal) &&
         bind::fits(refusal, {out.shape[0], out.shape[1], out.shape[2], out.shape[3]});
}
bool make_warp_merge(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!merges(problem, refusal)) return false;
  const auto& shape = problem.results[0].shape;
  if (shape[3] % 4) {
    refusal = "a head dimension that is no multiple of 4";
    return false;
  }
  using Merge = cuda::SoftmaxMerge;
  const Merge merge{static_cast<std::int32_t>(shape[0]),
                    static_cast<std::int32_t>(shape[1]),
                    static_cast<std::int32_t>(shape[2]),
                    static_cast<std::int32_t>(shape[3]),
                    nullptr,
                    nullptr,
                    nullptr,
                    nullptr,
                    nullptr};
  bind::run(kernel, merge, bind::operands(bind::skip, bind::skip, &Merge::partial, &Merge::partial_log_sum_exp),
            bind::results(&Merge::out, &Merge::log_sum_exp), &cuda::Api::softmax_merge);
  bind::copy_first(kernel, {{0, 0, problem.results[0].bytes()}, {1, 1, problem.results[1].bytes()}});
  return true;
}
bool make_merge(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!merges(problem, refusal)) return false;
  const auto& shape = problem.results[0].shape;
  using Merge = cuda::GenericMerge;
  Merge merge{};
  merge.batch = static_cast<std::int32_t>(shape[0]), merge.rows = static_cast<std::int32_t>(shape[1]);
  merge.heads = static_cast<std::int32_t>(shape[2]), merge.head_dim = static_cast<std::int32_t>(shape[3]);
  return bind::run(kernel, merge,
                   bind::operands(&Merge::out_a, &Merge::log_sum_exp_a, &Merge::out_b, &Merge::log_sum_exp_b),
                   bind::results(&Merge::out, &Merge::log_sum_exp), &cuda::Api::generic_merge);
}

const std::vector<DeviceCandidate> forwards = {
    {"tensor_cores", make_fast}, {"padded", make_padded}, {"generic", make_generic}};
const std::vector<DeviceCandidate> gradients = {
    {"tensor_cores", make_fast_gradient}, {"padded", make_padded_gradient}, {"generic", make_generic_gradient}};
const DeviceKernels forward("attention", forwards);
const DeviceKernels block("attention_block", forwards);
const DeviceKernels delta("attention_delta", bind::generic(make_delta));
const DeviceKernels backward("attention_gradient", gradients);
const DeviceKernels backward_add("attention_gradient_add", gradients);
const DeviceKernels block_backward("attention_block_gradient", gradients);
const DeviceKernels block_backward_add("attention_block_gradient_add", gradients);
const DeviceKernels merge("attention_merge", {{"warps", make_warp_merge}, {"generic", make_merge}});

}  // namespace
}  // namespace longhaul
