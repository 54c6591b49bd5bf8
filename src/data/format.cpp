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

std::vector<std::string> written_formats(bool with_loss_mask) {
  std::vector<std::string> names;
  for (const DataFormat* format : data_formats())
    if (const auto& writer = find_format(format->name).writer; writer && (writer->loss_mask || !with_loss_mask))
      names.emplace_back(format->name);
  return names;
}

std::vector<std::string> only_itself(const std::string& path) {
  return {path};
}

}  // namespace longhaul
