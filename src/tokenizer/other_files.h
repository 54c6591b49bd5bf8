// sentencepiece models, by their library.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace longhaul {

/// `model`: the file's contents; `path` begins messages. Throws Error.
std::unique_ptr<Tokenizer> read_sentencepiece_tokenizer(std::string_view model, const std::string& path);

/// tiktoken ranks: a line a token, base64 of its bytes and its rank. The pattern and the special tokens come from
/// `path`.json when there is one, {"pattern": NAME or regular expression, "special_tokens": {"<|x|>": id}}; else from
/// the name of the file, when it is a published one. Throws Error.
std::unique_ptr<Tokenizer> read_tiktoken_tokenizer(std::string_view ranks, const std::string& path);

/// Whether a file's contents look like tiktoken ranks.
bool looks_like_tiktoken(std::string_view contents);

}  // namespace longhaul
