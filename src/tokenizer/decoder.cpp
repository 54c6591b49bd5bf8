#include "tokenizer/decoder.h"

#include <algorithm>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/pattern.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using namespace json_fields;

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Decoder>> parts) : parts_(std::move(parts)) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (const auto& part : parts_) part->decode(tokens);
  }
  void grow(Growth& growth) const override {
    for (const auto& part : parts_) part->grow(growth);
  }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

class JoinBySpaces : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
  }
  void grow(Growth&) const override {}
};

class ByteLevel : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    for (auto& token : tokens)
      if (auto bytes = bytes_of_characters(token)) token = std::move(*bytes);
  }
};

class ByteFallback : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    for (auto& token : tokens) {
      if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') continue;
      const int high = digit(token[3]), low = digit(token[4]);
      if (high >= 0 && low >= 0) token = std::string(1, static_cast<char>(high * 16 + low));
    }
  }

 private:
  static int digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  }
};

class Fuse : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    std::string all;
    for (const auto& token : tokens) all += token;
    tokens.assign(1, std::move(all));
  }
  void grow(Growth& growth) const override { growth.fused = true; }
};

class Strip : public Decoder {
 public:
  Strip(std::string content, std::int64_t start, std::int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (auto& token : tokens) {
      for (std::int64_t i = 0; i < start_ && token.starts_with(content_); ++i) token.erase(0, content_.size());
      for (std::int64_t i = 0; i < stop_ && token.ends_with(content_); ++i)
        token.resize(token.size() - content_.size());
    }
  }
  // What goes from the start of a fused text is gone once something of it is left.
  void grow(Growth& growth) const override { growth.piecewise &= !growth.fused || stop_ == 0; }

 private:
  std::string content_;
  std::int64_t start_, stop_;
};

class Replace : public Decoder {
 public:
  Replace(std::unique_ptr<Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void decode(std::vector<std::string>& tokens) const override {
    std::vector<Pattern::Part> parts;
    std::string text;
    for (auto& token : tokens) {
      if (valid_utf8_prefix(token) != token.size()) continue;  // a byte of ByteFallback
      parts.clear();
      text.clear();
      pattern_->split(token, parts);
      for (const auto& part : parts) text += part.match ? std::string_view(content_) : part.text;
      token = text;
    }
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::string content_;
};

class Metaspace : public Decoder {
 public:
  Metaspace(std::string replacement, bool prepended) : replacement_(std::move(replacement)), prepended_(prepended) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string text;
      std::string_view rest = tokens[i];
      for (;;) {
        const std::size_t found = rest.find(replacement_);
        text += rest.substr(0, found);
        if (found == std::string_view::npos) break;
        if (i > 0 || !prepended_) text += ' ';  // all of them go from the first token: the library does so
        rest.remove_prefix(found + replacement_.size());
      }
      tokens[i] = std::move(text);
    }
  }

 private:
  std::string replacement_;
  bool prepended_;
};

}  // namespace

std::unique_ptr<Decoder> read_decoder(const nlohmann::json& object, const std::string& where) {
  if (object.is_null()) return std::make_unique<JoinBySpaces>();
  const std::string kind = type(object, where);
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<Decoder>> parts;
    for (const auto& part : list(object, "decoders", where)) {
      if (part.is_null()) fail("{}: a Sequence holds null", where);
      parts.push_back(read_decoder(part, where));
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  if (kind == "ByteLevel") return std::make_unique<ByteLevel>();
  if (kind == "ByteFallback") return std::make_unique<ByteFallback>();
  if (kind == "Fuse") return std::make_unique<Fuse>();
  if (kind == "Strip") {
    const std::string content = text(object, "content", where);
    if (content.empty()) fail("{}: Strip's content is empty", where);
    return std::make_unique<Strip>(content, number(object, "start", where), number(object, "stop", where));
  }
  if (kind == "Replace")
    return std::make_unique<Replace>(read_pattern(member(object, "pattern"), where), text(object, "content", where));
  if (kind == "Metaspace") {
    const std::string replacement = text(object, "replacement", where);
    if (replacement.empty()) fail("{}: Metaspace's replacement is empty", where);
    const bool never = !flag(object, "add_prefix_space", where, true) || member(object, "prepend_scheme") == "never";
    return std::make_unique<Metaspace>(replacement, !never);
  }
  fail(
      "{} asks for {}, which this program does not have; it has ByteLevel, ByteFallback, Fuse, Strip, Replace, "
      "Metaspace and "
      "Sequence",
      where, kind);
}

}  // namespace longhaul
