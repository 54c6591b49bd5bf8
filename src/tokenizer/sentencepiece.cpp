#include "base/error.h"
#include "tokenizer/other_files.h"

#ifdef LONGHAUL_WITH_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace longhaul {

#ifdef LONGHAUL_WITH_SENTENCEPIECE
namespace {

class SentencePiece : public Tokenizer {
 public:
  SentencePiece(std::string_view model, const std::string& path) {
    const auto status = processor_.LoadFromSerializedProto(absl::string_view(model.data(), model.size()));
    if (!status.ok()) fail("{}: the sentencepiece library refuses it: {}", path, status.ToString());
    for (int id = 0; id < processor_.GetPieceSize(); ++id)
      if (processor_.IsControl(id) || processor_.IsUnknown(id)) added_.push_back({processor_.IdToPiece(id), id, true});
    const auto some = [](int id) { return id >= 0 ? std::optional<std::int32_t>(id) : std::nullopt; };
    bos_ = some(processor_.bos_id());
    eos_ = some(processor_.eos_id());
  }

  std::unique_ptr<longhaul::Encoder> encoder() const override;

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<int> list;
    for (std::int32_t id : ids) {
      if (id < 0 || id >= processor_.GetPieceSize())
        fail("{}: the id {} is no token; its ids are 0 to {}", file_.string(), id, processor_.GetPieceSize() - 1);
      list.push_back(id);
    }
    std::string text;
    const auto status = processor_.Decode(list, &text);
    if (!status.ok()) fail("{}: {}", file_.string(), status.ToString());
    return text;
  }
  // Bytes in a row are a character together, or U+FFFD.
  bool depends_on_neighbours(std::int32_t id) const override { return processor_.IsByte(id); }

  std::int64_t vocabulary_size() const override { return processor_.GetPieceSize(); }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    const int id = processor_.PieceToId(absl::string_view(token.data(), token.size()));
    if (processor_.IsUnknown(id) && processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }
  const std::vector<AddedToken>& added_tokens() const override { return added_; }
  std::string description() const override {
    return fmt::format("sentencepiece model of {} tokens", processor_.GetPieceSize());
  }

 private:
  friend class SentencePieceEncoder;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<AddedToken> added_;
};

class SentencePieceEncoder : public longhaul::Encoder {
 public:
  explicit SentencePieceEncoder(const SentencePiece& tokenizer) : tokenizer_(tokenizer) {}
  void encode(std::string_view text, const EncodeOptions& options, std::vector<std::int32_t>& ids) override {
    // Control symbols are never found in a text: the library treats them as text, whatever the options ask for.
    if (options.add_special_tokens && tokenizer_.bos()) ids.push_back(*tokenizer_.bos());
    list_.clear();
    const auto status = tokenizer_.processor_.Encode(absl::string_view(text.data(), text.size()), &list_);
    if (!status.ok()) fail("{}: {}", tokenizer_.file().string(), status.ToString());
    ids.insert(ids.end(), list_.begin(), list_.end());
  }

 private:
  const SentencePiece& tokenizer_;
  std::vector<int> list_;
};

std::unique_ptr<longhaul::Encoder> SentencePiece::encoder() const {
  return std::make_unique<SentencePieceEncoder>(*this);
}

}  // namespace

std::unique_ptr<Tokenizer> read_sentencepiece_tokenizer(std::string_view model, const std::string& path) {
  return std::make_unique<SentencePiece>(model, path);
}

#else

std::unique_ptr<Tokenizer> read_sentencepiece_tokenizer(std::string_view, const std::string& path) {
  fail(
      "{} needs the sentencepiece library, and this program was built without it: install libsentencepiece-dev and "
      "build "
      "again, or give a tokenizer.json",
      path);
}

#endif

}  // namespace longhaul
