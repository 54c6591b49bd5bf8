// The emulator as a device: host memory that kernels may touch is registered, streams are queues, there are no vendor
// libraries.
#include "kernels/cuda/device.h"

#include <chrono>
#include <cstdlib>

namespace longhaul::cuda {

// The emulator has all of sm_90a; `automatic` means the kernels that an H100 would run.
bool has_hopper_kernels() {
  return true;
}

namespace device {

const char* backend_name() {
  return "emulator";
}
void count(std::int32_t* devices) {
  *devices = 1;
}
void select(std::int32_t device) {
  require(device == 0, "the emulator has one device");
}
void info(DeviceInfo* to) {
  *to = {"emulated sm_90a", 9, 0, 1, std::int64_t{1} << 30, 227 << 10, 0};
}
void allocate(void** pointer, std::size_t bytes) {
  const std::size_t rounded = (bytes + 255) / 256 * 256;
  *pointer = std::aligned_alloc(256, std::max<std::size_t>(rounded, 256));
  require(*pointer, "out of memory");
  std::memset(*pointer, 0xff, rounded);  // NaN: reading what nobody wrote shows
  emulator::register_global(*pointer, bytes);
}
void release(void* pointer) {
  if (!pointer) return;
  emulator::unregister_global(pointer);
  std::free(pointer);
}
void copy(void* to, const void* from, std::size_t bytes, Stream) {
  emulator::synchronize();
  std::memmove(to, from, bytes);
}
void fill(void* to, std::int32_t byte, std::size_t bytes, Stream) {
  emulator::synchronize();
  std::memset(to, byte, bytes);
}
void stream_create(Stream* stream) {
  *stream = emulator::create_stream();
}
void stream_destroy(Stream stream) {
  emulator::destroy_stream(native(stream));
}
void synchronize() {
  emulator::synchronize();
}

using Clock = std::chrono::steady_clock;
void event_create(void** event) {
  *event = new Clock::time_point(Clock::now());
}
void event_record(void* event, Stream) {
  emulator::synchronize();
  *static_cast<Clock::time_point*>(event) = Clock::now();
}
void event_milliseconds(void* from, void* to, float* milliseconds) {
  *milliseconds = std::chrono::duration<float, std::milli>(*static_cast<Clock::time_point*>(to) -
                                                           *static_cast<Clock::time_point*>(from))
                      .count();
}
void event_destroy(void* event) {
  delete static_cast<Clock::time_point*>(event);
}
void share_memory(void* pointer, char* handle) {
  std::memcpy(handle, &pointer, sizeof pointer);
}
void open_memory(const char* handle, void** pointer) {
  std::memcpy(pointer, handle, sizeof *pointer);
}
void close_memory(void*) {}
void add_libraries(Api&) {}

}  // namespace device
}  // namespace longhaul::cuda
