// What computes on this machine's CPU, for records and comparisons. Only src/run/target.cpp includes it from above.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace longhaul {

/// Libraries of matrix products in this build with their versions: ("oneDNN", "2.6.0").
std::vector<std::pair<std::string, std::string>> cpu_libraries();
/// The instruction set of our kernels, which LONGHAUL_ISA may lower ("avx2").
std::string cpu_instruction_set();
/// The processor for which OpenBLAS has chosen its kernels ("SkylakeX"); empty without OpenBLAS.
std::string cpu_library_kernels();

}  // namespace longhaul
