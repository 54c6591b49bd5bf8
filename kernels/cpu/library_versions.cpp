#include "kernels/cpu/library_versions.h"

#include <fmt/format.h>
#ifdef LONGHAUL_WITH_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif
#ifdef LONGHAUL_WITH_OPENBLAS
#include <cblas.h>
#endif

namespace longhaul::cpu {

namespace {

std::vector<std::pair<std::string, std::string>> find_versions() {
  std::vector<std::pair<std::string, std::string>> versions;
#ifdef LONGHAUL_WITH_ONEDNN
  const dnnl_version_t* version = dnnl_version();
  versions.emplace_back("oneDNN", fmt::format("{}.{}.{} ({})", version->major, version->minor, version->patch,
                                              std::string(version->hash).substr(0, 10)));
#endif
#ifdef LONGHAUL_WITH_OPENBLAS
  // "OpenBLAS 0.3.21 DYNAMIC_ARCH NO_AFFINITY USE_OPENMP SkylakeX MAX_THREADS=128": the core is the machine's.
  std::string config = openblas_get_config(), kept;
  const std::string core = openblas_core();
  for (std::size_t begin = 0; begin < config.size();) {
    const std::size_t end = std::min(config.find(' ', begin), config.size());
    const std::string word = config.substr(begin, end - begin);
    if (!word.empty() && word != core && word != "OpenBLAS") kept += (kept.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  versions.emplace_back("OpenBLAS", kept);
#endif
  return versions;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> library_versions() {
  // Once: OpenBLAS writes its answer into memory of its own, and ranks that are threads ask at one time.
  static const auto versions = find_versions();
  return versions;
}

std::string openblas_core() {
#ifdef LONGHAUL_WITH_OPENBLAS
  return openblas_get_corename();
#else
  return "";
#endif
}

}  // namespace longhaul::cpu
