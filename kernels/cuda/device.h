// Devices, memory, streams and the libraries behind them: what differs between a GPU (device.cu, libraries.cu) and the
// emulator (tests/gpu_emulator/emulator/device.cpp). Errors are thrown as CallError.
#pragma once
#include "kernels/cuda/launch.h"

namespace longhaul::cuda::device {

const char* backend_name();
void count(std::int32_t* devices);
void select(std::int32_t device);
void info(DeviceInfo* to);
void memory_info(std::int64_t* free_bytes, std::int64_t* total_bytes);
void allocate(void** pointer, std::size_t bytes);
void release(void* pointer);
void copy(void* to, const void* from, std::size_t bytes, Stream stream);
void fill(void* to, std::int32_t byte, std::size_t bytes, Stream stream);
void stream_create(Stream* stream);
void urgent_stream_create(Stream* stream);
void stream_destroy(Stream stream);
void stream_synchronize(Stream stream);
void stream_query(Stream stream, std::int32_t* done);
void synchronize();
void allocate_host(void** pointer, std::size_t bytes);
void release_host(void* pointer);
void event_create(void** event);
void event_record(void* event, Stream stream);
void event_query(void* event, std::int32_t* done);
void stream_wait(Stream stream, void* event);
void event_milliseconds(void* from, void* to, float* milliseconds);
void event_destroy(void* event);
void graph_begin(Stream stream);
/// Throws with `graph` null where what was kept cannot be launched.
void graph_end(Stream stream, void** graph);
void graph_launch(void* graph, Stream stream);
void graph_destroy(void* graph);
void share_memory(void* pointer, char* handle);
void open_memory(const char* handle, void** pointer);
void reach_device(std::int32_t device);
void close_memory(void* pointer);

/// Fills in what vendor libraries do.
void add_libraries(Api& api);
void add_nccl(Api& api);

}  // namespace longhaul::cuda::device
namespace longhaul::cuda {

/// Of the calling thread; api.cu counts for both back ends.
extern thread_local constinit Counters counters;

/// Runs a call and turns what it throws into last_error().
template <auto function>
struct Guarded;
const char* last_error();
int report(const char* message);
template <typename... Arguments, void (*function)(Arguments...)>
struct Guarded<function> {
  static int call(Arguments... arguments) {
    try {
      function(arguments...);
      return 0;
    } catch (const std::exception& error) {
      return report(error.what());
    }
  }
};
/// The same for a function that takes its call by reference and is given a pointer.
template <auto function>
struct GuardedCall;
template <typename Call, void (*function)(const Call&, Stream)>
struct GuardedCall<function> {
  static int call(const Call* arguments, Stream stream) {
    try {
      function(*arguments, stream);
      return 0;
    } catch (const std::exception& error) {
      return report(error.what());
    }
  }
};

}  // namespace longhaul::cuda
