// What the build of the device kernels refuses: check_ptxas.sh is given reports that a compiler might print.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace longhaul {
namespace {

// Exit status of the launcher around a compiler that prints `report` and makes its output file.
int launch_with(const std::string& report, int compiler_status = 0) {
  char pattern[] = "/tmp/longhaul_ptxas_XXXXXX";
  const std::filesystem::path folder = mkdtemp(pattern);
  std::ofstream(folder / "report") << report;
  std::ofstream(folder / "compiler") << "#!/bin/sh\ncat " << (folder / "report") << " >&2\ntouch " << (folder / "x.o")
                                     << "\nexit " << compiler_status << "\n";
  std::filesystem::permissions(folder / "compiler", std::filesystem::perms::owner_all);
  const std::string command = std::string(LONGHAUL_CHECK_PTXAS) + " " + (folder / "compiler").string() +
                              " -c x.cu -o " + (folder / "x.o").string() + " >/dev/null 2>&1";
  const int status = std::system(command.c_str());
  const bool object = std::filesystem::exists(folder / "x.o");
  std::filesystem::remove_all(folder);
  CHECK(object == (status == 0 || compiler_status != 0));
  return WEXITSTATUS(status);
}
const char* clean =
    "ptxas info    : Compiling entry function '_Z17attention_forwardv' for 'sm_90a'\n"
    "ptxas info    : Function properties for _Z17attention_forwardv\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 16 barriers\n";

}  // namespace

TEST_CASE("the build refuses spills in attention kernels and serialised wgmma") {
  CHECK(launch_with(clean) == 0);
  CHECK(launch_with(clean, 3) == 3);
  CHECK(launch_with(std::string(clean) +
                    "ptxas info    : Compiling entry function '_Z18attention_backwardv' for 'sm_80'\n"
                    "    16 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads\n") == 1);
  CHECK(
      launch_with(std::string(clean) +
                  "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due "
                  "to insufficient register resources for the wgmma pipeline in the function "
                  "'_Z17attention_forwardv'\n") == 1);
  CHECK(launch_with(std::string(clean) +
                    "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored\n") == 1);
  // A spill elsewhere costs time, not correctness, and is left to the benchmark.
  CHECK(launch_with("ptxas info    : Compiling entry function '_Z4ropev' for 'sm_80'\n"
                    "    8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n") == 0);
}

}  // namespace longhaul
