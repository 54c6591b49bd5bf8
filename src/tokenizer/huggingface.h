// tokenizer.json of Hugging Face tokenizers.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace longhaul {

/// `text`: the file's contents; `path` begins messages. Throws Error: not JSON, another version, parts that this
/// program lacks, by name.
std::unique_ptr<Tokenizer> read_huggingface_tokenizer(std::string_view text, const std::string& path);

}  // namespace longhaul
