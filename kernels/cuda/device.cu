// An NVIDIA GPU as a device: memory, streams, events, and memory shared between processes.
#include "kernels/cuda/device.h"

#include <cstdio>
#include <cstring>

namespace longhaul::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CallError(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace

bool has_hopper_kernels() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  return major == 9 && minor == 0;
}

namespace device {

const char* backend_name() {
  return "cuda";
}
void count(std::int32_t* devices) {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status == cudaErrorInsufficientDriver)  // also where there is none
    throw CallError("no NVIDIA driver is here, or one older than this library's CUDA needs");
  check(status, "no CUDA device can be used");
  *devices = n;
}
void select(std::int32_t device) {
  check(cudaSetDevice(device), "cudaSetDevice");
}
void info(DeviceInfo* to) {
  int device = 0;
  cudaDeviceProp properties;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  *to = {};
  for (std::size_t i = 0; i + 1 < sizeof to->name && properties.name[i]; i++) to->name[i] = properties.name[i];
  for (std::size_t i = 0; i < sizeof properties.uuid.bytes; i++)
    std::snprintf(to->uuid + 2 * i, 3, "%02x", static_cast<unsigned char>(properties.uuid.bytes[i]));
  to->capability_major = properties.major, to->capability_minor = properties.minor;
  to->multiprocessors = properties.multiProcessorCount;
  to->memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  to->shared_bytes_per_block = static_cast<std::int64_t>(properties.sharedMemPerBlockOptin);
  to->level2_bytes = properties.l2CacheSize;
}
void memory_info(std::int64_t* free_bytes, std::int64_t* total_bytes) {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  *free_bytes = static_cast<std::int64_t>(free), *total_bytes = static_cast<std::int64_t>(total);
}
void allocate(void** pointer, std::size_t bytes) {
  check(cudaMalloc(pointer, bytes), "cudaMalloc");
}
void release(void* pointer) {
  check(cudaFree(pointer), "cudaFree");
}
void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native(stream)), "cudaMemcpyAsync");
}
void fill(void* to, std::int32_t byte, std::size_t bytes, Stream stream) {
  check(cudaMemsetAsync(to, byte, bytes, native(stream)), "cudaMemsetAsync");
}
void stream_create(Stream* stream) {
  cudaStream_t created;
  check(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "cudaStreamCreate");
  *stream = created;
}
void urgent_stream_create(Stream* stream) {
  int least = 0, most = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &most), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t created;
  check(cudaStreamCreateWithPriority(&created, cudaStreamNonBlocking, most), "cudaStreamCreateWithPriority");
  *stream = created;
}
void stream_destroy(Stream stream) {
  check(cudaStreamDestroy(native(stream)), "cudaStreamDestroy");
}
void stream_synchronize(Stream stream) {
  check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}
void stream_query(Stream stream, std::int32_t* done) {
  const cudaError_t status = cudaStreamQuery(native(stream));
  *done = status == cudaSuccess;
  if (status != cudaErrorNotReady) check(status, "cudaStreamQuery");
}
void synchronize() {
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void allocate_host(void** pointer, std::size_t bytes) {
  check(cudaMallocHost(pointer, bytes), "cudaMallocHost");
}
void release_host(void* pointer) {
  check(cudaFreeHost(pointer), "cudaFreeHost");
}

void event_create(void** event) {
  cudaEvent_t created;
  check(cudaEventCreate(&created), "cudaEventCreate");
  *event = created;
}
void event_record(void* event, Stream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), native(stream)), "cudaEventRecord");
}
void event_query(void* event, std::int32_t* done) {
  const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(event));
  *done = status == cudaSuccess;
  if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
}
void stream_wait(Stream stream, void* event) {
  check(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event), 0), "cudaStreamWaitEvent");
}
void event_milliseconds(void* from, void* to, float* milliseconds) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(to)), "cudaEventSynchronize");
  check(cudaEventElapsedTime(milliseconds, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)),
        "cudaEventElapsedTime");
}
void event_destroy(void* event) {
  check(cudaEventDestroy(static_cast<cudaEvent_t>(event)), "cudaEventDestroy");
}

void graph_begin(Stream stream) {
  // Of this thread alone: others may ask about events of theirs meanwhile.
  check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}
void graph_end(Stream stream, void** graph) {
  *graph = nullptr;
  cudaGraph_t captured = nullptr;
  check(cudaStreamEndCapture(native(stream), &captured), "cudaStreamEndCapture");
  cudaGraphExec_t made = nullptr;
  // Kernels keep the priority of the stream that they were given to.
  const cudaError_t status = cudaGraphInstantiate(&made, captured, cudaGraphInstantiateFlagUseNodePriority);
  (void)cudaGraphDestroy(captured);
  check(status, "cudaGraphInstantiate");
  const cudaError_t uploaded = cudaGraphUpload(made, native(stream));
  if (uploaded != cudaSuccess) (void)cudaGraphExecDestroy(made);
  check(uploaded, "cudaGraphUpload");
  *graph = made;
}
void graph_launch(void* graph, Stream stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), native(stream)), "cudaGraphLaunch");
}
void graph_destroy(void* graph) {
  check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy");
}

void share_memory(void* pointer, char* handle) {
  static_assert(sizeof(cudaIpcMemHandle_t) == 64);
  check(cudaIpcGetMemHandle(reinterpret_cast<cudaIpcMemHandle_t*>(handle), pointer), "cudaIpcGetMemHandle");
}
void open_memory(const char* handle, void** pointer) {
  cudaIpcMemHandle_t copy;
  std::memcpy(&copy, handle, sizeof copy);
  check(cudaIpcOpenMemHandle(pointer, copy, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
}
void reach_device(std::int32_t device) {
  int own = 0, possible = 0;
  check(cudaGetDevice(&own), "cudaGetDevice");
  if (device == own) return;
  check(cudaDeviceCanAccessPeer(&possible, own, device), "cudaDeviceCanAccessPeer");
  require(possible, "device " + std::to_string(own) + " cannot reach the memory of device " + std::to_string(device));
  const cudaError_t status = cudaDeviceEnablePeerAccess(device, 0);
  if (status == cudaErrorPeerAccessAlreadyEnabled)
    (void)cudaGetLastError();  // not to be found by a later call
  else
    check(status, "cudaDeviceEnablePeerAccess");
}
void close_memory(void* pointer) {
  check(cudaIpcCloseMemHandle(pointer), "cudaIpcCloseMemHandle");
}

}  // namespace device
}  // namespace longhaul::cuda

namespace longhaul::gpu {

void report_launch_error(cudaError_t error, const void* kernel, int threads, std::size_t shared_bytes) {
  const char* name = "a kernel";
  if (cudaFuncGetName(&name, kernel) != cudaSuccess) name = "a kernel";
  throw cuda::CallError("launch of " + std::string(name) + " with " + std::to_string(threads) + " threads and " +
                        std::to_string(shared_bytes) + " bytes of shared memory: " + cudaGetErrorString(error));
}

}  // namespace longhaul::gpu
