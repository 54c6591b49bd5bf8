// Instruction sets: registered by their own files, and capped by LONGHAUL_ISA everywhere.
#include "kernels/cpu/isa.h"

#include <fmt/format.h>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <set>
#include <sstream>

#include "base/environment.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vector_table.h"

using namespace longhaul;
using namespace longhaul::cpu;
namespace fs = std::filesystem;

namespace {

std::string output_of(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe);
  std::string text;
  for (int c; (c = fgetc(pipe)) != EOF;) text += static_cast<char>(c);
  pclose(pipe);
  return text;
}

}  // namespace

TEST_CASE("every instruction set of kernels/cpu is registered, widest first, and documented") {
  std::set<std::string> files, names;
  for (const auto& file : fs::directory_iterator(fs::path(environment("LONGHAUL_SOURCE")) / "kernels/cpu"))
    if (const std::string name = file.path().stem().string(); name.starts_with("isa_")) files.insert(name.substr(4));
  std::ifstream in(fs::path(environment("LONGHAUL_SOURCE")) / "docs/environment.md");
  std::stringstream documentation;
  documentation << in.rdbuf();
  for (const InstructionSet& set : instruction_sets()) {
    names.insert(set.name);
    INFO(set.name);
    CHECK(documentation.str().find(fmt::format("`{}`", set.name)) != std::string::npos);
  }
#if defined(__x86_64__)
  CHECK(names == files);
#endif
  REQUIRE(instruction_sets().size() >= 2);
  CHECK(std::string(instruction_sets().back().name) == "generic");
  for (std::size_t i = 1; i < instruction_sets().size(); ++i)
    CHECK(instruction_sets()[i - 1].order > instruction_sets()[i].order);
  CHECK_THROWS(InstructionSetRegistration({.name = "twice", .order = 0, .supported = [] { return false; }}));
}

TEST_CASE("LONGHAUL_ISA caps the vector loops, attention and the measured peak") {
  for (const InstructionSet& set : instruction_sets()) {
    if (!set.supported()) continue;
    setenv("LONGHAUL_ISA", set.name, 1);
    for (const InstructionSet& other : instruction_sets())
      CHECK(usable(other) == (other.supported() && other.order <= set.order));
    CHECK(&usable_isa() == &set);
    unsetenv("LONGHAUL_ISA");
    if (!set.vectors) continue;
    // The vector loops are chosen once a process.
    const std::string program = environment("LONGHAUL_BINARY");
    const std::string text = output_of(fmt::format(
        "LONGHAUL_ISA={} {} bench kernels --check-only --op rms_norm --shape 'rows=3 d=5 dtype=float32,bfloat16'",
        set.name, program));
    INFO(text);
    CHECK(text.find(fmt::format(", vector loops {};", set.name)) != std::string::npos);
    std::size_t rows = 0;
    for (std::size_t at = 0; (at = text.find(fmt::format(" {} ", set.name), at)) != std::string::npos; ++at)
      if (text[text.find_first_not_of(' ', at + 1 + std::string_view(set.name).size())] == 'e') ++rows;  // "error"
    CHECK(rows == 2);
  }
  setenv("LONGHAUL_ISA", "avx9", 1);
  CHECK_THROWS_WITH(usable_isa(), Catch::Contains("avx9") && Catch::Contains("generic"));
  unsetenv("LONGHAUL_ISA");
}
