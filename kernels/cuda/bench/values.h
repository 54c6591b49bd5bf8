// Tensors of the type that a problem names, here and on the device.
#pragma once
#include <vector>

#include "kernels/cuda/bench/bench.h"

namespace longhaul::cuda::bench {

/// float32 or bfloat16. Throws Error for another dtype.
Type type_of(const Shape& shape);
double bytes_of(Type type);
/// Of results that are rounded once to this type: root mean square, relative.
double bound_of(Type type);

/// Random values, as the type holds them.
struct Values {
  Values(Context& context, Type type, std::int64_t count, unsigned seed, float scale = 1);
  /// What `host` holds by now, to the device.
  void upload(Context& context);
  std::vector<double> wide() const { return {host.begin(), host.end()}; }

  Type type;
  std::vector<float> host;
  void* device;
};

/// `count` elements that lie on the device.
std::vector<double> download(Context& context, Type type, const void* device, std::size_t count);
/// What lies on the device, `want.size()` elements of it: root mean square of what differs, relative to that of `want`;
/// infinite when anything is not finite.
double error_of(Context& context, Type type, const void* device, const std::vector<double>& want);

/// Room for a result on the device: NaN at first.
struct Room {
  Room(Context& context, Type type, std::int64_t count);
  double error(const std::vector<double>& want) const { return error_of(context, type, device, want); }
  float* floats() const { return static_cast<float*>(device); }

  Context& context;
  Type type;
  std::size_t count;
  void* device;
};

/// Runs and times a function of the table; the error is the caller's to set.
template <typename Call>
Measurement measured(Context& context, const Call& call, int (*Api::*function)(const Call*, Stream), double bytes,
                     double bound) {
  Measurement m;
  context.time(m, [&] { context.succeed((context.api.*function)(&call, nullptr)); });
  m.bound = bound, m.bytes = bytes;
  return m;
}

/// A copy of host values in device memory.
template <typename T>
T* on_device(Context& context, const std::vector<T>& values) {
  void* const to = context.allocate(values.size() * sizeof(T));
  context.upload(to, values.data(), values.size() * sizeof(T));
  return static_cast<T*>(to);
}

}  // namespace longhaul::cuda::bench
