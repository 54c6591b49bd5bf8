// expand_heads, reduce_heads, take_heads, put_heads, take_rows, join_rows, add_rows, put_rows. A rank holds one block
// of what the rows are of.
#include <algorithm>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

template <bool expand>
bool make_heads(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto &x = problem.operands[0], &y = problem.results[0];
  if (!bind::narrow(refusal, {&x, &y}) || !bind::fits(refusal, {x.shape[2], y.shape[2], x.shape[3]})) return false;
  const auto in = static_cast<std::int32_t>(x.shape[2]), out = static_cast<std::int32_t>(y.shape[2]);
  const cuda::Heads heads{
      x.shape[0] * x.shape[1], expand ? out : in,      expand ? in : out, static_cast<std::int32_t>(x.shape[3]),
      bind::type_of(x.dtype),  bind::type_of(y.dtype), nullptr,           nullptr};
  return bind::run(kernel, heads, bind::operands(&cuda::Heads::x), bind::results(&cuda::Heads::y),
                   expand ? &cuda::Api::expand_heads : &cuda::Api::reduce_heads);
}

// Elements of one row: the dimensions behind the second.
std::int64_t row_of(const TensorType& type) {
  return type.count() / std::max<std::int64_t>(1, type.shape[0] * type.shape[1]);
}
std::int64_t row_bytes(const TensorType& type) {
  return row_of(type) * static_cast<std::int64_t>(size_of(type.dtype));
}
// Heads of every block of a token's, between a tensor of all and one of some.
cuda::CopyEntry heads_entry(const DeviceProblem& problem, const TensorType& whole, const TensorType& part,
                            bool into_part) {
  const std::int64_t block = problem.op.attributes.integer("block"), blocks = whole.shape[2] / block,
                     heads = part.shape[2] / blocks,
                     bytes =
                         whole.bytes() / std::max<std::int64_t>(1, whole.shape[0] * whole.shape[1] * whole.shape[2]),
                     from = problem.op.attributes.integer("from") * bytes;
  const std::int64_t of_whole[2] = {whole.shape[2] * bytes, block * bytes},
                     of_part[2] = {part.shape[2] * bytes, heads * bytes};
  const auto &source = into_part ? of_whole : of_part, &target = into_part ? of_part : of_whole;
  return {reinterpret_cast<const void*>(into_part ? from : 0),
          reinterpret_cast<void*>(into_part ? 0 : from),
          {whole.shape[0] * whole.shape[1], blocks},
          heads * bytes,
          {source[0], source[1]},
          {target[0], target[1]}};
}
// `rows` rows of every batch element, from row `from` on of one tensor to row `to` of another.
cuda::CopyEntry rows_entry(const TensorType& source, std::int64_t from, const TensorType& target, std::int64_t to,
                           std::int64_t rows) {
  const std::int64_t bytes = row_bytes(source);
  return {reinterpret_cast<const void*>(from * bytes),
          reinterpret_cast<void*>(to * bytes),
          {1, source.shape[0]},
          rows * bytes,
          {0, source.shape[1] * bytes},
          {0, target.shape[1] * bytes}};
}
// Places in entries so far are offsets.
void placed(cuda::CopyEntry& entry, const void* source, void* target) {
  entry.from = static_cast<const char*>(source) + reinterpret_cast<std::intptr_t>(entry.from);
  entry.to = static_cast<char*>(target) + reinterpret_cast<std::intptr_t>(entry.to);
}

bool make_take_heads(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  kernel.run = [heads = heads_entry(problem, problem.operands[0], problem.results[0], true)](const DeviceCall& call) {
    cuda::CopyEntry one = heads;
    placed(one, call.operands[0], call.results[0]);
    call.context.succeed(call.context.api().copy_table(&one, 1, call.context.stream()));
  };
  return true;
}

bool make_put_heads(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  kernel.run = [heads = heads_entry(problem, problem.results[0], problem.operands[1], false)](const DeviceCall& call) {
    cuda::CopyEntry one = heads;
    placed(one, call.operands[1], call.results[0]);
    call.context.succeed(call.context.api().copy_table(&one, 1, call.context.stream()));
  };
  bind::copy_first(kernel, {{0, 0, problem.results[0].bytes()}});
  return true;
}

bool make_take(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  const auto &x = problem.operands[0], &y = problem.results[0];
  const cuda::CopyEntry rows = rows_entry(x, problem.op.attributes.integer("from"), y, 0, y.shape[1]);
  kernel.run = [rows](const DeviceCall& call) {
    cuda::CopyEntry one = rows;
    placed(one, call.operands[0], call.results[0]);
    call.context.succeed(call.context.api().copy_table(&one, 1, call.context.stream()));
  };
  return true;
}

bool make_join(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  std::vector<cuda::CopyEntry> rows;
  std::int64_t at = 0;
  for (const TensorType& part : problem.operands) {
    rows.push_back(rows_entry(part, 0, problem.results[0], at, part.shape[1]));
    at += part.shape[1];
  }
  kernel.run = [rows](const DeviceCall& call) {
    std::vector<cuda::CopyEntry> all = rows;
    for (std::size_t i = 0; i < all.size(); ++i) placed(all[i], call.operands[i], call.results[0]);
    call.context.succeed(
        call.context.api().copy_table(all.data(), static_cast<std::int32_t>(all.size()), call.context.stream()));
  };
  return true;
}

bool make_put(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  const auto &x = problem.results[0], &part = problem.operands[1];
  const cuda::CopyEntry rows = rows_entry(part, 0, x, problem.op.attributes.integer("from"), part.shape[1]);
  kernel.run = [rows](const DeviceCall& call) {
    cuda::CopyEntry one = rows;
    placed(one, call.operands[1], call.results[0]);
    call.context.succeed(call.context.api().copy_table(&one, 1, call.context.stream()));
  };
  bind::copy_first(kernel, {{0, 0, x.bytes()}});
  return true;
}

bool make_add(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto &x = problem.results[0], &part = problem.operands[1];
  if (!bind::narrow(refusal, {&x, &part})) return false;
  if (x.dtype != part.dtype) {
    refusal = "rows of two dtypes";
    return false;
  }
  const cuda::AddRows add{
      x.shape[0], x.shape[1], part.shape[1], problem.op.attributes.integer("from"), row_of(x), bind::type_of(x.dtype),
      nullptr,    nullptr};
  bind::run(kernel, add, bind::operands(bind::skip, &cuda::AddRows::part), bind::results(&cuda::AddRows::x),
            &cuda::Api::add_rows);
  bind::copy_first(kernel, {{0, 0, x.bytes()}});
  return true;
}

const DeviceKernels expand("expand_heads", bind::generic(make_heads<true>));
const DeviceKernels reduce("reduce_heads", bind::generic(make_heads<false>));
const DeviceKernels take_some("take_heads", bind::generic(make_take_heads));
const DeviceKernels put_some("put_heads", bind::generic(make_put_heads));
const DeviceKernels take("take_rows", bind::generic(make_take));
const DeviceKernels join("join_rows", bind::generic(make_join));
const DeviceKernels add("add_rows", bind::generic(make_add));
const DeviceKernels put("put_rows", bind::generic(make_put));

}  // namespace
}  // namespace longhaul
