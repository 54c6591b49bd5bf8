// Kernel tests on a GPU, through the library that longhaul itself would open.
#include <stdexcept>

#include "kernels/cuda/loader.h"
#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {

const cuda::Api& device() {
  static const cuda::Api& api = cuda::require_backend(cuda::Backend::cuda);
  return api;
}

void succeed(int status) {
  if (status) throw std::runtime_error(device().last_error());
}

std::vector<std::string> device_arguments() {
  return {};
}

void for_each_schedule(int, const std::function<void()>& body) {
  // Twice: what depends on the order of things shows as a difference.
  body();
  body();
}

}  // namespace longhaul::test
