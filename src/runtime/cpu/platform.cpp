#include "runtime/cpu/platform.h"

#include "kernels/cpu/isa.h"
#include "kernels/cpu/library_versions.h"

namespace longhaul {

std::vector<std::pair<std::string, std::string>> cpu_libraries() {
  return cpu::library_versions();
}

std::string cpu_instruction_set() {
  return std::string(cpu::usable_isa().name);
}

std::string cpu_library_kernels() {
  return cpu::openblas_core();
}

}  // namespace longhaul
