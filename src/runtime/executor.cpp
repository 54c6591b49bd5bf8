#include "runtime/executor.h"

namespace longhaul {

double Executor::scalar(std::string_view buffer) const {
  double value = 0;
  read(buffer, 0, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

void Executor::set_scalar(std::string_view buffer, double value) {
  write(buffer, 0, std::as_bytes(std::span(&value, 1)));
}

}  // namespace longhaul
