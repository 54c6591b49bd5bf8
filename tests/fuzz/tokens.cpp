// Token files of every format with their companions. The first byte is the format; then come the tokens and up to three
// companions (see Parts). Of what is taken every token, mask and document can be read, in pieces as at once.
#include <algorithm>
#include <vector>

#include "data/dataset.h"
#include "fuzz.h"

using namespace longhaul;

namespace {

void read_all(const DatasetOptions& options) {
  const TokenDataset dataset(options);
  const std::int64_t size = dataset.size();
  fuzz::require(size > 0 && size < 1 << 24, "a stream has tokens, and not more than its bytes hold");
  dataset.validate(0, size);
  std::vector<std::int32_t> all(static_cast<std::size_t>(size)), piece(all.size());
  dataset.read(0, size, all.data());
  for (const std::int32_t token : all)
    fuzz::require(token >= 0 && token < options.vocabulary, "tokens are in the vocabulary");
  for (std::int64_t begin = 0; begin < size; begin += 7) {
    const std::int64_t count = std::min<std::int64_t>(7, size - begin);
    dataset.read(begin, count, piece.data());
    fuzz::require(std::equal(piece.begin(), piece.begin() + count, all.begin() + begin), "pieces are the whole");
  }
  std::vector<std::uint8_t> mask(all.size());
  dataset.read_loss_mask(0, size, mask.data());
  std::vector<std::int64_t> ends;
  dataset.document_ends(0, size, ends);
  fuzz::require(std::is_sorted(ends.begin(), ends.end()), "documents end one after the other");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const std::vector<std::string> formats = {"text", "jsonl", "llmc", "megatron", "datatrove"};
  DatasetOptions options;
  options.format = formats[data[0] % formats.size()];
  options.vocabulary = data[0] & 0x40 ? 70000 : data[0] & 0x20 ? 257 : 100;
  options.mask_prompt = options.format == "jsonl" && (data[0] & 0x80);
  fuzz::Parts parts(fuzz::text(data + 1, size - 1));
  for (const char* name : {"t.bin", "t.idx", "t.bin.index", "t.bin.loss", "t.bin.metadata"})
    ::unlink((fuzz::folder() + "/" + name).c_str());
  options.files = {fuzz::write("t.bin", parts.next())};
  if (options.format == "megatron") fuzz::write("t.idx", parts.next());
  if (options.format == "datatrove")
    for (const char* name : {"t.bin.index", "t.bin.loss", "t.bin.metadata"})
      if (const auto part = parts.next(); !part.empty()) fuzz::write(name, part);
  fuzz::taken([&] { read_all(options); });
  return 0;
}
