#include "runtime/executor.h"

#include <fmt/format.h>

namespace longhaul {

double Executor::scalar(std::string_view buffer) const {
  double value = 0;
  read(buffer, 0, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

void Executor::set_scalar(std::string_view buffer, double value) {
  write(buffer, 0, std::as_bytes(std::span(&value, 1)));
}

Executor::Work Executor::Work::operator-(const Work& before) const {
  return {launches - before.launches, allocations - before.allocations, synchronisations - before.synchronisations,
          graph_launches - before.graph_launches, graph_parts - before.graph_parts};
}

std::string Executor::Work::text() const {
  const std::string graphs =
      graph_launches > 0 ? fmt::format(" and {} of graphs, which hold {} more,", graph_launches, graph_parts) : ",";
  return fmt::format("{} launches{} {} allocations and {} synchronisations", launches, graphs, allocations,
                     synchronisations);
}

}  // namespace longhaul
