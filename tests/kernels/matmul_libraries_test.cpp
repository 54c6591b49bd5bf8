// Who computes which matrix product: decided once, by measurement where asked, and kept.
#include "kernels/cpu/matmul_libraries.h"

#include <catch2/catch.hpp>

using namespace longhaul;
using namespace longhaul::cpu;

namespace {

MatmulProblem product(std::int64_t m, std::int64_t n, std::int64_t k, DType type = DType::float32) {
  return {.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n, .a = type, .b = type, .c = type};
}

std::string library(const MatmulProblem& problem, MatmulLibraries& libraries) {
  return Matmul(problem, 1, "", &libraries).backend();
}

}  // namespace

#if defined(LONGHAUL_WITH_ONEDNN) && defined(LONGHAUL_WITH_OPENBLAS)

TEST_CASE("a product's library is decided once and kept") {
  MatmulLibraries first;
  CHECK(library(product(3, 5, 7), first) == "onednn");
  CHECK(library(product(3, 5, 7, DType::bfloat16), first) == "onednn");
  CHECK(library(product(3, 5, 7, DType::float64), first) == "openblas");
  CHECK(first.decided() == MatmulLibraries::Table{{"nn 3x5x7 float32 -> float32, 1 thread", "onednn"},
                                                  {"nn 3x5x7 bfloat16 -> bfloat16, 1 thread", "onednn"},
                                                  {"nn 3x5x7 float64 -> float64, 1 thread", "openblas"}});

  MatmulLibraries resumed(MatmulLibraries::Choice::measured, "");
  resumed.decide({{"nn 3x5x7 float32 -> float32, 1 thread", "openblas"},
                  {"nn 512x512x512 float32 -> float32, 1 thread", "reference"}});  // which no measurement would find
  CHECK(library(product(3, 5, 7), resumed) == "openblas");
  CHECK(library(product(512, 512, 512), resumed) == "reference");
  CHECK(resumed.measured() == 0);
  resumed.decide({{"nn 3x5x7 float32 -> float32, 1 thread", "fastblas"}});  // another build's
  CHECK_THROWS_WITH(library(product(3, 5, 7), resumed), Catch::Contains("fastblas"));

  MatmulLibraries pinned(MatmulLibraries::Choice::first, "openblas");
  pinned.decide({{"nn 3x5x7 float32 -> float32, 1 thread", "onednn"}});
  CHECK(library(product(3, 5, 7), pinned) == "openblas");
  CHECK(library(product(3, 5, 7, DType::bfloat16), pinned) == "onednn");  // OpenBLAS has none
  CHECK(pinned.decided().at("nn 3x5x7 float32 -> float32, 1 thread") == "openblas");
}

TEST_CASE("large float32 products are measured, each once, and the slower library is not taken") {
  MatmulLibraries libraries(MatmulLibraries::Choice::measured, "");
  CHECK(library(product(64, 64, 64), libraries) == "onednn");
  CHECK(library(product(512, 512, 512, DType::bfloat16), libraries) == "onednn");
  CHECK(libraries.measured() == 0);
  const std::string once = library(product(400, 400, 400), libraries);
  CHECK((once == "onednn" || once == "openblas"));
  CHECK(libraries.measured() == 1);
  CHECK(libraries.seconds() > 0);
  CHECK(library(product(400, 400, 400), libraries) == once);
  CHECK(libraries.measured() == 1);
  // Of a product that would take hours a part is timed.
  MatmulProblem huge = product(1 << 20, 1 << 14, 1 << 12);
  huge.accumulate = true;
  CHECK_FALSE(libraries.choose(huge, 1).empty());
  CHECK(libraries.measured() == 2);
}

#endif

TEST_CASE("a library that does not multiply the run's dtype is refused by name") {
  CHECK_THROWS_WITH(
      require_matmul_library("openblas", DType::bfloat16, "training.matmul"),
      Catch::Contains("training.matmul is openblas") && Catch::Contains("bfloat16") && Catch::Contains("auto"));
  CHECK_THROWS_WITH(require_matmul_library("onednn", DType::float64, "training.matmul"),
                    Catch::Contains("training.matmul is onednn") && Catch::Contains("float64"));
}
