// Token files of every format with their companions. The first byte is the format, by its place among the names; then
// come the tokens and what lies beside them (see Parts). Of what is taken every token, mask and document can be read,
// in pieces as at once.
#include <algorithm>
#include <vector>

#include "data/dataset.h"
#include "data/format.h"
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
  const DataFormat& format = *data_formats()[data[0] % data_formats().size()];
  DatasetOptions options;
  options.format = format.name;
  options.vocabulary = data[0] & 0x40 ? 70000 : data[0] & 0x20 ? 257 : 100;
  options.mask_prompt = format.prompts && (data[0] & 0x80);
  fuzz::Parts parts(fuzz::text(data + 1, size - 1));
  const std::vector<std::string> files = find_format(format.name).files(fuzz::folder() + "/t.bin");
  for (const auto& file : files) {
    ::unlink(file.c_str());
    const std::string part(parts.next());
    if (!part.empty() || file == files.front()) fuzz::write(file.substr(fuzz::folder().size() + 1), part);
  }
  options.files = {files.front()};
  fuzz::taken([&] { read_all(options); });
  return 0;
}
