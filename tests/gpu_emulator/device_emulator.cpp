// Kernel tests on the emulator.
#include <stdexcept>

#include "tests/gpu_emulator/device_under_test.h"
#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::test {

const cuda::Api& device() {
  return *longhaul_cuda_api();
}

void succeed(int status) {
  if (status) {
    const std::string message = device().last_error();
    emulator::discard_queues();
    throw std::runtime_error(message);
  }
}

std::vector<std::string> device_arguments() {
  return {"--wave", std::to_string(emulator::options.wave)};
}

void for_each_schedule(int schedules, const std::function<void()>& body) {
  const emulator::Options before = emulator::options;
  struct Restore {
    emulator::Options options;
    ~Restore() { emulator::options = options; }
  } restore{before};
  for (int i = 0; i < schedules; i++) {
    emulator::options.seed = before.seed + static_cast<unsigned>(i);
    emulator::options.resident = 1 + i % 3;
    body();
  }
}

}  // namespace longhaul::test
