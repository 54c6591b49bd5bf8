// The generated table of code points; private to unicode.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longhaul::unicode_table {

extern const std::uint16_t kinds[];  // general category + 32 x flags
extern const std::size_t kind_count;
extern const std::uint32_t runs[];  // length x 128 + index of the kind
extern const std::size_t run_count;
extern const std::int32_t lower_runs[][4];  // letters with a lower case: first, last, step, distance
extern const std::size_t lower_run_count;

}  // namespace longhaul::unicode_table
