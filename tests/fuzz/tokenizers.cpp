// Tokenizer files. The first byte is the kind (j: tokenizer.json, t: tiktoken ranks, with what may lie beside them as
// another part; anything else: sentencepiece), then come the file and a text. Of what is taken every id is in the
// vocabulary, a second encoder gives the same ids as the first, and what was said can be read back.
#include <vector>

#include "fuzz.h"
#include "tokenizer/tokenizer.h"

using namespace longhaul;

namespace {

void use(const std::string& path, std::string_view text) {
  const auto tokenizer = load_tokenizer(path);
  const std::int64_t size = tokenizer->vocabulary_size();
  fuzz::require(size >= 0, "a vocabulary has a size");
  for (const auto& token : tokenizer->added_tokens())
    fuzz::require(token.id >= 0 && token.id < size, "added tokens are in the vocabulary");
  fuzz::require(!tokenizer->description().empty(), "a tokenizer says what it is");
  for (const bool special : {false, true}) {
    const EncodeOptions options{.special_tokens_in_text = special, .add_special_tokens = special};
    const auto encoder = tokenizer->encoder();
    std::vector<std::int32_t> ids, again;
    encoder->encode(text, options, ids);
    for (const std::int32_t id : ids) fuzz::require(id >= 0 && id < size, "ids are in the vocabulary");
    encoder->encode(text, options, again);  // from what it remembers
    fuzz::require(ids == again && ids == tokenizer->encode(text, options), "an encoder's memory changes nothing");
    tokenizer->decode(ids);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  fuzz::Parts parts(fuzz::text(data + 1, size - 1));
  const std::string name = data[0] == 'j' ? "tokenizer.json" : data[0] == 't' ? "t.tiktoken" : "t.model";
  const std::string path = fuzz::write(name, parts.next());
  if (data[0] == 't') {
    const std::string_view beside = parts.next();
    ::unlink((path + ".json").c_str());
    if (!beside.empty()) fuzz::write(name + ".json", beside);
  }
  const std::string text(parts.next().substr(0, 4096));
  fuzz::taken([&] { use(path, text); });
  return 0;
}
