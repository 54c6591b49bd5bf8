#include "tokenizer/normalizer.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "tokenizer/json_fields.h"
#include "tokenizer/pattern.h"
#include "tokenizer/unicode.h"

#ifdef LONGHAUL_WITH_UTF8PROC
#include <utf8proc.h>
#endif

namespace longhaul {
namespace {

using namespace json_fields;

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  bool normalize(std::string_view text, std::string& out) const override {
    std::string current, next;
    bool changed = false;
    for (const auto& part : parts_) {
      if (!part->normalize(changed ? std::string_view(current) : text, next)) continue;
      std::swap(current, next);
      changed = true;
    }
    if (changed) out = std::move(current);
    return changed;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  bool normalize(std::string_view text, std::string& out) const override {
    if (text.empty()) return false;
    out = prefix_;
    out += text;
    return true;
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  bool normalize(std::string_view text, std::string& out) const override {
    std::vector<Pattern::Part> parts;
    pattern_->split(text, parts);
    if (std::none_of(parts.begin(), parts.end(), [](const auto& part) { return part.match; })) return false;
    out.clear();
    for (const auto& part : parts) {
      if (part.match)
        out += content_;
      else
        out += part.text;
    }
    return true;
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::string content_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  bool normalize(std::string_view text, std::string& out) const override {
    const char *begin = text.data(), *end = begin + text.size();
    while (left_ && begin < end) {
      const char* after = begin;
      if (!is_white_space(next_code_point(after))) break;
      begin = after;
    }
    while (right_ && begin < end) {
      const char* last = previous_code_point(end);
      const char* at = last;
      if (!is_white_space(next_code_point(at))) break;
      end = last;
    }
    if (static_cast<std::size_t>(end - begin) == text.size()) return false;
    out.assign(begin, end);
    return true;
  }

 private:
  bool left_, right_;
};

/// Character by character: `map` appends what becomes of one.
class MapCharacters : public Normalizer {
 public:
  using Map = void (*)(char32_t c, std::string& out);
  explicit MapCharacters(Map map) : map_(map) {}
  bool normalize(std::string_view text, std::string& out) const override {
    out.clear();
    out.reserve(text.size());
    for (const char *at = text.data(), *end = at + text.size(); at < end;) map_(next_code_point(at), out);
    return true;
  }

 private:
  Map map_;
};

void strip_accent(char32_t c, std::string& out) {
  if (!UnicodeTable::get().has(c, CodePointFlag::accent)) append_utf8(out, c);
}

void neural_translation(char32_t c, std::string& out) {
  if ((c >= 1 && c <= 8) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f) return;
  static constexpr char32_t spaces[] = {0x09, 0x0a, 0x0c, 0x0d, 0x1680, 0x2028, 0x2029, 0x2581, 0xfeff, 0xfffd};
  const bool space =
      (c >= 0x200b && c <= 0x200f) || std::find(std::begin(spaces), std::end(spaces), c) != std::end(spaces);
  append_utf8(out, space ? U' ' : c);
}

void lower_case(char32_t c, std::string& out) {
  if (c < 0x80)
    out.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  else
    UnicodeTable::get().append_lower(c, out);
}

#ifdef LONGHAUL_WITH_UTF8PROC

/// NFC, NFD, NFKC, NFKD.
class Form : public Normalizer {
 public:
  Form(bool compose, bool compatible) : inert_(0x110000) {
    int options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (compatible) options |= UTF8PROC_COMPAT;
    options_ = static_cast<utf8proc_option_t>(options);
    // A text of characters that neither change nor combine is its own form: most texts are not worth the library.
    const UnicodeTable& table = UnicodeTable::get();
    for (char32_t c = 0; c < 0x110000; ++c) {
      const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
      const bool jamo = c >= 0x1100 && c < 0x1200, hangul = c >= 0xac00 && c < 0xd7a4;
      const bool decomposes = property->decomp_seqindex != 0xffff;
      inert_[c] = property->combining_class == 0 && !jamo && !(hangul && !compose) &&
                  (table.bits(c) & code_point::mark) == 0 && !(decomposes && !survives(c));
    }
  }
  bool normalize(std::string_view text, std::string& out) const override {
    if (is_ascii(text)) return false;
    const char *at = text.data(), *end = at + text.size();
    while (at < end && inert_[next_code_point(at)]) {
    }
    if (at == end && (text.empty() || inert_[last_of(text)])) return false;
    out.clear();
    const UnicodeTable& table = UnicodeTable::get();
    for (const char* from = text.data(); from < end;) {
      const char *place = from, *after = from;
      while (place < end && !table.has(next_code_point(after), CodePointFlag::left_alone)) place = after;
      map(std::string_view(from, static_cast<std::size_t>(place - from)), out);
      out.append(place, after);
      from = after;
    }
    return out != text;
  }

 private:
  static char32_t last_of(std::string_view text) {
    const char* at = previous_code_point(text.data() + text.size());
    return next_code_point(at);
  }
  // Whether a character alone is its own form.
  bool survives(char32_t c) const {
    std::string alone, mapped;
    append_utf8(alone, c);
    map(alone, mapped);
    return alone == mapped;
  }
  void map(std::string_view text, std::string& out) const {
    if (text.empty()) return;
    utf8proc_uint8_t* mapped = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                     static_cast<utf8proc_ssize_t>(text.size()), &mapped, options_);
    if (length < 0) fail("a text cannot be normalized: {}", utf8proc_errmsg(length));
    const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
    out.append(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
  }
  utf8proc_option_t options_;
  std::vector<bool> inert_;
};

std::unique_ptr<Normalizer> form(bool compose, bool compatible, const std::string&, const std::string&) {
  return std::make_unique<Form>(compose, compatible);
}

#else

std::unique_ptr<Normalizer> form(bool, bool, const std::string& type, const std::string& where) {
  fail("{}: {} needs utf8proc, and this program was built without it: install libutf8proc-dev and build again", where,
       type);
}

#endif

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const nlohmann::json& object, const std::string& where) {
  if (object.is_null()) return nullptr;
  const std::string kind = type(object, where);
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const auto& part : list(object, "normalizers", where)) {
      parts.push_back(read_normalizer(part, where));
      if (!parts.back()) fail("{}: a Sequence holds null", where);
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  if (kind == "NFC") return form(true, false, kind, where);
  if (kind == "NFD") return form(false, false, kind, where);
  if (kind == "NFKC") return form(true, true, kind, where);
  if (kind == "NFKD") return form(false, true, kind, where);
  if (kind == "Lowercase") return std::make_unique<MapCharacters>(lower_case);
  if (kind == "Strip")
    return std::make_unique<Strip>(flag(object, "strip_left", where), flag(object, "strip_right", where));
  if (kind == "StripAccents") return std::make_unique<MapCharacters>(strip_accent);
  if (kind == "Nmt") return std::make_unique<MapCharacters>(neural_translation);
  if (kind == "Prepend") return std::make_unique<Prepend>(text(object, "prepend", where));
  if (kind == "Replace")
    return std::make_unique<Replace>(read_pattern(member(object, "pattern"), where), text(object, "content", where));
  if (kind == "Precompiled") return precompiled_normalizer(text(object, "precompiled_charsmap", where), where);
  fail(
      "{} asks for {}, which this program does not have; it has NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, "
      "Nmt, "
      "Prepend, Replace, Precompiled and Sequence",
      where, kind);
}

bool decode_base64(std::string_view encoded, std::string& bytes) {
  static constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  bytes.clear();
  while (encoded.ends_with('=')) encoded.remove_suffix(1);
  std::uint32_t buffer = 0;
  int bits = 0;
  for (char c : encoded) {
    const auto value = alphabet.find(c);
    if (value == std::string_view::npos) return false;
    buffer = (buffer << 6 | static_cast<std::uint32_t>(value)) & 0xffffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<char>(buffer >> bits & 255u));
    }
  }
  return bits < 6;
}

}  // namespace longhaul
