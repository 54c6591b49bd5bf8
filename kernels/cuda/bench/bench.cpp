#include "kernels/cuda/bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "base/error.h"
#include "kernels/cuda/loader.h"

namespace longhaul::cuda::bench {

// ---- shapes
Shape::Shape(const std::string& text) {
  std::istringstream in(text);
  for (std::string entry; std::getline(in, entry, ',');) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error("--shape: '" + entry + "' is not key=value; a shape is like s=8192,h=16,d=128");
    entries_.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
}
std::string Shape::word(const std::string& key) const {
  for (const auto& [name, value] : entries_)
    if (name == key) return value;
  throw Error("--shape: " + key + " is missing in " + text());
}
std::int64_t Shape::number(const std::string& key) const {
  const std::string value = word(key);
  std::size_t used = 0;
  std::int64_t result = 0;
  try {
    result = std::stoll(value, &used);
  } catch (const std::exception&) {
  }
  if (used != value.size() || result < 0) throw Error("--shape: " + key + "=" + value + " is not a size");
  return result;
}
Shape Shape::with(const std::string& over) const {
  Shape result = *this;
  for (const auto& [name, value] : Shape(over).entries_) {
    auto found = std::find_if(result.entries_.begin(), result.entries_.end(),
                              [&, key = name](const auto& entry) { return entry.first == key; });
    if (found == result.entries_.end()) throw Error("--shape: this op has no " + name + "; it has " + text());
    found->second = value;
  }
  return result;
}
std::string Shape::text() const {
  std::string result;
  for (const auto& [name, value] : entries_) result += (result.empty() ? "" : ",") + name + "=" + value;
  return result;
}

// ---- context
void Context::succeed(int status) const {
  if (status) throw Error(api.last_error());
}
void* Context::allocate(std::size_t bytes) {
  void* pointer = nullptr;
  succeed(api.allocate(&pointer, std::max<std::size_t>(bytes, 16)));
  memory_.push_back(pointer);
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
double Context::time(const std::function<void()>& call) {
  call();
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
  std::nth_element(times.begin(), times.begin() + repeat / 2, times.end());
  return times[repeat / 2];
}

// ---- random numbers
namespace {
struct Generator {
  std::uint64_t state;
  float operator()() {  // three uniforms: close enough to normal, variance 1
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const std::uint64_t x = state ^ state >> 29;
    const int sum =
        static_cast<int>(x >> 8 & 0xffff) + static_cast<int>(x >> 24 & 0xffff) + static_cast<int>(x >> 44 & 0xffff);
    return static_cast<float>(sum - 98302) * (2.0f / 65536.0f);
  }
};
std::uint16_t to_bfloat16(float value) {
  std::uint32_t word;
  std::memcpy(&word, &value, 4);
  return static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
}
}  // namespace
void fill_random(float* values, std::size_t count, unsigned seed, float scale) {
  Generator next{seed * 7919ull + 1};
  for (std::size_t i = 0; i < count; i++) values[i] = scale * next();
}
void fill_random_bfloat16(std::uint16_t* values, std::size_t count, unsigned seed, float scale) {
  Generator next{seed * 7919ull + 1};
  for (std::size_t i = 0; i < count; i++) values[i] = to_bfloat16(scale * next());
}
float from_bfloat16(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// ---- the program
namespace {

struct Options {
  std::string device = "cuda", op, shape, json, markdown;
  int repeat = 0;
};
Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); i++) {
    const std::map<std::string, std::string*> texts = {{"--device", &options.device},
                                                       {"--op", &options.op},
                                                       {"--shape", &options.shape},
                                                       {"--json", &options.json},
                                                       {"--markdown", &options.markdown}};
    const bool known = texts.count(arguments[i]) || arguments[i] == "--repeat";
    if (!known)
      fail("bench kernels: unknown argument {}; allowed are --device, --op, --shape, --json, --markdown, --repeat",
           arguments[i]);
    if (i + 1 == arguments.size()) fail("bench kernels: {} needs a value", arguments[i]);
    if (arguments[i] == "--repeat")
      options.repeat = std::stoi(arguments[++i]);
    else
      *texts.at(arguments[i]) = arguments[i + 1], i++;
  }
  if (options.device != "cuda" && options.device != "emulator" && options.device != "cpu")
    fail("bench kernels: --device {} is not cuda, emulator or cpu", options.device);
  return options;
}

// What the device can do, measured here: a copy of 1 GiB, and a product of 8192 x 8192 matrices by cuBLASLt.
struct Ceilings {
  double bytes_per_second = 0, flops_per_second = 0;
};
Ceilings measure_ceilings(Context& context) {
  Ceilings result;
  const std::size_t bytes = std::size_t{1} << 30;
  void *from = context.allocate(bytes), *to = context.allocate(bytes);
  context.succeed(context.api.fill(from, 0x3d, bytes, nullptr));
  const double copy = context.time([&] { context.succeed(context.api.copy(to, from, bytes, nullptr)); });
  result.bytes_per_second = 2 * static_cast<double>(bytes) / (copy * 1e-3);
  if (context.api.matmul) {
    const std::int64_t n = 8192;
    std::vector<std::uint16_t> values(n * n);
    fill_random_bfloat16(values.data(), values.size(), 1);
    context.upload(from, values.data(), values.size() * 2);
    fill_random_bfloat16(values.data(), values.size(), 2);
    context.upload(static_cast<char*>(from) + n * n * 2, values.data(), values.size() * 2);
    const Matmul call{n,  n, n, 0, 1, Type::bfloat16, Type::bfloat16, 1, 0, from, static_cast<char*>(from) + n * n * 2,
                      to, n, n, n};
    const double product = context.time([&] { context.succeed(context.api.matmul(&call, nullptr)); });
    result.flops_per_second = 2.0 * static_cast<double>(n) * n * n / (product * 1e-3);
  }
  context.release_all();
  return result;
}

}  // namespace

int run(const std::vector<std::string>& arguments) {
  const Options options = parse(arguments);
  std::vector<Op> ops = attention_ops();
  for (Op& op : memory_bound_ops()) ops.push_back(std::move(op));
  for (Op& op : collective_ops()) ops.push_back(std::move(op));
  if (!options.op.empty()) {
    std::string names;
    for (const Op& op : ops) names += (names.empty() ? "" : ", ") + op.name;
    std::erase_if(ops, [&](const Op& op) { return op.name != options.op; });
    if (ops.empty()) fail("bench kernels: no op {}; there are {}", options.op, names);
  }
  if (!options.shape.empty() && options.op.empty()) fail("bench kernels: --shape needs --op");

  const bool gpu = options.device == "cuda", host = options.device == "cpu";
  const int repeat = options.repeat > 0 ? options.repeat : gpu ? 20 : 1;
  nlohmann::json table = nlohmann::json::array();
  Ceilings ceilings;
  std::string device_name = "host, plain loops";
  const Api* api = nullptr;
  if (!host) {
    api = &require_backend(gpu ? Backend::cuda : Backend::emulator);
    DeviceInfo info{};
    Context context(*api, repeat);
    context.succeed(api->device_info(&info));
    device_name = info.name;
    if (gpu) ceilings = measure_ceilings(context);
  }
  std::printf("%s: copy %.0f GB/s, matrix product %.0f TFLOP/s\n", device_name.c_str(),
              ceilings.bytes_per_second * 1e-9, ceilings.flops_per_second * 1e-12);
  std::printf("%-20s %-52s %10s %10s %9s %8s %7s\n", "op", "shape", "error", "ms", "TFLOP/s", "GB/s", "of peak");
  int bad = 0;
  for (const Op& op : ops) {
    std::vector<std::string> shapes = gpu ? op.device_shapes : std::vector<std::string>{op.emulator_shape};
    if (!options.shape.empty()) shapes = {Shape(op.emulator_shape).with(options.shape).text()};
    if (host && !op.plain) continue;
    for (const std::string& text : shapes) {
      Measurement m;
      if (host) {
        m = op.plain(Shape(text), repeat);
      } else {
        Context context(*api, repeat);
        try {
          m = op.run(context, Shape(text));
        } catch (...) {
          context.release_all();
          throw;
        }
        context.release_all();
      }
      m.op = op.name, m.shape = text;
      const double seconds = m.milliseconds * 1e-3, flops = m.flops / seconds, bandwidth = m.bytes / seconds;
      const double peak = m.flops > 0 ? ceilings.flops_per_second : ceilings.bytes_per_second;
      const double fraction = peak > 0 ? (m.flops > 0 ? flops : bandwidth) / peak : 0;
      const bool wrong = !(m.error <= m.bound);
      bad += wrong;
      std::printf("%-20s %-52s %10.1e %10.4f %9.1f %8.0f %6.1f%% %s\n", m.op.c_str(), m.shape.c_str(), m.error,
                  m.milliseconds, flops * 1e-12, bandwidth * 1e-9, 100 * fraction, wrong ? "WRONG" : "");
      std::fflush(stdout);
      table.push_back({{"op", m.op},
                       {"shape", m.shape},
                       {"error", m.error},
                       {"milliseconds", m.milliseconds},
                       {"tflops", flops * 1e-12},
                       {"gigabytes_per_second", bandwidth * 1e-9},
                       {"fraction_of_peak", fraction},
                       {"correct", !wrong}});
    }
  }
  if (!options.markdown.empty()) {
    std::ofstream out(options.markdown);
    out << fmt::format(
               "Device: {}. Copy: {:.0f} GB/s read + written. cuBLASLt bf16 8192 x 8192 x 8192: {:.0f} TFLOP/s.\n\n",
               device_name, ceilings.bytes_per_second * 1e-9, ceilings.flops_per_second * 1e-12)
        << "| op | shape | error | ms | TFLOP/s | GB/s | of peak |\n|---|---|---|---|---|---|---|\n";
    for (const auto& row : table)
      out << fmt::format("| {} | {} | {:.1e}{} | {:.4f} | {:.1f} | {:.0f} | {:.1f} % |\n", row["op"].get<std::string>(),
                         row["shape"].get<std::string>(), row["error"].get<double>(),
                         row["correct"].get<bool>() ? "" : " WRONG", row["milliseconds"].get<double>(),
                         row["tflops"].get<double>(), row["gigabytes_per_second"].get<double>(),
                         100 * row["fraction_of_peak"].get<double>());
    if (!out) fail("bench kernels: cannot write {}", options.markdown);
  }
  if (!options.json.empty()) {
    std::ofstream out(options.json);
    out << nlohmann::json{{"device", device_name},
                          {"copy_gigabytes_per_second", ceilings.bytes_per_second * 1e-9},
                          {"matmul_tflops", ceilings.flops_per_second * 1e-12},
                          {"measurements", table}}
               .dump(1)
        << "\n";
    if (!out) fail("bench kernels: cannot write {}", options.json);
  }
  return bad != 0;
}

}  // namespace longhaul::cuda::bench
