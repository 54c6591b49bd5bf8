#include "tokenizer/pipeline.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

class Pipeline;

class PipelineEncoder : public Encoder {
 public:
  explicit PipelineEncoder(const Pipeline& pipeline);
  void encode(std::string_view text, const EncodeOptions& options, std::vector<std::int32_t>& ids) override;

 private:
  // Text between added tokens. `at_start`: it begins where the whole text does.
  void stretch(std::string_view text, bool at_start, bool special, std::vector<std::int32_t>& ids);
  // `first_bytes`: of `text`, what the text's first character became (Pieces::reset).
  void pieces(std::string_view text, std::size_t first_bytes, std::vector<std::int32_t>& ids);

  const Pipeline& pipeline_;
  std::unique_ptr<PieceEncoder> model_;
  Pieces pieces_;
  std::string escaped_text_, normalized_, first_;
  bool escaped_ = false;
  std::vector<AddedTokens::Part> outer_, inner_;
};

class Pipeline : public Tokenizer {
 public:
  explicit Pipeline(PipelineParts parts)
      : parts_(std::move(parts)), in_text_(std::move(parts_.in_text)), in_normalized_(std::move(parts_.in_normalized)) {
    std::int32_t largest = -1;
    for (const auto& [token, id] : parts_.model->ids()) largest = std::max(largest, id);
    for (const auto& token : parts_.added) largest = std::max(largest, token.id);
    tokens_.resize(static_cast<std::size_t>(largest) + 1);
    known_.resize(tokens_.size());
    for (const auto& [token, id] : parts_.model->ids()) place(id, token);
    Growth growth;
    parts_.decoder->grow(growth);
    piecewise_ = growth.piecewise;
    for (std::size_t i = 0; i < parts_.added.size(); ++i)
      place(parts_.added[i].id, parts_.added_decoded.empty() ? parts_.added[i].content : parts_.added_decoded[i]);
  }

  std::unique_ptr<Encoder> encoder() const override { return std::make_unique<PipelineEncoder>(*this); }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (std::int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size() || !known_[static_cast<std::size_t>(id)])
        fail("{}: the id {} is no token; its ids are 0 to {}", file_.string(), id, vocabulary_size() - 1);
      tokens.push_back(tokens_[static_cast<std::size_t>(id)]);
    }
    parts_.decoder->decode(tokens);
    std::string text;
    for (const auto& token : tokens) text += token;
    return text;
  }

  bool depends_on_neighbours(std::int32_t) const override { return !piecewise_; }

  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    for (const auto& added : parts_.added)
      if (added.content == token) return added.id;
    return parts_.model->id_of(std::string(token));
  }
  const std::vector<AddedToken>& added_tokens() const override { return parts_.added; }
  std::string description() const override {
    return fmt::format("{}, {} added tokens", parts_.model->description(), parts_.added.size());
  }

 private:
  friend class PipelineEncoder;
  void place(std::int32_t id, const std::string& token) {
    tokens_[static_cast<std::size_t>(id)] = token;
    known_[static_cast<std::size_t>(id)] = true;
  }

  PipelineParts parts_;
  AddedTokens in_text_, in_normalized_;
  std::vector<std::string> tokens_;  // by id, as decoders get them
  std::vector<bool> known_;
  bool piecewise_ = true;
};

PipelineEncoder::PipelineEncoder(const Pipeline& pipeline)
    : pipeline_(pipeline), model_(pipeline.parts_.model->encoder()) {}

void PipelineEncoder::encode(std::string_view text, const EncodeOptions& options, std::vector<std::int32_t>& ids) {
  const PipelineParts& parts = pipeline_.parts_;
  escaped_ = valid_utf8_prefix(text) != text.size();
  if (escaped_) {
    escaped_text_ = escape_invalid_utf8(text);
    text = escaped_text_;
  }
  if (options.add_special_tokens) ids.insert(ids.end(), parts.prefix.begin(), parts.prefix.end());
  outer_.clear();
  pipeline_.in_text_.split(text, options.special_tokens_in_text, outer_);
  for (const auto& part : outer_) {
    if (part.id >= 0)
      ids.push_back(part.id);
    else
      stretch(part.text, part.text.data() == text.data(), options.special_tokens_in_text, ids);
  }
  if (options.add_special_tokens) ids.insert(ids.end(), parts.suffix.begin(), parts.suffix.end());
}

void PipelineEncoder::stretch(std::string_view text, bool at_start, bool special, std::vector<std::int32_t>& ids) {
  const auto& normalizer = pipeline_.parts_.normalizer;
  std::size_t first_bytes = at_start ? 1 : 0;
  const std::string_view given = text;
  if (normalizer && normalizer->normalize(text, normalized_)) {
    text = normalized_;
    if (at_start && !given.empty()) {
      const auto length = static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(given[0])));
      if (normalizer->normalize(given.substr(0, length), first_)) first_bytes = std::max<std::size_t>(1, first_.size());
    }
  }
  inner_.clear();
  pipeline_.in_normalized_.split(text, special, inner_);
  for (const auto& part : inner_) {
    if (part.id >= 0)
      ids.push_back(part.id);
    else
      pieces(part.text, part.text.data() == text.data() ? first_bytes : 0, ids);
  }
}

void PipelineEncoder::pieces(std::string_view text, std::size_t first_bytes, std::vector<std::int32_t>& ids) {
  pieces_.reset(text, first_bytes);
  pieces_.escaped = escaped_;
  if (pipeline_.parts_.pre_tokenizer) pipeline_.parts_.pre_tokenizer->split(pieces_);
  for (const auto& piece : pieces_.parts) model_->encode(piece, pieces_.escaped, ids);
}

}  // namespace

std::unique_ptr<Tokenizer> make_pipeline(PipelineParts parts) {
  LONGHAUL_CHECK(parts.model && parts.decoder, "a pipeline without a model or a decoder");
  return std::make_unique<Pipeline>(std::move(parts));
}

}  // namespace longhaul
