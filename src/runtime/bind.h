// For kernels that are functions of a struct of plain pointers and sizes, whatever the back end: which of its fields
// take which buffers of a call. A binding fills the sizes once, when the kernel is made, and names the fields; nothing
// else.
#pragma once
#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/kernel.h"

namespace longhaul::bind {

/// In the place of a field: this buffer is not handed on.
struct Skip {};
inline constexpr Skip skip;

template <class... Fields>
struct Operands {
  std::tuple<Fields...> fields;
};
/// Pointers to members, for the first, second, ... operand; operands behind them are not handed on.
template <class... Fields>
Operands<Fields...> operands(Fields... fields) {
  return {{fields...}};
}
template <class... Fields>
struct Results {
  std::tuple<Fields...> fields;
};
template <class... Fields>
Results<Fields...> results(Fields... fields) {
  return {{fields...}};
}

/// Sets the fields of `one` to the buffers of a call; a field named `scratch` to its scratch.
template <class Struct, class Context, class... Inputs, class... Outputs>
void connect(Struct& one, const KernelCall<Context>& call, const Operands<Inputs...>& inputs,
             const Results<Outputs...>& outputs) {
  const auto set = [&one]<class Field, class Pointer>(Field field, Pointer buffer) {
    if constexpr (!std::is_same_v<Field, Skip>) {
      using Target = std::remove_reference_t<decltype(one.*field)>;
      one.*field = static_cast<Target>(buffer);
    }
  };
  std::size_t i = 0;
  std::apply([&](auto... field) { (set(field, call.operands[i++]), ...); }, inputs.fields);
  i = 0;
  std::apply([&](auto... field) { (set(field, call.results[i++]), ...); }, outputs.fields);
  if constexpr (requires { one.scratch = call.scratch; }) one.scratch = call.scratch;
}

/// Result `result` continues operand `operand`, of so many bytes.
struct Continued {
  std::size_t operand, result;
  std::int64_t bytes;
};
/// A kernel that changes results in place also serves plans that could not share the buffers: the old values are copied
/// first, in host memory.
template <class Context>
void copy_first(Kernel<Context>& kernel, std::vector<Continued> all) {
  kernel.run = [all = std::move(all), run = std::move(kernel.run)](const KernelCall<Context>& call) {
    for (const Continued& one : all)
      if (call.operands[one.operand] != call.results[one.result])
        std::memcpy(call.results[one.result], call.operands[one.operand], static_cast<std::size_t>(one.bytes));
    run(call);
  };
}

}  // namespace longhaul::bind
