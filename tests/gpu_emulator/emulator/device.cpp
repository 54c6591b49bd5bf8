// The emulator as devices: host memory that kernels may touch is registered, streams are queues, and copies and fills
// take their turn in them.
#include "kernels/cuda/device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace longhaul::cuda {

// The emulator has all of sm_90a; `automatic` means the kernels that an H100 would run. With waves of 64 lanes it has
// what AMD's CDNA has.
bool has_hopper_kernels() {
  return emulator::options.wave == 32;
}

namespace device {

const char* backend_name() {
  return "emulator";
}
void count(std::int32_t* devices) {
  *devices = emulator::kDevices;
}
void select(std::int32_t device) {
  require(device >= 0 && device < emulator::kDevices, "the emulator has " + std::to_string(emulator::kDevices) +
                                                          " devices, not one with number " + std::to_string(device));
  emulator::select_device(device);
}
void info(DeviceInfo* to) {
  *to = {"emulated sm_90a",
         "emulated",
         9,
         0,
         1,
         std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE),
         emulator::options.shared_kb << 10,
         0};
  if (emulator::options.wave == 64) {
    std::strcpy(to->name, "emulated, waves of 64 lanes");
    to->capability_major = 8;  // the portable kernels
  }
}
void memory_info(std::int64_t* free_bytes, std::int64_t* total_bytes) {  // as if each device had as much as the host
  *total_bytes = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  *free_bytes = *total_bytes - emulator::device().given;
}
namespace {
// What allocate() has given, and of which device.
struct Given {
  emulator::Device* device;
  std::int64_t bytes;
};
std::mutex given_lock;
std::map<void*, Given> all_given;

// Larger buffers lie in memory that other processes of the host can open.
constexpr std::size_t kShared = 64 << 10;
struct SharedBuffer {
  int file;
  std::size_t bytes;
};
std::mutex shared_lock;
std::map<void*, SharedBuffer> shared_buffers;  // made here, and opened here

void* map(int file, std::size_t bytes) {
  void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  require(mapped != MAP_FAILED, "out of memory");
  const std::lock_guard guard(shared_lock);
  shared_buffers[mapped] = {file, bytes};
  return mapped;
}
bool unmap(void* pointer) {
  const std::lock_guard guard(shared_lock);
  const auto found = shared_buffers.find(pointer);
  if (found == shared_buffers.end()) return false;
  munmap(pointer, found->second.bytes);
  if (found->second.file >= 0) close(found->second.file);
  shared_buffers.erase(found);
  return true;
}
struct Handle {
  std::int32_t process, file;
  std::size_t bytes;
  void* pointer;  // in its process
};
}  // namespace

void allocate(void** pointer, std::size_t bytes) {
  emulator::refuse_in_capture("allocate");
  const std::size_t rounded = (bytes + 255) / 256 * 256;
  if (rounded >= kShared) {
    const int file = memfd_create("longhaul-emulator", MFD_CLOEXEC);
    require(file >= 0 && ftruncate(file, static_cast<off_t>(rounded)) == 0, "out of memory");
    *pointer = map(file, rounded);
  } else {
    *pointer = std::aligned_alloc(256, std::max<std::size_t>(rounded, 256));
    require(*pointer, "out of memory");
  }
  std::memset(*pointer, 0xff, rounded);  // NaN: reading what nobody wrote shows
  {
    const std::lock_guard guard(given_lock);
    const Given given{&emulator::device(), static_cast<std::int64_t>(rounded)};
    all_given[*pointer] = given;
    given.device->given += given.bytes;
  }
  emulator::register_global(*pointer, bytes);
}
void release(void* pointer) {
  emulator::refuse_in_capture("release");
  if (!pointer) return;
  emulator::unregister_global(pointer);
  {
    const std::lock_guard guard(given_lock);
    const auto found = all_given.find(pointer);
    found->second.device->given -= found->second.bytes;
    all_given.erase(found);
  }
  if (!unmap(pointer)) std::free(pointer);
}
namespace {
std::mutex pinned_lock;
std::map<const char*, std::size_t> pinned;
bool is_pinned(const void* pointer, std::size_t bytes) {
  const std::lock_guard guard(pinned_lock);
  const auto* const begin = static_cast<const char*>(pointer);
  const auto after = pinned.upper_bound(begin);
  return after != pinned.begin() && begin + bytes <= std::prev(after)->first + std::prev(after)->second;
}
}  // namespace

void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  if (emulator::captures(native(stream)))
    for (const void* side : {static_cast<const void*>(to), from})
      if (!emulator::is_global(side, bytes) && !is_pinned(side, bytes))
        emulator::refuse_in_capture("a copy of host memory that allocate_host has not given");
  emulator::enqueue(native(stream), [=] { std::memmove(to, from, bytes); });
}
void fill(void* to, std::int32_t byte, std::size_t bytes, Stream stream) {
  emulator::enqueue(native(stream), [=] { std::memset(to, byte, bytes); });
}
void stream_create(Stream* stream) {
  *stream = emulator::create_stream();
}
void urgent_stream_create(Stream* stream) {
  *stream = emulator::create_stream();
}
void stream_destroy(Stream stream) {
  emulator::destroy_stream(native(stream));
}
void stream_synchronize(Stream) {
  emulator::refuse_in_capture("stream_synchronize");
  emulator::synchronize();
}
void stream_query(Stream, std::int32_t* done) {
  emulator::refuse_in_capture("stream_query");
  *done = emulator::go_on();
}
void synchronize() {
  emulator::refuse_in_capture("synchronize");
  emulator::synchronize();
}
void allocate_host(void** pointer, std::size_t bytes) {
  emulator::refuse_in_capture("allocate_host");
  *pointer = std::malloc(std::max<std::size_t>(bytes, 1));
  require(*pointer, "out of memory");
  const std::lock_guard guard(pinned_lock);
  pinned[static_cast<const char*>(*pointer)] = bytes;
}
void release_host(void* pointer) {
  emulator::refuse_in_capture("release_host");
  const std::lock_guard guard(pinned_lock);
  pinned.erase(static_cast<const char*>(pointer));
  std::free(pointer);
}

using emulator::Mark;
using Event = std::shared_ptr<Mark>;
void event_create(void** event) {
  *event = new Event(std::make_shared<Mark>());
}
void event_record(void* event, Stream stream) {
  auto& mark = *static_cast<Event*>(event);
  if (emulator::keep_record(native(stream), mark)) return;
  mark = std::make_shared<Mark>(Mark{.reached = false});
  emulator::enqueue(native(stream),
                    [mark] { *mark = {.clock = emulator::publish_stream_clock(emulator::host_stream())}; });
}
void event_query(void* event, std::int32_t* done) {
  emulator::refuse_in_capture("event_query");
  emulator::refuse_captured(**static_cast<Event*>(event), "event_query");
  if (!(*static_cast<Event*>(event))->reached) emulator::go_on();
  *done = (*static_cast<Event*>(event))->reached;
}
void stream_wait(Stream stream, void* event) {
  const Event mark = *static_cast<Event*>(event);
  if (emulator::keep_wait(native(stream), mark)) return;
  emulator::enqueue(
      native(stream), [mark] { emulator::join_stream_clock(emulator::host_stream(), mark->clock); },
      [mark] { return mark->reached; });
}
void event_milliseconds(void* from, void* to, float* milliseconds) {
  emulator::refuse_in_capture("event_milliseconds");
  const Event &begin = *static_cast<Event*>(from), &end = *static_cast<Event*>(to);
  for (const Event& one : {begin, end}) emulator::refuse_captured(*one, "event_milliseconds");
  if (!end->reached) emulator::synchronize();
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
}
void event_destroy(void* event) {
  delete static_cast<Event*>(event);
}
void graph_begin(Stream stream) {
  emulator::begin_graph(native(stream));
}
void graph_end(Stream stream, void** graph) {
  *graph = nullptr;
  *graph = emulator::end_graph(native(stream));
}
void graph_launch(void* graph, Stream stream) {
  emulator::launch_graph(*static_cast<emulator::Graph*>(graph), native(stream));
}
void graph_destroy(void* graph) {
  emulator::destroy_graph(static_cast<emulator::Graph*>(graph));
}
void share_memory(void* pointer, char* handle) {
  const std::lock_guard guard(shared_lock);
  const auto found = shared_buffers.find(pointer);
  require(found != shared_buffers.end(), "the emulator shares whole buffers of 64 KiB and more");
  const Handle made{getpid(), found->second.file, found->second.bytes, pointer};
  std::memcpy(handle, &made, sizeof made);
}
void open_memory(const char* handle, void** pointer) {
  Handle from;
  std::memcpy(&from, handle, sizeof from);
  require(from.process != getpid(), "memory is not opened in the process that made it");
  const std::string path = "/proc/" + std::to_string(from.process) + "/fd/" + std::to_string(from.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  require(file >= 0, "no answer from process " + std::to_string(from.process) + ": " + std::strerror(errno));
  *pointer = map(file, from.bytes);
  emulator::register_global(*pointer, from.bytes);
}
void close_memory(void* pointer) {
  emulator::unregister_global(pointer);
  unmap(pointer);
}
void reach_device(std::int32_t) {}

}  // namespace device
}  // namespace longhaul::cuda
