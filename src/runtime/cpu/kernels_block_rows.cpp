// take_rows, join_rows, add_rows, put_rows. A rank holds one block; on one device a tensor holds them all.
#include "kernels/cpu/block_rows.h"

#include "kernels/cpu/copy_blocks.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

std::int64_t blocks_of(const CpuProblem& problem) {
  return problem.single_device ? problem.op.attributes.integer("blocks", 1) : 1;
}
// Elements of one row: the dimensions behind the second.
std::int64_t row_of(const TensorType& type) {
  return type.count() / std::max<std::int64_t>(1, type.shape[0] * type.shape[1]);
}
std::int64_t row_bytes(const TensorType& type) {
  return row_of(type) * static_cast<std::int64_t>(size_of(type.dtype));
}

// Rows of every batch element, copied between tensors that hold different numbers of them.
struct Place {
  std::int64_t batch, rows_in_source, rows_in_target, row_bytes;
};
void copy_rows(ThreadPool& pool, const Place& place, const void* source, std::int64_t source_row, void* target,
               std::int64_t target_row, std::int64_t rows) {
  cpu::BlockCopy copy{static_cast<const char*>(source) + source_row * place.row_bytes,
                      static_cast<char*>(target) + target_row * place.row_bytes,
                      {1, 1, 1, place.batch},
                      {0, 0, 0, place.rows_in_source * place.row_bytes},
                      {0, 0, 0, place.rows_in_target * place.row_bytes},
                      rows * place.row_bytes};
  cpu::copy_blocks(pool, copy);
}

bool make_take(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::int64_t blocks = blocks_of(problem), from = problem.op.attributes.integer("from");
  const Place place{problem.operands[0].shape[0], problem.operands[0].shape[1], problem.results[0].shape[1],
                    row_bytes(problem.operands[0])};
  kernel.run = [=](const CpuCall& call) {
    const std::int64_t held = place.rows_in_source / blocks, taken = place.rows_in_target / blocks;
    for (std::int64_t i = 0; i < blocks; ++i)
      copy_rows(call.context.pool(), place, call.operands[0], i * held + from, call.results[0], i * taken, taken);
  };
  return true;
}

bool make_join(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::int64_t blocks = blocks_of(problem), joined = problem.results[0].shape[1] / blocks;
  const std::vector<double> steps = problem.op.attributes.numbers("steps");
  std::vector<Place> places;
  for (const TensorType& operand : problem.operands)
    places.push_back({operand.shape[0], operand.shape[1], problem.results[0].shape[1], row_bytes(operand)});
  kernel.run = [=](const CpuCall& call) {
    std::int64_t at = 0;
    for (std::size_t k = 0; k < places.size(); ++k) {
      const std::int64_t rows = places[k].rows_in_source / blocks, step = static_cast<std::int64_t>(steps[k]);
      for (std::int64_t i = 0; i < blocks; ++i)
        copy_rows(call.context.pool(), places[k], call.operands[k], ((i - step) % blocks + blocks) % blocks * rows,
                  call.results[0], i * joined + at, rows);
      at += rows;
    }
  };
  return true;
}

bool make_put(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto &x = problem.results[0], &part = problem.operands[1];
  const std::int64_t blocks = blocks_of(problem), from = problem.op.attributes.integer("from");
  const Place place{x.shape[0], part.shape[1], x.shape[1], row_bytes(x)};
  kernel.run = [=](const CpuCall& call) {
    const std::int64_t held = place.rows_in_target / blocks, put = place.rows_in_source / blocks;
    for (std::int64_t i = 0; i < blocks; ++i)
      copy_rows(call.context.pool(), place, call.operands[1], i * put, call.results[0], i * held + from, put);
  };
  bind::copy_first(kernel, {{0, 0, x.bytes()}});
  return true;
}

bool make_add(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto &x = problem.results[0], &part = problem.operands[1];
  const std::int64_t blocks = blocks_of(problem);
  const cpu::AddRows add{x.dtype,
                         nullptr,
                         nullptr,
                         x.shape[0],
                         blocks,
                         x.shape[1] / blocks,
                         part.shape[1] / blocks,
                         row_of(x),
                         problem.op.attributes.integer("from"),
                         blocks == 1 ? 0 : problem.op.attributes.integer("step")};
  bind::run(kernel, add, bind::operands(bind::skip, &cpu::AddRows::part), bind::results(&cpu::AddRows::x),
            cpu::add_rows);
  bind::copy_first(kernel, {{0, 0, x.bytes()}});
  return true;
}

const CpuKernels take("take_rows", bind::only(make_take));
const CpuKernels join("join_rows", bind::only(make_join));
const CpuKernels add("add_rows", bind::only(make_add));
const CpuKernels put("put_rows", bind::only(make_put));

}  // namespace
}  // namespace longhaul
