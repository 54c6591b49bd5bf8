#include "data/format.h"

#include <deque>

#include "base/error.h"

namespace longhaul {
namespace {

std::deque<FormatReader>& readers() {
  static std::deque<FormatReader> all;  // never moves what is in it
  return all;
}

}  // namespace

FormatRegistration::FormatRegistration(FormatReader reader) {
  register_data_format(readers().emplace_back(std::move(reader)));
}

const FormatReader& find_format(std::string_view name) {
  const DataFormat& format = data_format(name);
  for (const FormatReader& reader : readers())
    if (&static_cast<const DataFormat&>(reader) == &format) return reader;
  LONGHAUL_CHECK(false, "data format {} has no reader", name);
}

std::vector<std::string> only_itself(const std::string& path) {
  return {path};
}

}  // namespace longhaul
