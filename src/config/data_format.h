// What an experiment may say of data formats. Each is registered by its own file, src/data/format_NAME.cpp, which also
// reads it (src/data/format.h): data knows the experiment's keys, and keys do not know data.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

struct DataFormat {
  std::string_view name;       ///< of `data.format`
  std::string_view meaning;    ///< what a file holds, for the key's documentation: "llm.c `.bin`"
  std::string_view documents;  ///< what a document is or needs, as "a line is one"; "": files do not say where they end
  bool text = false;           ///< holds text that is tokenized while it is read, so that an end token may be added
  bool prompts = false;        ///< says which tokens are of a prompt (`data.mask_prompt`)
  bool headerless = false;     ///< nothing says how wide an id is (`data.token_bytes`)
};

/// All that are registered, by name.
const std::vector<const DataFormat*>& data_formats();
/// Throws Error naming `data.format`, the name and those that there are.
const DataFormat& data_format(std::string_view name);
/// "jsonl and text": the names of those for which `holds` is true, for documentation and messages.
std::string name_data_formats(bool DataFormat::*holds);
/// "jsonl (a line is one), megatron, ...": those that say where documents end, for documentation and messages.
std::string name_document_formats();

/// At namespace scope, so that it happens before main; `format` must outlive everything.
void register_data_format(const DataFormat& format);

}  // namespace longhaul
