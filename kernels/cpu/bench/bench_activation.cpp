// Activations of the MLP, plain and gated, and their gradients.
//
//   rows, width     elements of a row; gate and up are halves of one [rows, 2 width] product where fused=1
//   kind            silu, gelu, gelu_tanh or relu
#include "base/error.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/bench/case.h"

namespace longhaul::cpu::bench {
namespace {

ActivationKind kind_of(const Case& c) {
  const std::string kind = c.shape.word("kind");
  if (kind == "silu") return ActivationKind::silu;
  if (kind == "gelu") return ActivationKind::gelu;
  if (kind == "gelu_tanh") return ActivationKind::gelu_tanh;
  if (kind == "relu") return ActivationKind::relu;
  fail("kind={}; allowed are silu, gelu, gelu_tanh and relu", kind);
}

void activation(Case& c) {
  const std::int64_t count = c.size("rows") * c.size("width");
  const ActivationKind kind = kind_of(c);
  const Tensor &x = c.input(count, 2), &y = c.output(count);
  c.call = [=, &x, &y](Side side) {
    const Activation p{kind, side.type(x), side(x), side(y), count};
    side.exact ? reference::activation(p) : longhaul::cpu::activation(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = 2.0 * static_cast<double>(x.narrow.bytes());
}

void activation_gradient(Case& c) {
  const std::int64_t count = c.size("rows") * c.size("width");
  const ActivationKind kind = kind_of(c);
  const Tensor &x = c.input(count, 2), &dy = c.input(count), &dx = c.output(count);
  c.call = [=, &x, &dy, &dx](Side side) {
    const ActivationGradient p{kind, side.type(x), side(x), side(dy), side(dx), count};
    side.exact ? reference::activation_gradient(p) : longhaul::cpu::activation_gradient(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = 3.0 * static_cast<double>(x.narrow.bytes());
}

// Element `width` of an array of elements.
template <typename Pointer>
Pointer half(Pointer whole, DType type, std::int64_t width) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return static_cast<Byte*>(whole) + width * static_cast<std::int64_t>(size_of(type));
}

void gated_activation(Case& c) {
  const std::int64_t rows = c.size("rows"), width = c.size("width");
  const ActivationKind kind = kind_of(c);
  const bool fused = c.flag("fused");
  const Tensor &gate = c.input((fused ? 2 : 1) * rows * width, 2), &up = fused ? gate : c.input(rows * width),
               &y = c.output(rows * width);
  c.call = [=, &gate, &up, &y](Side side) {
    const GatedActivation p{kind,    side.type(y), side(gate), fused ? half(side(gate), side.type(y), width) : side(up),
                            side(y), rows,         width,      fused ? 2 * width : 0};
    side.exact ? reference::gated_activation(p) : longhaul::cpu::gated_activation(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = 3.0 * static_cast<double>(y.narrow.bytes());
}

void gated_activation_gradient(Case& c) {
  const std::int64_t rows = c.size("rows"), width = c.size("width");
  const ActivationKind kind = kind_of(c);
  const bool fused = c.flag("fused");
  const Tensor &gate = c.input((fused ? 2 : 1) * rows * width, 2), &up = fused ? gate : c.input(rows * width),
               &dy = c.input(rows * width), &dgate = c.output((fused ? 2 : 1) * rows * width),
               &dup = fused ? dgate : c.output(rows * width);
  c.call = [=, &gate, &up, &dy, &dgate, &dup](Side side) {
    const DType type = side.type(dy);
    const GatedActivationGradient p{kind,
                                    type,
                                    side(gate),
                                    fused ? half(side(gate), type, width) : side(up),
                                    side(dy),
                                    side(dgate),
                                    fused ? half(side(dgate), type, width) : side(dup),
                                    rows,
                                    width,
                                    fused ? 2 * width : 0};
    side.exact ? reference::gated_activation_gradient(p) : longhaul::cpu::gated_activation_gradient(side.pool, p);
  };
  c.tolerance = 16;
  c.bytes = 5.0 * static_cast<double>(dy.narrow.bytes());
}

constexpr const char* plain = "rows=8192 width=3072 kind=gelu_tanh dtype=float32 threads=1";
constexpr const char* gated = "rows=4096 width=8192 kind=silu fused=0 dtype=float32 threads=1";

}  // namespace

std::vector<Entry> activation_entries() {
  return {
      {"activation", {"activation"}, plain, activation},
      {"activation_gradient", {"activation_gradient"}, plain, activation_gradient},
      {"gated_activation", {"gated_activation"}, gated, gated_activation},
      {"gated_activation_gradient", {"gated_activation_gradient"}, gated, gated_activation_gradient},
  };
}

}  // namespace longhaul::cpu::bench
