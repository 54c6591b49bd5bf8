#include "kernels/cpu/vector_table.h"

#include <string_view>

#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_generic;
#if defined(__x86_64__)
extern const VectorTable vector_table_avx512bf16;
extern const VectorTable vector_table_avx512;
extern const VectorTable vector_table_avx2;
#endif

namespace {
struct Entry {
  Isa isa;
  const VectorTable* table;
};
// Widest first.
constexpr Entry tables[] = {
#if defined(__x86_64__)
    {Isa::avx512bf16, &vector_table_avx512bf16},
    {Isa::avx512, &vector_table_avx512},
    {Isa::avx2, &vector_table_avx2},
#endif
    {Isa::generic, &vector_table_generic},
};

const VectorTable* first_within(Isa limit) {
  for (const Entry& entry : tables)
    if (entry.isa <= limit) return entry.table;
  return &vector_table_generic;
}
}  // namespace

const VectorTable* vector_table(const char* name) {
  for (const Entry& entry : tables)
    if (name_of(entry.isa) == std::string_view(name)) return entry.isa <= supported_isa() ? entry.table : nullptr;
  return nullptr;
}

const VectorTable& vector_table() {
  static const VectorTable* const best = first_within(usable_isa());
  return *best;
}

}  // namespace longhaul::cpu
