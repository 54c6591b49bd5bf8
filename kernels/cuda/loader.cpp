#include "kernels/cuda/loader.h"

#include <dlfcn.h>

#include <filesystem>
#include <mutex>
#include <vector>

#include "base/environment.h"
#include "base/error.h"

namespace longhaul::cuda {
namespace {

std::vector<std::string> places(Backend backend) {
  const std::string name = backend == Backend::cuda ? "liblonghaul_cuda.so" : "liblonghaul_cuda_emulator.so";
  std::vector<std::string> result;
  const std::string chosen = environment("LONGHAUL_CUDA_LIBRARY");
  if (backend == Backend::cuda && !chosen.empty()) return {chosen};
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const char* beside :
       {"", "../lib", "kernels/cuda", "tests/gpu_emulator", "../../kernels/cuda", "gpu_emulator", "../kernels/cuda"})
    result.push_back((program / beside / name).lexically_normal().string());
  result.push_back(name);
  return result;
}

struct Opened {
  const Api* api = nullptr;
  std::string reason;
};
Opened open(Backend backend) {
  Opened result;
  for (const std::string& path : places(backend)) {
    if (path.find('/') != std::string::npos && !std::filesystem::exists(path)) {
      result.reason = path + " does not exist";
      continue;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      result.reason = dlerror();
      if (path.find('/') == std::string::npos) break;
      return result;  // it is there and cannot be opened: that is the reason, not a later place
    }
    const auto function = reinterpret_cast<const Api* (*)()>(dlsym(library, "longhaul_cuda_api"));
    if (!function) return {nullptr, path + " is not a library of Longhaul's device kernels"};
    const Api* api = function();
    if (api->version != kApiVersion)
      return {nullptr, fmt::format("{} has interface version {}, this program needs {}: build both together", path,
                                   api->version, kApiVersion)};
    if (std::string_view(api->name) != (backend == Backend::cuda ? "cuda" : "emulator"))
      return {nullptr, fmt::format("{} is the library of the {}", path, api->name)};
    return {api, ""};
  }
  return result;
}

}  // namespace

const Api* open_backend(Backend backend, std::string& why_not) {
  static std::mutex mutex;
  static Opened opened[2];
  static bool tried[2];
  const std::lock_guard guard(mutex);
  const int which = static_cast<int>(backend);
  if (!tried[which]) opened[which] = open(backend), tried[which] = true;
  why_not = opened[which].reason;
  return opened[which].api;
}

const Api& require_backend(Backend backend) {
  const char* name = backend == Backend::cuda ? "CUDA" : "emulator";
  std::string reason;
  const Api* api = open_backend(backend, reason);
  if (!api)
    fail(
        "the {} back end is not available: {}. Build it with nvcc (CUDA 13) on the path, or give its file in "
        "LONGHAUL_CUDA_LIBRARY, or use the CPU back end.",
        name, reason);
  std::int32_t devices = 0;
  if (api->device_count(&devices) || devices == 0)
    fail("the {} back end has no device: {}. Use the CPU back end, or see that the NVIDIA driver is installed.", name,
         devices == 0 && *api->last_error() == 0 ? "none found" : api->last_error());
  return *api;
}

}  // namespace longhaul::cuda
