#include "kernels/cuda/bench/values.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace longhaul::cuda::bench {

Type type_of(const Shape& shape) {
  const std::string name = shape.word("dtype");
  if (name == "float32") return Type::float32;
  if (name == "bfloat16") return Type::bfloat16;
  throw Error("dtype=" + name + "; these device kernels are float32 or bfloat16");
}
double bytes_of(Type type) {
  return type == Type::bfloat16 ? 2 : 4;
}
double bound_of(Type type) {
  return type == Type::bfloat16 ? 4e-3 : 1e-5;
}

Values::Values(Context& context, Type of, std::int64_t count, unsigned seed, float scale)
    : type(of),
      host(static_cast<std::size_t>(count)),
      device(context.allocate(host.size() * static_cast<std::size_t>(bytes_of(type)))) {
  fill_random(host.data(), host.size(), seed, scale);
  upload(context);
}
void Values::upload(Context& context) {
  if (type == Type::float32) {
    context.upload(device, host.data(), host.size() * 4);
    return;
  }
  std::vector<std::uint16_t> words(host.size());
  for (std::size_t i = 0; i < host.size(); i++) {
    words[i] = to_bfloat16(host[i]);
    host[i] = from_bfloat16(words[i]);
  }
  context.upload(device, words.data(), words.size() * 2);
}

Room::Room(Context& on, Type of, std::int64_t elements)
    : context(on),
      type(of),
      count(static_cast<std::size_t>(elements)),
      device(on.allocate(count * static_cast<std::size_t>(bytes_of(type)))) {}

std::vector<double> download(Context& context, Type type, const void* device, std::size_t count) {
  std::vector<double> result(count);
  if (type == Type::float32) {
    std::vector<float> got(count);
    context.download(got.data(), device, count * 4);
    std::copy(got.begin(), got.end(), result.begin());
  } else {
    std::vector<std::uint16_t> got(count);
    context.download(got.data(), device, count * 2);
    std::transform(got.begin(), got.end(), result.begin(), from_bfloat16);
  }
  return result;
}
double error_of(Context& context, Type type, const void* device, const std::vector<double>& want) {
  const std::vector<double> got = download(context, type, device, want.size());
  double difference = 0, norm = 1e-300;
  for (std::size_t i = 0; i < want.size(); i++) {
    const double apart = got[i] - want[i];
    difference += apart * apart, norm += want[i] * want[i];
  }
  return std::isfinite(difference) ? std::sqrt(difference / norm) : INFINITY;
}

}  // namespace longhaul::cuda::bench
