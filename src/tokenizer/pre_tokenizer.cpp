#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/pattern.h"
#include "tokenizer/splitter.h"
#include "tokenizer/unicode.h"

namespace longhaul {

void Pieces::reset(std::string_view text, std::size_t first_bytes) {
  parts.clear();
  if (!text.empty()) parts.push_back(text);
  text_ = text;
  first_bytes_ = std::min(first_bytes, text.size());
  at_start = first_bytes > 0;
  block_ = used_ = 0;
}

char* Pieces::room(std::size_t size) {
  while (block_ < blocks_.size() && sizes_[block_] - used_ < size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    sizes_.push_back(std::max<std::size_t>(size, std::size_t{1} << 16));
    blocks_.push_back(std::make_unique<char[]>(sizes_.back()));
    used_ = 0;
  }
  char* begin = blocks_[block_].get() + used_;
  used_ += size;
  return begin;
}

namespace {

using namespace json_fields;

std::string_view joined(Pieces& pieces, std::string_view a, std::string_view b) {
  char* at = pieces.room(a.size() + b.size());
  std::memcpy(at, a.data(), a.size());
  std::memcpy(at + a.size(), b.data(), b.size());
  return {at, a.size() + b.size()};
}

/// Keeps Pieces' order while every piece becomes several: `each(piece, first, add)`.
template <typename Each>
void replace_pieces(Pieces& pieces, Each&& each) {
  pieces.spare.clear();
  const auto add = [&](std::string_view piece) {
    if (!piece.empty()) pieces.spare.push_back(piece);
  };
  for (std::size_t i = 0; i < pieces.parts.size(); ++i) each(pieces.parts[i], pieces.first(pieces.parts[i], i), add);
  std::swap(pieces.parts, pieces.spare);
}

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  void split(Pieces& pieces) const override {
    for (const auto& part : parts_) part->split(pieces);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool prefix, bool splits, bool leaves_bytes)
      : prefix_(prefix), splits_(splits), leaves_bytes_(leaves_bytes) {}
  void split(Pieces& pieces) const override {
    if (prefix_ || splits_)
      replace_pieces(pieces, [&](std::string_view piece, bool, auto&& add) {
        if (prefix_ && !piece.starts_with(' ')) piece = joined(pieces, " ", piece);
        if (splits_)
          words_.split(piece, add);
        else
          add(piece);
      });
    if (leaves_bytes_) return;
    std::string bytes, characters;
    for (auto& piece : pieces.parts) {
      bytes.clear();
      characters.clear();
      if (pieces.escaped)
        unescape(piece, bytes);
      else
        bytes = piece;
      append_byte_characters(bytes, characters);
      piece = joined(pieces, characters, "");
    }
    pieces.escaped = false;
  }

 private:
  bool prefix_, splits_, leaves_bytes_;
  Splitter words_ = Splitter::gpt2();
};

enum class Behavior : std::uint8_t { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class Split : public PreTokenizer {
 public:
  Split(std::unique_ptr<Pattern> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void split(Pieces& pieces) const override {
    std::vector<Pattern::Part> parts;
    replace_pieces(pieces, [&](std::string_view piece, bool first, auto&& add) {
      parts.clear();
      pattern_->split(piece, parts);
      if (invert_)
        for (auto& part : parts) part.match = !part.match;
      if (first && behavior_ == Behavior::removed && parts.front().match) pieces.at_start = false;
      place(parts, add);
    });
  }

 private:
  static std::string_view across(std::string_view a, std::string_view b) {
    return {a.data(), static_cast<std::size_t>(b.data() + b.size() - a.data())};
  }
  template <typename Add>
  void place(const std::vector<Pattern::Part>& parts, Add&& add) const {
    std::string_view open;  // may still grow
    bool previous = false, any = false;
    switch (behavior_) {
      case Behavior::isolated:
        for (const auto& part : parts) add(part.text);
        return;
      case Behavior::removed:
        for (const auto& part : parts)
          if (!part.match) add(part.text);
        return;
      case Behavior::contiguous:
        for (const auto& part : parts) {
          if (any && part.match == previous) {
            open = across(open, part.text);
          } else {
            if (any) add(open);
            open = part.text;
          }
          any = true;
          previous = part.match;
        }
        break;
      case Behavior::merged_with_previous:
        for (const auto& part : parts) {
          if (any && part.match && !previous) {
            open = across(open, part.text);
          } else {
            if (any) add(open);
            open = part.text;
          }
          any = true;
          previous = part.match;
        }
        break;
      case Behavior::merged_with_next:
        // A match goes with what follows it unless that is a match too.
        for (std::size_t i = 0; i < parts.size(); ++i) {
          if (parts[i].match && i + 1 < parts.size() && !parts[i + 1].match) {
            add(across(parts[i].text, parts[i + 1].text));
            ++i;
          } else {
            add(parts[i].text);
          }
        }
        return;
    }
    if (any) add(open);
  }

  std::unique_ptr<Pattern> pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Runs of word characters, runs of what is neither word nor space.
class Whitespace : public PreTokenizer {
 public:
  void split(Pieces& pieces) const override {
    const UnicodeTable& table = UnicodeTable::get();
    replace_pieces(pieces, [&](std::string_view piece, bool first, auto&& add) {
      const auto kind_of = [&](char32_t c) {
        return table.has(c, CodePointFlag::rust_word) ? 1 : is_white_space(c) ? 0 : 2;
      };
      const char *from = piece.data(), *at = from, *end = from + piece.size();
      int kind = 0;
      while (at < end) {
        const char* begin = at;
        const int now = kind_of(next_code_point(at));
        if (first && begin == from && now == 0) pieces.at_start = false;
        if (now == kind) continue;
        if (kind != 0) add({from, static_cast<std::size_t>(begin - from)});
        from = begin;
        kind = now;
      }
      if (kind != 0) add({from, static_cast<std::size_t>(end - from)});
    });
  }
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend : std::uint8_t { first, never, always };
  Metaspace(std::string replacement, Prepend prepend, bool splits)
      : replacement_(std::move(replacement)), prepend_(prepend), splits_(splits) {}
  void split(Pieces& pieces) const override {
    replace_pieces(pieces, [&](std::string_view piece, bool first, auto&& add) {
      const auto spaces = static_cast<std::size_t>(std::count(piece.begin(), piece.end(), ' '));
      const bool starts = piece.starts_with(' ') || piece.starts_with(replacement_);
      const bool prepend = !starts && (prepend_ == Prepend::always || (prepend_ == Prepend::first && first));
      if (spaces > 0 || prepend) {
        const std::size_t size = piece.size() - spaces + (spaces + (prepend ? 1 : 0)) * replacement_.size();
        char* begin = pieces.room(size);
        char* at = begin;
        const auto put = [&] {
          std::memcpy(at, replacement_.data(), replacement_.size());
          at += replacement_.size();
        };
        if (prepend) put();
        for (char c : piece) {
          if (c == ' ')
            put();
          else
            *at++ = c;
        }
        piece = {begin, size};
      }
      if (!splits_) return add(piece);
      // Every replacement begins a piece.
      for (;;) {
        const std::size_t next = piece.find(replacement_, 1);
        if (next == std::string_view::npos) break;
        add(piece.substr(0, next));
        piece.remove_prefix(next);
      }
      add(piece);
    });
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool splits_;
};

bool is_numeric(char32_t c) {
  return UnicodeTable::get().has(c, CodePointFlag::numeric);
}
bool is_punctuation(char32_t c) {
  return UnicodeTable::get().has(c, CodePointFlag::punctuation);
}
bool is_space(char32_t c) {
  return is_white_space(c);
}

Behavior read_behavior(const json& object, const std::string& where) {
  const std::string name = text(object, "behavior", where);
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fail("{}: the behavior {} is none of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous", where, name);
}

Metaspace::Prepend read_prepend(const json& object, const std::string& where) {
  const bool prefix = flag(object, "add_prefix_space", where, true);
  const json& scheme = member(object, "prepend_scheme");
  const std::string name = scheme.is_null() ? "always" : text(object, "prepend_scheme", where);
  if (!prefix && name != "never" && !scheme.is_null())
    fail("{}: add_prefix_space false contradicts prepend_scheme {}", where, name);
  if (!prefix || name == "never") return Metaspace::Prepend::never;
  if (name == "always") return Metaspace::Prepend::always;
  if (name == "first") return Metaspace::Prepend::first;
  fail("{}: the prepend_scheme {} is none of always, first, never", where, name);
}

std::unique_ptr<PreTokenizer> read(const json& object, const std::string& where, bool last, bool& leaves_bytes) {
  const std::string kind = type(object, where);
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    const json& members = list(object, "pretokenizers", where);
    for (std::size_t i = 0; i < members.size(); ++i)
      parts.push_back(read(members[i], where, last && i + 1 == members.size(), leaves_bytes));
    return std::make_unique<Sequence>(std::move(parts));
  }
  if (kind == "ByteLevel") {
    leaves_bytes = last;
    return std::make_unique<ByteLevel>(flag(object, "add_prefix_space", where), flag(object, "use_regex", where, true),
                                       last);
  }
  if (kind == "Split")
    return std::make_unique<Split>(read_pattern(member(object, "pattern"), where), read_behavior(object, where),
                                   flag(object, "invert", where));
  if (kind == "Whitespace") return std::make_unique<Whitespace>();
  if (kind == "WhitespaceSplit") return std::make_unique<Split>(character_pattern(is_space), Behavior::removed, false);
  if (kind == "Digits")
    return std::make_unique<Split>(character_pattern(is_numeric),
                                   flag(object, "individual_digits", where) ? Behavior::isolated : Behavior::contiguous,
                                   false);
  if (kind == "Punctuation")
    return std::make_unique<Split>(
        character_pattern(is_punctuation),
        member(object, "behavior").is_null() ? Behavior::isolated : read_behavior(object, where), false);
  if (kind == "Metaspace") {
    const std::string replacement = text(object, "replacement", where);
    if (replacement.empty() ||
        static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(replacement[0]))) != replacement.size())
      fail("{}: Metaspace's replacement \"{}\" is not one character", where, replacement);
    return std::make_unique<Metaspace>(replacement, read_prepend(object, where), flag(object, "split", where, true));
  }
  fail(
      "{} asks for {}, which this program does not have; it has ByteLevel, Split, Whitespace, WhitespaceSplit, Digits, "
      "Punctuation, Metaspace and Sequence",
      where, kind);
}

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const nlohmann::json& object, const std::string& where,
                                                 bool& leaves_bytes) {
  leaves_bytes = false;
  if (object.is_null()) return nullptr;
  return read(object, where, true, leaves_bytes);
}

}  // namespace longhaul
