// The course of a text through a tokenizer: added tokens, normalizer, pre-tokenizer, model. What tokenizer.json and
// tiktoken files become.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace longhaul {

/// What a pipeline is made of; null parts do nothing.
struct PipelineParts {
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<Model> model;
  std::unique_ptr<Decoder> decoder;
  std::vector<std::int32_t> prefix, suffix;                // of the post-processor
  std::vector<AddedTokens::Token> in_text, in_normalized;  // added tokens by where they are looked for
  std::vector<Tokenizer::AddedToken> added;
  std::vector<std::string> added_decoded;  // how the decoder gets them, where that is not their content
};

/// Throws Error when two parts do not fit.
std::unique_ptr<Tokenizer> make_pipeline(PipelineParts parts);

}  // namespace longhaul
