// Private to src/config: what an experiment file, or a value on the command line, says before any key is known.
#pragma once
#include <string>
#include <vector>

#include "config/experiment_keys.h"

namespace longhaul::config {

/// One key of a file; in the file's order.
struct Entry {
  std::string section, key;  ///< an empty key: a section that holds none
  Value value;
  int line = 0;
};

/// Throws Error, naming `origin` and the line, for what is no YAML or JSON, sections that are no mappings, and names
/// that stand twice.
std::vector<Entry> read_yaml_entries(const std::string& text, const std::string& origin);
std::vector<Entry> read_json_entries(const std::string& text, const std::string& origin);

/// One value as YAML; `where` begins messages.
Value yaml_value(const std::string& text, const std::string& where);

}  // namespace longhaul::config
