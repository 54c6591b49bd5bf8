// The matrix on threads. The usual run holds a part in which, in float64, any family, split and data, or any three
// values of other dimensions, occur together, and in low precisions any two; all of it:
//   ctest --test-dir build -C matrix -L matrix --verbose
#include <catch2/catch.hpp>
#include <chrono>
#include <set>

#include "base/environment.h"
#include "base/sanitizers.h"
#include "covering.h"
#include "matrix.h"

namespace longhaul {
namespace {

using namespace testing;

CellIndex cell_index(std::size_t number) {
  const auto row = row_of_product(number, matrix_sizes());
  return {row[0], row[1], row[2], row[3], row[4]};
}

std::vector<std::size_t> sample() {
  auto sizes = matrix_sizes();
  const std::size_t dtypes = sizes.back();
  std::vector<std::size_t> chosen = covering(sizes, 2);
  std::erase_if(chosen, [&](std::size_t number) { return number % dtypes == 0; });
  sizes.pop_back();
  for (const std::size_t number : covering(sizes, 3)) chosen.push_back(number * dtypes);  // the first dtype is float64
  return chosen;
}

// The cells, each reference made once; one of so many again with its collectives beside computation, several a layer,
// which changes no bit.
Worst run_cells(const std::vector<std::size_t>& numbers, std::size_t again) {
  References references;
  Worst worst;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const CellIndex index = cell_index(numbers[i]);
    Cell cell = cell_of(index);
    std::string problem;
    const Outcome outcome = run_ranks(cell, problem);
    if (problem.empty()) problem = judge(index, cell, outcome, references, worst);
    INFO(name_of_cell(index));
    CHECK(problem == "");
    if (i % again != 0) continue;
    cell.overlap_memory = any_memory;
    cell.bucket_size = 1024;
    const Outcome beside = run_ranks(cell, problem);
    CHECK(problem == "");
    check_same_bits(beside, outcome);
  }
  return worst;
}

}  // namespace

TEST_CASE("a covering sample of the matrix equals the specification", "[threads]") {
  auto cells = sample();
#ifdef LONGHAUL_THREAD_SANITIZER  // what races does so in many cells, and each takes twenty times as long
  for (std::size_t i = 0; i < cells.size(); i += 4) cells[i / 4] = cells[i];
  cells.resize((cells.size() + 3) / 4);
#endif
  run_cells(cells, 4);
}

TEST_CASE("the whole matrix equals the specification", "[.matrix]") {
  std::size_t count = 1;
  for (const std::size_t size : matrix_sizes()) count *= size;
  std::vector<std::size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  const auto start = std::chrono::steady_clock::now();
  const Worst worst = run_cells(numbers, 1);
  fmt::print("{} cells in {:.0f} s, each twice\n", count,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  fmt::print("worst float64 error {:.3g}: {}\n", worst.value[0], worst.where[0]);
  for (const std::size_t dtype : {1, 2})
    fmt::print("worst {} error {:.3g} of what is allowed: {}\n", name_of(matrix_dtypes[dtype]), worst.value[dtype],
               worst.where[dtype]);
}

TEST_CASE("the sample covers what it says, and is a small part") {
  const auto sizes = matrix_sizes();
  const auto chosen = sample();
  CHECK(chosen.size() < 900);
  const auto covers = [&](const std::vector<std::size_t>& set, bool float64_only) {
    std::set<std::vector<std::size_t>> seen;
    std::size_t all = 1;
    for (const std::size_t d : set) all *= sizes[d];
    for (const std::size_t number : chosen) {
      const auto row = row_of_product(number, sizes);
      std::vector<std::size_t> values;
      for (const std::size_t d : set) values.push_back(row[d]);
      if (!float64_only || row.back() == 0) seen.insert(values);
    }
    return seen.size() == all;
  };
  for (const auto& pair : subsets(sizes.size(), 2)) CHECK(covers(pair, false));
  for (const auto& three : subsets(sizes.size() - 1, 3)) CHECK(covers(three, true));
}

TEST_CASE("no reference gradient is zero but those known to be") {
  for (const Family& family : families())
    for (const DataCase& data : data_cases()) {
      const Cell cell{.spec = family.spec,
                      .micro_batches = data.micro_batches,
                      .rows = data.rows,
                      .sequence = data.sequence,
                      .masking = data.masking};
      const Outcome reference = run_reference(cell);
      for (const auto& [name, values] : reference.gradients) {
        INFO(family.name << ", " << data.name << ": " << name);
        if (family.zero && name.ends_with(family.zero))
          CHECK(norm(values) < 1e-12);
        else
          CHECK(norm(values) > 1e-6);
      }
    }
}

TEST_CASE("the case of an ignored rank leaves rank 0 without a label, under every split") {
  for (std::size_t split = 0; split < all_splits().size(); ++split) {
    const Cell cell = cell_of({0, split, 0, 2, 0});
    const CompileRequest request = request_for(cell);
    const HostBatch batch = make_batch(cell.spec, cell.rows, cell.sequence, 0, cell.masking);
    INFO(all_splits()[split].name);
    if (cell.order == TokenOrder::balanced) continue;  // what a rank holds depends on the documents
    for (const std::int32_t index : token_order(request.mesh, request.options.placement, request.sequence, 0))
      CHECK(batch.labels[static_cast<std::size_t>(index)] == -100);
    CHECK(std::any_of(batch.labels.begin(), batch.labels.end(), [](std::int32_t label) { return label >= 0; }));
  }
}

}  // namespace longhaul
