// Shorthands of the kernels_*.cpp files.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "ir/op_definition.h"
#include "runtime/bind.h"
#include "runtime/device/kernel.h"

namespace longhaul::bind {

using Make = bool (*)(const DeviceProblem&, DeviceKernel&, std::string&);
inline std::vector<DeviceCandidate> generic(Make make) {
  return {{"generic", make}};
}

inline cuda::Type type_of(DType dtype) {
  LONGHAUL_CHECK(dtype != DType::int32, "an integer tensor in a kernel of floating ones");
  return dtype == DType::bfloat16  ? cuda::Type::bfloat16
         : dtype == DType::float32 ? cuda::Type::float32
                                   : cuda::Type::float64;
}
/// Whether all tensors of these are bfloat16 or float32; else the reason.
inline bool narrow(std::string& refusal, std::initializer_list<const TensorType*> tensors) {
  for (const TensorType* tensor : tensors)
    if (tensor->dtype != DType::bfloat16 && tensor->dtype != DType::float32) {
      refusal =
          std::string("the device computes in bfloat16 and float32, not in ") + std::string(name_of(tensor->dtype));
      return false;
    }
  return true;
}
/// Whether a result is float32.
inline bool single(const TensorType& tensor, const char* what, std::string& refusal) {
  if (tensor.dtype == DType::float32) return true;
  refusal = std::string(what) + " in " + std::string(name_of(tensor.dtype)) + ", not float32";
  return false;
}
/// Whether all sizes fit the 32 bits of a call.
inline bool fits(std::string& refusal, std::initializer_list<std::int64_t> sizes) {
  for (const std::int64_t size : sizes)
    if (size >= std::int64_t{1} << 31) {
      refusal = "a size of " + std::to_string(size) + ", beyond 32 bits";
      return false;
    }
  return true;
}

inline std::int64_t last(const TensorType& type) {
  return type.shape.empty() ? 1 : type.shape.back();
}
inline std::int64_t rows(const TensorType& type) {
  return type.shape.empty() ? 1 : type.count() / std::max<std::int64_t>(1, type.shape.back());
}

/// Makes `kernel` a call of `function`, of the table, with a copy of `settings` whose fields are connected to the
/// call's buffers (bind::connect), a field named `workspace` to its scratch. Always true: what a candidate returns when
/// it accepts.
template <class Struct, class Inputs, class Outputs>
bool run(DeviceKernel& kernel, const Struct& settings, Inputs inputs, Outputs outputs,
         int (*cuda::Api::*function)(const Struct*, cuda::Stream)) {
  kernel.run = [=](const DeviceCall& call) {
    Struct one = settings;
    connect(one, call, inputs, outputs);
    if constexpr (requires { one.workspace = call.scratch; }) one.workspace = call.scratch;
    call.context.succeed((call.context.api().*function)(&one, call.context.stream()));
  };
  return true;
}

/// Copies within the device, in its order.
inline void copy(DeviceContext& context, void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0 && to != from)
    context.succeed(context.api().copy(to, from, static_cast<std::size_t>(bytes), context.stream()));
}
/// As bind::copy_first, on the device.
inline void copy_first(DeviceKernel& kernel, std::vector<Continued> all) {
  kernel.run = [all = std::move(all), run = std::move(kernel.run)](const DeviceCall& call) {
    for (const Continued& one : all)
      copy(call.context, call.results[one.result], call.operands[one.operand], one.bytes);
    run(call);
  };
}

}  // namespace longhaul::bind
