// Which libraries compute matrix products in this process.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace longhaul::cpu {

/// Name and version of each in this build: ("oneDNN", "2.6.0"). The same on every machine that has the same library.
std::vector<std::pair<std::string, std::string>> library_versions();

/// The processor for which OpenBLAS has chosen its kernels on this machine ("SkylakeX"); empty without OpenBLAS.
std::string openblas_core();

}  // namespace longhaul::cpu
