#include "base/dtype.h"

namespace longhaul {

std::string_view name_of(DType type) {
  switch (type) {
    case DType::float64:
      return "float64";
    case DType::float32:
      return "float32";
    case DType::bfloat16:
      return "bfloat16";
    case DType::uint8:
      return "uint8";
    case DType::int32:
      return "int32";
  }
  return "?";
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (DType type : {DType::float64, DType::float32, DType::bfloat16, DType::uint8, DType::int32})
    if (name_of(type) == name) return type;
  return std::nullopt;
}

}  // namespace longhaul
