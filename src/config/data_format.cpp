#include "config/data_format.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul {
namespace {

std::vector<const DataFormat*>& table() {
  static std::vector<const DataFormat*> formats;
  return formats;
}

}  // namespace

const std::vector<const DataFormat*>& data_formats() {
  return table();
}

void register_data_format(const DataFormat& format) {
  auto& formats = table();
  const auto place = std::lower_bound(formats.begin(), formats.end(), format.name,
                                      [](const DataFormat* one, std::string_view name) { return one->name < name; });
  LONGHAUL_CHECK(place == formats.end() || (*place)->name != format.name, "data format {} twice", format.name);
  formats.insert(place, &format);
}

const DataFormat& data_format(std::string_view name) {
  std::vector<std::string_view> names;
  for (const DataFormat* format : data_formats()) {
    if (format->name == name) return *format;
    names.push_back(format->name);
  }
  fail("data.format '{}' is not one of {}", name, fmt::join(names, ", "));
}

std::string name_data_formats(bool DataFormat::*holds) {
  std::vector<std::string_view> names;
  for (const DataFormat* format : data_formats())
    if (format->*holds) names.push_back(format->name);
  if (names.size() < 2) return fmt::format("{}", fmt::join(names, ""));
  return fmt::format("{} and {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

std::string name_document_formats() {
  std::vector<std::string> texts;
  for (const DataFormat* format : data_formats())
    if (!format->documents.empty()) texts.push_back(fmt::format("{} ({})", format->name, format->documents));
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace longhaul
