// The device that kernel tests run on: the emulator, under several schedules, or a GPU. The same tests are linked with
// device_emulator.cpp or device_cuda.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/cuda/api.h"

namespace longhaul::test {

const cuda::Api& device();
/// Runs `body` once a schedule: `schedules` of them on the emulator, one on a GPU.
void for_each_schedule(int schedules, const std::function<void()>& body);
/// Throws with the device's own words when a call failed.
void succeed(int status);
/// What another process of this program is told on its command line, to have the same device.
std::vector<std::string> device_arguments();

/// Device memory that follows a host vector. Fresh memory holds NaN.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    void* pointer = nullptr;
    succeed(device().allocate(&pointer, std::max<std::size_t>(1, count) * sizeof(T)));
    data_ = static_cast<T*>(pointer);
    succeed(device().fill(data_, 0xff, count * sizeof(T), nullptr));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    succeed(device().copy(data_, values.data(), count_ * sizeof(T), nullptr));
  }
  ~DeviceArray() { device().release(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> host(count_);
    succeed(device().copy(host.data(), data_, count_ * sizeof(T), nullptr));
    succeed(device().synchronize());
    return host;
  }

 private:
  std::size_t count_;
  T* data_;
};

/// Normal deviates, as bfloat16 and as what bfloat16 holds.
inline std::vector<bfloat16> random_bfloat16(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bfloat16> values(count);
  for (bfloat16& value : values) value = bfloat16(scale * normal(random));
  return values;
}
inline std::vector<float> random_float(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = scale * normal(random);
  return values;
}
template <typename T>
std::vector<double> to_double(const std::vector<T>& values) {
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < values.size(); i++) result[i] = static_cast<double>(static_cast<float>(values[i]));
  return result;
}
inline std::vector<bfloat16> to_bfloat16(const std::vector<double>& values) {
  std::vector<bfloat16> result(values.size());
  for (std::size_t i = 0; i < values.size(); i++) result[i] = bfloat16(static_cast<float>(values[i]));
  return result;
}
inline std::vector<float> to_float(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

struct Difference {
  double largest = 0;   ///< absolute
  double relative = 0;  ///< root mean square, relative to that of what was expected
};
/// Anything not finite that was expected finite counts as infinitely wrong.
template <typename T>
Difference difference(const std::vector<T>& got, const std::vector<double>& expected) {
  Difference result;
  double error = 0, norm = 0;
  if (got.size() != expected.size()) return {INFINITY, INFINITY};
  for (std::size_t i = 0; i < expected.size(); i++) {
    const double value = static_cast<double>(static_cast<float>(got[i]));
    double d = value == expected[i] ? 0 : std::abs(value - expected[i]);  // equal infinities too
    if (!(d < 1e30)) d = 1e30;
    result.largest = std::max(result.largest, d);
    error += d * d;
    if (std::isfinite(expected[i])) norm += expected[i] * expected[i];
  }
  result.relative = std::sqrt(error / (norm > 0 ? norm : 1));
  return result;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace longhaul::test
