#include "tokenizer/unicode.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/unicode_table.h"

namespace longhaul {

UnicodeTable::UnicodeTable() : index_(0x110000) {
  kinds_.assign(unicode_table::kinds, unicode_table::kinds + unicode_table::kind_count);
  std::size_t at = 0;
  for (std::size_t i = 0; i < unicode_table::run_count; ++i) {
    const std::uint32_t length = unicode_table::runs[i] / 128;
    std::memset(index_.data() + at, static_cast<int>(unicode_table::runs[i] % 128), length);
    at += length;
  }
  // White space is a few controls of one kind with others: those get kinds of their own.
  const std::size_t control = index_[0], first = kinds_.size();
  kinds_.push_back(kinds_[control]);
  for (char32_t c : {0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x85}) index_[c] = static_cast<std::uint8_t>(first);
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    std::uint32_t bits = 1u << (kinds_[kind] & 31u);
    if (kind == first || (bits & code_point::separator) != 0) bits |= code_point::white_space;
    if ((kinds_[kind] >> 5 & 1u) != 0) bits |= code_point::han;
    bits_.push_back(bits);
  }
}

const UnicodeTable& UnicodeTable::get() {
  static const UnicodeTable table;
  return table;
}

void UnicodeTable::append_lower(char32_t c, std::string& text) const {
  if (c == 0x130) {
    text += "i\xcc\x87";  // the one letter whose lower case is two characters
    return;
  }
  const auto value = static_cast<std::int32_t>(c);
  const auto* begin = unicode_table::lower_runs;
  const auto* run = std::partition_point(begin, begin + unicode_table::lower_run_count,
                                         [&](const std::int32_t(&one)[4]) { return one[1] < value; });
  const bool upper =
      run != begin + unicode_table::lower_run_count && value >= (*run)[0] && (value - (*run)[0]) % (*run)[2] == 0;
  append_utf8(text, upper ? static_cast<char32_t>(value + (*run)[3]) : c);
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](std::uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0u | c >> 6);
    put(0x80u | (c & 63u));
  } else if (c < 0x10000) {
    put(0xe0u | c >> 12);
    put(0x80u | (c >> 6 & 63u));
    put(0x80u | (c & 63u));
  } else {
    put(0xf0u | c >> 18);
    put(0x80u | (c >> 12 & 63u));
    put(0x80u | (c >> 6 & 63u));
    put(0x80u | (c & 63u));
  }
}

namespace {

// Bytes of ASCII at the beginning, eight at a time.
std::size_t ascii_prefix(const char* data, std::size_t size) {
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (i < size && static_cast<unsigned char>(data[i]) < 0x80) ++i;
  return i;
}

// Length of the valid character at `at` (which is not ASCII), or 0.
int valid_character(const unsigned char* at, std::size_t left) {
  const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
    return i < left && at[i] >= low && at[i] <= high;
  };
  const unsigned lead = at[0];
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef)
    return continues(1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf) && continues(2) ? 3 : 0;
  if (lead >= 0xf0 && lead <= 0xf4)
    return continues(1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf) && continues(2) && continues(3) ? 4 : 0;
  return 0;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t i = 0;
  for (;;) {
    i += ascii_prefix(text.data() + i, text.size() - i);
    // Several other characters in a row before the search for ASCII begins again.
    while (i < text.size() && static_cast<unsigned char>(text[i]) >= 0x80) {
      const int length = valid_character(reinterpret_cast<const unsigned char*>(text.data()) + i, text.size() - i);
      if (length == 0) return i;
      i += static_cast<std::size_t>(length);
    }
    if (i == text.size()) return i;
  }
}

std::size_t unfinished_utf8_suffix(std::string_view text) {
  for (std::size_t count = 1; count <= std::min<std::size_t>(3, text.size()); ++count) {
    unsigned char character[4] = {0, 0x80, 0x80, 0x80};
    std::memcpy(character, text.data() + text.size() - count, count);
    if ((character[0] & 0xc0u) == 0x80u) continue;
    const auto length = static_cast<std::size_t>(utf8_length(character[0]));
    if (character[0] < 0xc2 || character[0] > 0xf4 || length <= count) return 0;
    return count == 1 || valid_character(character, length) != 0 ? count : 0;
  }
  return 0;
}

bool is_ascii(std::string_view text) {
  return ascii_prefix(text.data(), text.size()) == text.size();
}

std::string escape_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + 16);
  const auto escape = [&](std::string_view part) {
    for (char byte : part) append_utf8(text, first_escape + static_cast<unsigned char>(byte));
  };
  while (!bytes.empty()) {
    const std::size_t valid = valid_utf8_prefix(bytes);
    std::string_view good = bytes.substr(0, valid);
    // Characters that look like escapes: f4 8f bc 80 to f4 8f bf bf.
    for (;;) {
      const std::size_t found = good.find("\xf4\x8f");
      if (found == std::string_view::npos) break;
      const bool collides = static_cast<unsigned char>(good[found + 2]) >= 0xbc;
      text.append(good.substr(0, found + (collides ? 0 : 4)));
      if (collides) escape(good.substr(found, 4));
      good.remove_prefix(found + 4);
    }
    text.append(good);
    bytes.remove_prefix(valid);
    if (!bytes.empty()) {
      escape(bytes.substr(0, 1));
      bytes.remove_prefix(1);
    }
  }
  return text;
}

void unescape(std::string_view text, std::string& bytes) {
  for (;;) {
    const std::size_t found = text.find("\xf4\x8f");
    if (found == std::string_view::npos) break;
    const char* at = text.data() + found;
    const char32_t c = next_code_point(at);
    if (is_escape(c)) {
      bytes.append(text.substr(0, found));
      bytes.push_back(static_cast<char>(c - first_escape));
    } else {
      bytes.append(text.substr(0, found + 4));
    }
    text.remove_prefix(found + 4);
  }
  bytes.append(text);
}

}  // namespace longhaul
