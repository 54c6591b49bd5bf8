// Private to src/config: YAML text to nodes, within limits that an experiment never meets.
#pragma once
#include <yaml-cpp/yaml.h>

#include <string>

namespace longhaul::config {

/// One document as nodes; a null node for an empty text. `origin` begins messages. Throws Error, naming the line, for
/// what is not valid YAML, several documents, more than 100,000 values, nesting deeper than 16, and aliases (`*name`).
YAML::Node load_yaml(const std::string& text, const std::string& origin);

/// "file:12", or the file alone when the line is not known (0).
std::string at_line(const std::string& origin, int line);

}  // namespace longhaul::config
