// Token datasets: files of several formats as one stream of token ids, memory-mapped.
//
// Formats (`data.format`) are registered, each by its own file format_NAME.cpp, whose first lines describe it.
// Several files follow each other in the order given. A name may be a pattern ("shards/*.bin") or a folder, which
// stands for the files in it (expand_files.h).
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// A stream of tokens. Reads may come from several threads.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  /// Tokens of the stream.
  virtual std::int64_t size() const = 0;
  /// Copies tokens [begin, begin + count), which must lie in the stream. Throws Error for an id outside the vocabulary
  /// and for a file that is no longer what it was when it was opened.
  virtual void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const = 0;

  virtual bool has_loss_mask() const { return false; }
  /// mask[i] = 0 when token begin + i is no label to learn from, else 1 (all 1 without a loss mask).
  virtual void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const;

  /// True when the format says where documents end.
  virtual bool has_documents() const { return false; }
  /// Appends every document end e (a token index: one past the document's last token) with begin < e <= end, ascending.
  virtual void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const;
};

struct DatasetOptions {
  std::vector<std::string> files;
  std::string format;
  std::int64_t vocabulary = 0;
  std::optional<std::int64_t> eos_token;         // formats of text: ends a document; -1: there is none
  bool mask_prompt = false;                      // formats with prompts: their tokens are no labels (read_loss_mask)
  std::optional<std::int64_t> token_bytes = {};  // headerless formats: of an id, 2 or 4; none: by the vocabulary
};

class TokenDataset : public TokenSource {
 public:
  /// Maps the files and checks headers, sizes and the files' agreement with each other; reads no tokens. Throws Error
  /// naming the file and offset: missing, truncated, mislabelled, without tokens; an unknown format. JSONL is read
  /// whole, every line of it checked; mask_prompt of files without any prompt is refused.
  explicit TokenDataset(const DatasetOptions& options);
  ~TokenDataset() override;

  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override;
  bool has_loss_mask() const override;
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override;
  bool has_documents() const override;
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override;

  /// Tokens of jsonl prompts.
  std::int64_t prompt_tokens() const { return prompt_tokens_; }
  /// Halves of surrogate pairs in jsonl strings, which became U+FFFD.
  std::int64_t lone_surrogates() const { return lone_surrogates_; }
  /// What was guessed of its files, one line each: "tokens of 2 bytes, by the vocabulary of 257: a.ds and 3 more".
  std::vector<std::string> guesses() const;
  /// Files, after patterns and folders became what they stand for.
  std::int64_t files() const { return static_cast<std::int64_t>(parts_.size()); }

  /// Scans tokens [begin, end) and the same share of each file's document index. Ranks may each scan a part: parts that
  /// cover [0, size()) check everything. Throws Error naming file, byte offset and value of the first token outside
  /// [0, vocabulary), or what is wrong with the index.
  void validate(std::int64_t begin, std::int64_t end) const;

 private:
  struct Part;
  std::vector<std::string> names_;  // of the files
  const Part& part_of(std::int64_t token) const;
  std::vector<std::unique_ptr<Part>> parts_;
  std::int64_t size_ = 0, prompt_tokens_ = 0, lone_surrogates_ = 0;
  std::int64_t vocabulary_ = 0;
};

}  // namespace longhaul
