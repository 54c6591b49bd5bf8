// Generic kernels that take an element, a row or a head at a time, and the tables of copies: errors against plain loops
// in double on all results, bytes what must move at least.
#include "kernels/cuda/bench/values.h"

namespace longhaul::cuda::bench {
namespace {

Measurement add(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Type type = type_of(shape);
  const Values a(context, type, count, 1), b(context, type, count, 2);
  const Room y(context, type, count);
  Add call{};
  call.count = count, call.type = type, call.inputs = 2, call.y = y.device;
  call.x[0] = a.device, call.x[1] = b.device;
  Measurement m = measured(context, call, &Api::add, 3 * bytes_of(type) * static_cast<double>(count), bound_of(type));
  std::vector<double> want = a.wide();
  for (std::size_t i = 0; i < y.count; i++) want[i] += b.host[i];
  m.error = y.error(want);
  return m;
}

Measurement scale(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  const Type type = type_of(shape);
  const Values x(context, type, count, 1);
  const Room y(context, type, count);
  const Scale call{count, type, 0.75f, x.device, y.device, nullptr};
  Measurement m = measured(context, call, &Api::scale, 2 * bytes_of(type) * static_cast<double>(count), bound_of(type));
  std::vector<double> want = x.wide();
  for (double& value : want) value *= 0.75;
  m.error = y.error(want);
  return m;
}

Measurement add_bias(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Type type = type_of(shape);
  const Values x(context, type, rows * columns, 1), bias(context, Type::float32, columns, 2);
  const Room y(context, type, rows * columns);
  const AddBias call{rows, columns, type, Type::float32, x.device, bias.device, y.device};
  Measurement m =
      measured(context, call, &Api::add_bias, 2 * bytes_of(type) * static_cast<double>(rows * columns), bound_of(type));
  std::vector<double> want = x.wide();
  for (std::size_t i = 0; i < want.size(); i++) want[i] += bias.host[i % bias.host.size()];
  m.error = y.error(want);
  return m;
}

Measurement column_sums(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), columns = shape.number("columns");
  const Type type = type_of(shape);
  const Values x(context, type, rows * columns, 1);
  const Room out(context, Type::float32, columns);
  const ColumnSums call{rows,
                        columns,
                        type,
                        Type::float32,
                        x.device,
                        out.device,
                        context.allocate(context.api.column_sums_workspace(rows, columns))};
  Measurement m =
      measured(context, call, &Api::column_sums, bytes_of(type) * static_cast<double>(rows * columns), 1e-5);
  std::vector<double> want(out.count, 0.0);
  for (std::size_t i = 0; i < x.host.size(); i++) want[i % want.size()] += x.host[i];
  m.error = out.error(want);
  return m;
}

Measurement heads(Context& context, const Shape& shape, bool expand) {
  const std::int64_t rows = shape.number("s"), many = shape.number("h"), few = shape.number("g"), d = shape.number("d");
  const Type type = type_of(shape);
  const Values x(context, type, rows * (expand ? few : many) * d, 1);
  const Room y(context, type, rows * (expand ? many : few) * d);
  const Heads call{rows,
                   static_cast<std::int32_t>(many),
                   static_cast<std::int32_t>(few),
                   static_cast<std::int32_t>(d),
                   type,
                   type,
                   x.device,
                   y.device};
  Measurement m = measured(context, call, expand ? &Api::expand_heads : &Api::reduce_heads,
                           bytes_of(type) * static_cast<double>(rows * (many + few) * d), expand ? 0 : bound_of(type));
  std::vector<double> want(y.count, 0.0);
  for (std::int64_t i = 0; i < rows * many * d; i++) {  // element i of the many heads
    const auto at = static_cast<std::size_t>(i), shared = static_cast<std::size_t>(i / d / (many / few) * d + i % d);
    if (expand)
      want[at] = x.host[shared];
    else
      want[shared] += x.host[at];
  }
  m.error = y.error(want);
  return m;
}

Measurement add_rows(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows"), part_rows = shape.number("part"), first = shape.number("first"),
                     width = shape.number("columns");
  const Type type = type_of(shape);
  const Values before(context, type, rows * width, 1), part(context, type, part_rows * width, 2);
  const Room x(context, type, rows * width);
  const AddRows call{1, rows, part_rows, first, width, type, part.device, x.device};
  const auto bytes = static_cast<std::size_t>(bytes_of(type)) * x.count;
  Measurement m = measured(context, call, &Api::add_rows, 3 * bytes_of(type) * static_cast<double>(part_rows * width),
                           bound_of(type));
  context.succeed(context.api.copy(x.device, before.device, bytes, nullptr));
  context.succeed(context.api.add_rows(&call, nullptr));
  std::vector<double> want = before.wide();
  for (std::size_t i = 0; i < part.host.size(); i++) want[static_cast<std::size_t>(first * width) + i] += part.host[i];
  m.error = x.error(want);
  return m;
}

// Heads to ranks, as an all-to-all packs them, by a table that lies on the host or in device memory.
Measurement copies(Context& context, const Shape& shape, bool on_the_device) {
  const std::int64_t rows = shape.number("s"), heads = shape.number("h"), d = shape.number("d"),
                     ranks = shape.number("ranks"), part = heads / ranks * d;
  const Values x(context, Type::float32, rows * heads * d, 1);
  const Room y(context, Type::float32, rows * heads * d);
  std::vector<CopyEntry> table;
  for (std::int64_t rank = 0; rank < ranks; rank++)
    table.push_back({static_cast<const float*>(x.device) + rank * part,
                     y.floats() + rank * rows * part,
                     {1, rows},
                     4 * part,
                     {0, 4 * heads * d},
                     {0, 4 * part}});
  const auto entries = static_cast<std::int32_t>(table.size());
  const CopyEntry* const there = on_device(context, table);
  Measurement m;
  context.time(m, [&] {
    context.succeed(on_the_device ? context.api.copy_entries(there, entries, 4 * rows * part, nullptr)
                                  : context.api.copy_table(table.data(), entries, nullptr));
  });
  std::vector<double> want;
  for (std::int64_t rank = 0; rank < ranks; rank++)
    for (std::int64_t row = 0; row < rows; row++)
      for (std::int64_t i = 0; i < part; i++)
        want.push_back(x.host[static_cast<std::size_t>(row * heads * d + rank * part + i)]);
  m.error = y.error(want), m.bound = 0, m.bytes = 8.0 * static_cast<double>(rows * heads * d);
  return m;
}

}  // namespace

std::vector<Op> elementwise_ops() {
  using std::placeholders::_1, std::placeholders::_2;
  const std::vector<std::string> counts = {"count=33554432", "count=67108864,dtype=bfloat16"},
                                 tables = {"s=8192,h=32,d=128,ranks=8"}, table = {"s=20,h=4,d=7,ranks=2"};
  // On the emulator in both types.
  const auto both = [](const std::string& shape) {
    return std::vector<std::string>{shape + ",dtype=float32", "dtype=bfloat16"};
  };
  return {
      {"add", {"add"}, counts, both("count=5001"), add},
      {"scale", {"scale"}, counts, both("count=5001"), scale},
      {"add_bias", {"add_bias"}, {"rows=16384,columns=4096,dtype=bfloat16"}, both("rows=21,columns=13"), add_bias},
      {"column_sums",
       {"column_sums"},
       {"rows=8192,columns=4096", "rows=16384,columns=4096,dtype=bfloat16"},
       both("rows=131,columns=13"),
       column_sums},
      {"expand_heads",
       {"expand_heads"},
       {"s=16384,h=32,g=8,d=128,dtype=bfloat16"},
       both("s=7,h=6,g=2,d=5"),
       std::bind(heads, _1, _2, true)},
      {"reduce_heads",
       {"reduce_heads"},
       {"s=8192,h=32,g=8,d=128", "s=16384,h=32,g=8,d=128,dtype=bfloat16"},
       both("s=7,h=6,g=2,d=5"),
       std::bind(heads, _1, _2, false)},
      {"add_rows",
       {"add_rows"},
       {"rows=8192,part=4096,first=2048,columns=4096"},
       both("rows=21,part=9,first=5,columns=13"),
       add_rows},
      {"copy_table", {"copy_table"}, tables, table, std::bind(copies, _1, _2, false)},
      {"copy_entries", {"copy_entries"}, tables, table, std::bind(copies, _1, _2, true)},
  };
}

}  // namespace longhaul::cuda::bench
