#include "kernels/cuda/bench/bench.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "kernels/bench/random.h"

namespace longhaul::cuda::bench {

// ---- context
void Context::succeed(int status) const {
  if (status) throw Error(api.last_error());
}
void* Context::allocate(std::size_t bytes) {
  void* pointer = nullptr;
  succeed(api.allocate(&pointer, std::max<std::size_t>(bytes, 16)));
  memory_.push_back(pointer);
  succeed(api.fill(pointer, 0xff, bytes, nullptr));
  return pointer;
}
void Context::release_all() {
  for (void* pointer : memory_) api.release(pointer);
  memory_.clear();
}
void Context::upload(void* to, const void* from, std::size_t bytes) {
  succeed(api.copy(to, from, bytes, nullptr));
  succeed(api.synchronize());
}
void Context::download(void* to, const void* from, std::size_t bytes) {
  succeed(api.synchronize());
  succeed(api.copy(to, from, bytes, nullptr));
  succeed(api.synchronize());
}
void Context::time(Measurement& m, const std::function<void()>& call) {
  call();
  if (!timed) return;
  void *begin = nullptr, *end = nullptr;
  succeed(api.event_create(&begin));
  succeed(api.event_create(&end));
  std::vector<float> times(repeat);
  for (float& milliseconds : times) {
    succeed(api.event_record(begin, nullptr));
    call();
    succeed(api.event_record(end, nullptr));
    succeed(api.event_milliseconds(begin, end, &milliseconds));
  }
  api.event_destroy(begin);
  api.event_destroy(end);
  std::sort(times.begin(), times.end());
  m.timed = true;
  m.minimum_ms = times.front();
  m.median_ms = times[times.size() / 2];
}

// ---- random numbers
std::uint16_t to_bfloat16(float value) {
  std::uint32_t word;
  std::memcpy(&word, &value, 4);
  return static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}
namespace {
// `fill` pieces of the whole, each with a seed of its own, so that a gigabyte is a matter of all cores.
void in_pieces(std::size_t count, unsigned seed, const std::function<void(std::size_t, std::size_t, unsigned)>& fill) {
  constexpr std::size_t kPiece = 1 << 20;
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t piece = next++; piece * kPiece < count; piece = next++)
      fill(piece * kPiece, std::min(count, (piece + 1) * kPiece), seed + 1000003u * static_cast<unsigned>(piece));
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < std::min<std::size_t>(std::thread::hardware_concurrency(), 1 + count / kPiece); i++)
    threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}
}  // namespace
void fill_random(float* values, std::size_t count, unsigned seed, float scale) {
  in_pieces(count, seed, [&](std::size_t begin, std::size_t end, unsigned own) {
    longhaul::bench::NormalNumbers next(own);
    for (std::size_t i = begin; i < end; i++) values[i] = scale * next();
  });
}
void fill_random_bfloat16(std::uint16_t* values, std::size_t count, unsigned seed, float scale) {
  in_pieces(count, seed, [&](std::size_t begin, std::size_t end, unsigned own) {
    longhaul::bench::NormalNumbers next(own);
    for (std::size_t i = begin; i < end; i++) values[i] = to_bfloat16(scale * next());
  });
}
float from_bfloat16(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// ---- the devices
std::vector<Op> all_ops() {
  std::vector<Op> ops = attention_ops();
  for (auto family : {memory_bound_ops, elementwise_ops, generic_ops, scalar_ops, matmul_ops, collective_ops})
    for (Op& op : family()) ops.push_back(std::move(op));
  return ops;
}

namespace {

// What the device can do, measured here: a copy of 1 GiB, and a product of 8192 x 8192 matrices by cuBLASLt.
struct Ceilings {
  double bytes_per_second = 0, flops_per_second = 0;
};
// Whether the vendor's library of matrix products can be opened here.
bool has_products(const Api& api) {
  char text[64];
  return api.matmul_library(text) == 0;
}
Ceilings measure_ceilings(Context& context) {
  Ceilings result;
  Measurement m;
  const std::size_t bytes = std::size_t{1} << 30;
  void *from = context.allocate(bytes), *to = context.allocate(bytes);
  context.succeed(context.api.fill(from, 0x3d, bytes, nullptr));
  context.time(m, [&] { context.succeed(context.api.copy(to, from, bytes, nullptr)); });
  result.bytes_per_second = 2 * static_cast<double>(bytes) / (m.median_ms * 1e-3);
  if (has_products(context.api)) {
    const std::int64_t n = 8192;
    std::vector<std::uint16_t> values(n * n);
    fill_random_bfloat16(values.data(), values.size(), 1);
    context.upload(from, values.data(), values.size() * 2);
    fill_random_bfloat16(values.data(), values.size(), 2);
    context.upload(static_cast<char*>(from) + n * n * 2, values.data(), values.size() * 2);
    Matmul call{};
    call.m = call.n = call.k = call.a_stride = call.b_stride = call.c_stride = n;
    call.b_transposed = 1;
    call.type = call.out_type = Type::bfloat16;
    call.alpha = 1;
    call.a = from, call.b = static_cast<char*>(from) + n * n * 2, call.c = to;
    context.time(m, [&] { context.succeed(context.api.matmul(&call, nullptr)); });
    result.flops_per_second = 2.0 * static_cast<double>(n) * n * n / (m.median_ms * 1e-3);
  }
  context.release_all();
  return result;
}

const Op& find(const std::vector<Op>& ops, const std::string& name) {
  for (const Op& op : ops)
    if (op.name == name) return op;
  fail("no device kernel {}", name);
}

void refuse_libraries(const longhaul::bench::RunOptions& options) {
  if (!options.compare.empty())
    fail("--compare {}: libraries are compared with the CPU kernels only (--device cpu)", options.compare.front());
}

class DeviceKernels final : public longhaul::bench::Device {
 public:
  explicit DeviceKernels(Backend backend) : api_(require_backend(backend)), gpu_(backend == Backend::cuda) {}

  std::string description() override {
    DeviceInfo info{};
    Context context(api_, 20);
    context.succeed(api_.device_info(&info));
    if (!gpu_) return fmt::format("{}; error: root mean square against float64, relative", info.name);
    ceilings_ = measure_ceilings(context);
    const std::string product = ceilings_.flops_per_second > 0
                                    ? fmt::format("({:.0f} TFLOP/s)", ceilings_.flops_per_second * 1e-12)
                                    : fmt::format("(not measured: {})", api_.last_error());
    return fmt::format(
        "{}; error: root mean square against float64, relative; of peak: of a copy of 1 GiB ({:.0f} GB/s read + "
        "written), or of a bf16 product of 8192 x 8192 matrices {}, both measured here",
        info.name, ceilings_.bytes_per_second * 1e-9, product);
  }
  std::vector<Device::Op> ops() const override {
    std::vector<Device::Op> list;
    for (const auto& op : all_ops()) {
      list.push_back({op.name, Shape(op.emulator_shapes.front()), {}});
      const std::vector<std::string>& shapes = gpu_ ? op.device_shapes : op.emulator_shapes;
      if (op.name == "matmul" && !has_products(api_)) continue;  // the description says why
      for (const std::string& shape : shapes) list.back().timed.emplace_back(shape);
    }
    return list;
  }
  Measurement run(const std::string& op, const Shape& shape, const longhaul::bench::RunOptions& options) override {
    refuse_libraries(options);
    const auto ops = all_ops();
    Context context(api_, options.repeat > 0 ? options.repeat : gpu_ ? 20 : 1, options.check_only);
    Measurement m;
    try {
      m = find(ops, op).run(context, shape);
    } catch (...) {
      context.release_all();
      throw;
    }
    context.release_all();
    m.kernel = gpu_ ? "cuda" : "emulator";
    const double peak = m.flops > 0 ? ceilings_.flops_per_second : ceilings_.bytes_per_second;
    if (m.timed && peak > 0) m.fraction = (m.flops > 0 ? m.flops : m.bytes) / (m.median_ms * 1e-3) / peak;
    return m;
  }

 private:
  const Api& api_;
  bool gpu_;
  Ceilings ceilings_;
};

class PlainLoops final : public longhaul::bench::Device {
 public:
  std::string description() override {
    return "plain loops on the host; error: root mean square against float64, relative";
  }
  std::vector<Device::Op> ops() const override {
    std::vector<Device::Op> list;
    for (const auto& op : all_ops())
      if (op.plain) list.push_back({op.name, Shape(op.emulator_shapes.front()), {Shape()}});
    return list;
  }
  Measurement run(const std::string& op, const Shape& shape, const longhaul::bench::RunOptions& options) override {
    refuse_libraries(options);
    const auto ops = all_ops();
    Measurement m = find(ops, op).plain(shape);
    m.kernel = "plain";
    m.timed = !options.check_only;
    return m;
  }
};

}  // namespace

std::unique_ptr<longhaul::bench::Device> make_device(Backend backend) {
  return std::make_unique<DeviceKernels>(backend);
}
std::unique_ptr<longhaul::bench::Device> make_plain_device() {
  return std::make_unique<PlainLoops>();
}

}  // namespace longhaul::cuda::bench
