#include "kernels/cpu/vector_table.h"

#include <string_view>

namespace longhaul::cpu {

extern const VectorTable vector_table_generic;
#if defined(__x86_64__)
extern const VectorTable vector_table_avx512;
extern const VectorTable vector_table_avx2;
#endif

const VectorTable* vector_table(const char* name) {
  const std::string_view wanted = name;
#if defined(__x86_64__)
  if (wanted == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return &vector_table_avx512;
  if (wanted == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &vector_table_avx2;
#endif
  if (wanted == "generic") return &vector_table_generic;
  return nullptr;
}

const VectorTable& vector_table() {
  static const VectorTable* const best = [] {
    for (const char* name : {"avx512", "avx2"})
      if (const VectorTable* table = vector_table(name)) return table;
    return &vector_table_generic;
  }();
  return *best;
}

}  // namespace longhaul::cpu
