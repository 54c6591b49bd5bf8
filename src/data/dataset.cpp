#include "data/dataset.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "data/expand_files.h"
#include "data/format.h"

namespace longhaul {

struct TokenDataset::Part {
  std::int64_t begin = 0;  // in the stream
  std::unique_ptr<TokenFile> file;
  std::int64_t end() const { return begin + file->size(); }
};

void TokenSource::read_loss_mask(std::int64_t, std::int64_t count, std::uint8_t* mask) const {
  std::memset(mask, 1, static_cast<std::size_t>(count));
}
void TokenSource::document_ends(std::int64_t, std::int64_t, std::vector<std::int64_t>&) const {}

TokenDataset::TokenDataset(const DatasetOptions& options) : vocabulary_(options.vocabulary) {
  LONGHAUL_CHECK(vocabulary_ > 0, "a dataset for a vocabulary of {}", vocabulary_);
  if (options.files.empty()) fail("data.files is empty: name at least one file of tokens");
  std::optional<std::int32_t> end_token;  // of formats that bring none of their own
  if (options.eos_token.value_or(-1) >= vocabulary_)
    fail("data.eos_token {} is outside the model's vocabulary, 0 to {}", *options.eos_token, vocabulary_ - 1);
  if (options.eos_token && *options.eos_token >= 0)
    end_token = static_cast<std::int32_t>(*options.eos_token);
  else if (!options.eos_token && vocabulary_ >= 257)
    end_token = 256;
  const FormatReader& format = find_format(options.format);
  if (options.mask_prompt && !format.prompts)
    fail("data.mask_prompt is true, but data.format {} has no prompts; it is for {}", options.format,
         name_data_formats(&DataFormat::prompts));
  const std::vector<std::string> files = expand_files(options.files, options.format);
  for (const auto& path : files) {
    auto part = std::make_unique<Part>();
    part->begin = size_;
    part->file =
        format.open(path, {vocabulary_, end_token, options.mask_prompt, &path == &files.back(), options.token_bytes});
    size_ = part->end();
    names_.push_back(path);
    prompt_tokens_ += part->file->prompt_tokens();
    lone_surrogates_ += part->file->lone_surrogates();
    parts_.push_back(std::move(part));
  }
  if (options.mask_prompt && prompt_tokens_ == 0)
    fail(
        "data.mask_prompt is true, but no line of {} has a prompt, so it would mask nothing; give lines prompt and "
        "completion, or set data.mask_prompt to false",
        fmt::join(options.files, ", "));
}

TokenDataset::~TokenDataset() = default;

std::vector<std::string> TokenDataset::guesses() const {
  std::map<std::string, std::vector<std::string>> files;
  for (std::size_t i = 0; i < parts_.size(); ++i)
    if (const std::string text = parts_[i]->file->guessed(); !text.empty()) files[text].push_back(names_[i]);
  std::vector<std::string> lines;
  for (const auto& [text, names] : files)
    lines.push_back(fmt::format("{}: {}{}", text, names.front(),
                                names.size() > 1 ? fmt::format(" and {} more", names.size() - 1) : ""));
  return lines;
}

const TokenDataset::Part& TokenDataset::part_of(std::int64_t token) const {
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), token,
                                      [](std::int64_t value, const auto& part) { return value < part->begin; });
  return **std::prev(after);
}

void TokenDataset::read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const {
  LONGHAUL_CHECK(begin >= 0 && count >= 0 && begin <= size_ && count <= size_ - begin, "tokens [{}, {}) of {}", begin,
                 begin + count, size_);
  while (count > 0) {
    const Part& part = part_of(begin);
    const std::int64_t here = std::min(count, part.end() - begin);
    part.file->read(begin - part.begin, here, vocabulary_, tokens);
    begin += here;
    count -= here;
    tokens += here;
  }
}

bool TokenDataset::has_loss_mask() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->file->has_loss_mask(); });
}

void TokenDataset::read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const {
  LONGHAUL_CHECK(begin >= 0 && count >= 0 && begin <= size_ && count <= size_ - begin, "loss mask [{}, {}) of {}",
                 begin, begin + count, size_);
  while (count > 0) {
    const Part& part = part_of(begin);
    const std::int64_t here = std::min(count, part.end() - begin);
    part.file->read_loss_mask(begin - part.begin, here, mask);
    begin += here;
    count -= here;
    mask += here;
  }
}

bool TokenDataset::has_documents() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->file->has_documents(); });
}

void TokenDataset::document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const {
  for (const auto& part : parts_) {
    const TokenFile& file = *part->file;
    if (part->end() <= begin || part->begin >= end) continue;
    // The first document that ends after `begin`.
    std::int64_t low = 0, high = file.documents();
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (part->begin + file.document_end(middle) > begin)
        high = middle;
      else
        low = middle + 1;
    }
    for (; low < file.documents(); ++low) {
      const std::int64_t position = part->begin + file.document_end(low);
      if (position > end) break;
      if (ends.empty() || ends.back() < position) ends.push_back(position);  // an empty document ends where it began
    }
  }
}

void TokenDataset::validate(std::int64_t begin, std::int64_t end) const {
  LONGHAUL_CHECK(begin >= 0 && begin <= end && end <= size_, "validation of [{}, {}) of {}", begin, end, size_);
  for (const auto& part : parts_) {
    const std::int64_t first = std::max(begin, part->begin) - part->begin;
    const std::int64_t last = std::min(end, part->end()) - part->begin;
    if (first >= last) continue;
    part->file->validate(first, last, vocabulary_);
  }
}

}  // namespace longhaul
