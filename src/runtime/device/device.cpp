#include "runtime/device/device.h"

#include <cstring>

#include "base/error.h"

namespace longhaul {
namespace {

const cuda::Api& opened(cuda::Backend backend) {
  std::string reason;
  if (const cuda::Api* api = cuda::open_backend(backend, reason)) return *api;
  fail(
      "device.type is {}, and its kernels cannot be opened: {}. Build them ({}), give their file in "
      "LONGHAUL_CUDA_LIBRARY "
      "(cuda), or set device.type to cpu",
      backend == cuda::Backend::cuda ? "cuda" : "emulator", reason,
      backend == cuda::Backend::cuda ? "with nvcc of CUDA 12.8 or later on the path" : "target longhaul_cuda_emulator");
}

int devices_of(const cuda::Api& api) {
  std::int32_t count = 0;
  return api.device_count(&count) ? 0 : count;
}

}  // namespace

Device::Device(cuda::Backend backend) : Device(backend, opened(backend)) {}

Device::Device(cuda::Backend backend, const cuda::Api& api) : backend_(backend), api_(api) {
  if (devices_of(api_) > 0 && api_.device_info(&info_) == 0) return;
  // Plans for a device elsewhere: that of this project's kernels.
  info_ = {};
  std::strncpy(info_.name, "no device here; planned for sm_90", sizeof info_.name - 1);
  info_.capability_major = 9;
  info_.multiprocessors = 132;
  info_.shared_bytes_per_block = 227 << 10;
}

Device::~Device() {
  if (stream_ && api_.device_select(number_) == 0) api_.stream_destroy(stream_);
}

std::string Device::only_device() const {
  return devices_of(api_) == 1 ? info_.uuid : "";
}

void Device::select(int number) {
  if (number_ >= 0) return enter();
  const int count = devices_of(api_);
  if (count == 0)
    fail("device.type is {}, and there is no device: {}; `longhaul compile` needs none, device.type cpu runs anywhere",
         kind(), *api_.last_error() ? api_.last_error() : "none found");
  if (is_emulated()) number %= count;
  if (number >= count)
    fail(
        "rank wants device {} of this machine, on which it sees {}: start at most one rank a device here, and let each "
        "see all of them, or each one of its own",
        number, count);
  number_ = number;
  enter();
  cuda::DeviceInfo here{};
  succeed(api_.device_info(&here));
  if (std::strcmp(here.name, info_.name) != 0)
    fail("device {} is {}, device 0 {}: kernels are chosen for one model; show the run only devices of one", number,
         here.name, info_.name);
  if (here.capability_major < 8)
    fail("device {} ({}) has compute capability {}.{}; the kernels need 8.0 or later", number, here.name,
         here.capability_major, here.capability_minor);
  succeed(api_.stream_create(&stream_));
}

void Device::enter() const {
  succeed(api_.device_select(number_));
}

void Device::synchronize() const {
  if (watch_)
    watch_->wait([this] {
      std::int32_t done = 0;
      succeed(api_.stream_query(stream(), &done));
      return done != 0;
    });
  succeed(api_.stream_synchronize(stream()));
}

void Device::succeed(int status) const {
  if (status) throw Error(fmt::format("{} device {}: {}", kind(), number_, api_.last_error()));
}

std::int64_t Device::free_bytes() const {
  std::int64_t free = 0, total = 0;
  succeed(api_.memory_info(&free, &total));
  return free;
}

DeviceMemory::DeviceMemory(const Device& device, Place place, std::size_t bytes)
    : device_(device), place_(place), bytes_(bytes) {
  if (bytes == 0) return;
  device.enter();
  void* pointer = nullptr;
  const cuda::Api& api = device.api();
  if ((place == Place::device ? api.allocate : api.allocate_host)(&pointer, bytes))
    fail(
        "{} device {} cannot give {} bytes of {} for the tensors of this rank ({} are free): {}. `longhaul compile` "
        "prints what needs them.",
        device.kind(), device.number(), bytes, place == Place::device ? "its memory" : "pinned host memory",
        device.free_bytes(), api.last_error());
  data_ = static_cast<char*>(pointer);
}

DeviceMemory::~DeviceMemory() {
  const cuda::Api& api = device_.api();
  if (data_ && api.device_select(device_.number()) == 0)
    (place_ == Place::device ? api.release : api.release_host)(data_);
}

}  // namespace longhaul
