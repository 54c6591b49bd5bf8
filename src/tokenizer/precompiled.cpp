// The character map of a sentencepiece model: a double-array trie of what is replaced, and the replacements.
//
// Layout: uint32 bytes of the trie; its uint32 units; then the replacements, each ended by a NUL. A unit holds a label
// (bits 0-7 and 31), whether a leaf follows (bit 8), and the offset of its children (bits 10-31, times 256 when bit 9
// is set); a leaf holds a value: where in the replacements its own begins.
#include <cstring>
#include <vector>

#include "tokenizer/json_fields.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

#ifdef LONGHAUL_WITH_UTF8PROC
#include <utf8proc.h>
#endif

namespace longhaul {

#ifdef LONGHAUL_WITH_UTF8PROC
namespace {

class Precompiled : public Normalizer {
 public:
  Precompiled(std::string_view map, const std::string& where) {
    std::uint32_t bytes = 0;
    if (map.size() >= 4) std::memcpy(&bytes, map.data(), 4);
    if (map.size() < 4 || bytes == 0 || bytes % 4 != 0 || bytes > map.size() - 4)
      fail("{}: precompiled_charsmap is garbled: its trie should have {} of {} bytes", where, bytes, map.size());
    units_.resize(bytes / 4);
    std::memcpy(units_.data(), map.data() + 4, bytes);
    replacements_ = map.substr(4 + bytes);
    if (replacements_.empty() || replacements_.back() != '\0') replacements_.push_back('\0');
  }

  bool normalize(std::string_view text, std::string& out) const override {
    out.clear();
    bool changed = false;
    const auto one = [&](std::string_view part) {
      if (const char* replacement = find(part)) {
        out += replacement;
        changed = true;
        return true;
      }
      return false;
    };
    // A grapheme of at most five bytes is looked up whole; what is not found, character by character.
    while (!text.empty()) {
      const std::string_view grapheme = text.substr(0, grapheme_length(text));
      if (grapheme.size() >= 6 || !one(grapheme)) {
        for (const char *at = grapheme.data(), *end = at + grapheme.size(); at < end;) {
          const char* begin = at;
          next_code_point(at);
          const std::string_view part(begin, static_cast<std::size_t>(at - begin));
          if (!one(part)) out += part;
        }
      }
      text.remove_prefix(grapheme.size());
    }
    return changed;
  }

 private:
  static std::size_t grapheme_length(std::string_view text) {
    const char *at = text.data(), *end = at + text.size();
    auto previous = static_cast<utf8proc_int32_t>(next_code_point(at));
    utf8proc_int32_t state = 0;
    while (at < end) {
      const char* after = at;
      const auto next = static_cast<utf8proc_int32_t>(next_code_point(after));
      if (utf8proc_grapheme_break_stateful(previous, next, &state)) break;
      previous = next;
      at = after;
    }
    return static_cast<std::size_t>(at - text.data());
  }

  // The replacement of the shortest prefix that has one, or null. The prefix stands for the whole part: so does the
  // library.
  const char* find(std::string_view part) const {
    std::size_t node = 0;
    std::uint32_t unit = units_[0];
    node ^= offset(unit);
    for (char letter : part) {
      const auto byte = static_cast<unsigned char>(letter);
      if (byte == 0) break;
      node ^= byte;
      if (node >= units_.size()) return nullptr;
      unit = units_[node];
      if ((unit & (1u << 31 | 0xffu)) != byte) return nullptr;
      node ^= offset(unit);
      if ((unit >> 8 & 1u) == 0) continue;
      if (node >= units_.size()) return nullptr;
      const std::uint32_t value = units_[node] & 0x7fffffffu;
      return value < replacements_.size() ? replacements_.data() + value : nullptr;
    }
    return nullptr;
  }
  static std::size_t offset(std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & (1u << 9)) >> 6); }

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

}  // namespace

std::unique_ptr<Normalizer> precompiled_normalizer(std::string_view base64, const std::string& where) {
  std::string map;
  if (!decode_base64(base64, map)) fail("{}: precompiled_charsmap is not base64", where);
  return std::make_unique<Precompiled>(map, where);
}

#else

std::unique_ptr<Normalizer> precompiled_normalizer(std::string_view, const std::string& where) {
  fail("{}: Precompiled needs utf8proc, and this program was built without it: install libutf8proc-dev and build again",
       where);
}

#endif

}  // namespace longhaul
