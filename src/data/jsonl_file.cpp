#include "data/jsonl_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longhaul {
namespace {

constexpr std::int64_t mark_distance = 1 << 12;  // tokens: what a read may decode in vain

// The number of four hexadecimal digits; -1 when they are not such.
int hexadecimal(const char* digits) {
  int value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = digits[i];
    if ((c < '0' || c > '9') && ((c | 0x20) < 'a' || (c | 0x20) > 'f')) return -1;
    value = value << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
}

constexpr int replacement_character = 0xfffd;
bool first_half(int code) {
  return code >= 0xd800 && code < 0xdc00;
}
bool second_half(int code) {
  return code >= 0xdc00 && code < 0xe000;
}

int utf8(unsigned code, std::array<std::uint8_t, 4>& bytes) {
  const auto tail = [&](int shift) { return static_cast<std::uint8_t>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    bytes[0] = static_cast<std::uint8_t>(code);
    return 1;
  }
  if (code < 0x800) {
    bytes = {static_cast<std::uint8_t>(0xc0 | code >> 6), tail(0)};
    return 2;
  }
  if (code < 0x10000) {
    bytes = {static_cast<std::uint8_t>(0xe0 | code >> 12), tail(6), tail(0)};
    return 3;
  }
  bytes = {static_cast<std::uint8_t>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
  return 4;
}

// The next byte of a string, or all bytes of the next escaped character; 0 when no valid string goes on so before
// `end`: the file may have changed since it was checked. `lone`: counts halves of surrogate pairs.
int decode(const char*& at, const char* end, std::array<std::uint8_t, 4>& bytes, std::int64_t* lone = nullptr) {
  if (*at != '\\') {
    bytes[0] = static_cast<std::uint8_t>(*at++);
    return 1;
  }
  if (end - at < 2) return 0;
  const char kind = at[1];
  at += 2;
  int code = static_cast<unsigned char>(kind);  // of ", \ and /
  if (kind == 'b') code = '\b';
  if (kind == 'f') code = '\f';
  if (kind == 'n') code = '\n';
  if (kind == 'r') code = '\r';
  if (kind == 't') code = '\t';
  if (kind == 'u') {
    if (end - at < 4 || (code = hexadecimal(at)) < 0) return 0;
    at += 4;
    const int next = first_half(code) && end - at >= 6 && at[0] == '\\' && at[1] == 'u' ? hexadecimal(at + 2) : -1;
    if (second_half(next)) {
      code = 0x10000 + ((code - 0xd800) << 10) + (next - 0xdc00);
      at += 6;
    } else if (first_half(code) || second_half(code)) {
      code = replacement_character;
      if (lone) ++*lone;
    }
  }
  return utf8(static_cast<unsigned>(code), bytes);
}

bool blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

// Walks the members of an object that is known to be valid JSON.
class Members {
 public:
  Members(std::string_view text, std::size_t begin) : text_(text), at_(begin) {}

  struct Member {
    std::string name;
    std::size_t value;  // where it begins
  };
  std::optional<Member> next() {
    skip_blanks();
    if (text_[at_] == '{' || text_[at_] == ',') ++at_;
    skip_blanks();
    if (text_[at_] == '}') return std::nullopt;
    Member member;
    const char* name = text_.data() + at_ + 1;
    std::array<std::uint8_t, 4> bytes;
    while (*name != '"') {
      const int count = decode(name, text_.data() + text_.size(), bytes);
      for (int i = 0; i < count; ++i) member.name += static_cast<char>(bytes[static_cast<std::size_t>(i)]);
    }
    skip_string();
    skip_blanks();
    ++at_;  // the colon
    skip_blanks();
    member.value = at_;
    skip_value();
    return member;
  }

 private:
  void skip_blanks() {
    while (blank(text_[at_])) ++at_;
  }
  void skip_string() {
    for (++at_; text_[at_] != '"'; ++at_)
      if (text_[at_] == '\\') ++at_;
    ++at_;
  }
  void skip_value() {
    for (int depth = 0;;) {
      const char c = text_[at_];
      if (c == '"') {
        skip_string();
        if (depth == 0) return;
        continue;
      }
      if (depth == 0 && (c == ',' || c == '}')) return;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      ++at_;
      if (depth == 0 && (c == '}' || c == ']')) return;
    }
  }

  std::string_view text_;
  std::size_t at_;
};

// True for what JSON's grammar calls a number.
bool is_json_number(std::string_view text) {
  const auto digits = [&] {
    const std::size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(count);
    return count > 0;
  };
  if (text.starts_with('-')) text.remove_prefix(1);
  if (text.starts_with('0'))
    text.remove_prefix(1);
  else if (!digits())
    return false;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    if (!digits()) return false;
  }
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    if (!digits()) return false;
  }
  return text.empty();
}

// A line as a strict parser takes it, of the same length: what Python's json module writes beyond the standard is
// replaced by something plain.
void make_strict(std::string& line) {
  const auto replace = [&](std::size_t begin, std::size_t count) {
    line.replace(begin, count, "0" + std::string(count - 1, ' '));
  };
  bool inside = false;
  for (std::size_t at = 0; at < line.size();) {
    const char c = line[at];
    if (inside) {
      if (c == '\\' && at + 5 < line.size() && line[at + 1] == 'u') {
        const int code = hexadecimal(line.data() + at + 2);
        const bool pair = first_half(code) && at + 11 < line.size() && line[at + 6] == '\\' && line[at + 7] == 'u' &&
                          second_half(hexadecimal(line.data() + at + 8));
        if (!pair && (first_half(code) || second_half(code))) line.replace(at + 2, 4, "fffd");
        at += pair ? 12 : 6;
        continue;
      }
      inside = c != '"';
      at += c == '\\' ? 2 : 1;
      continue;
    }
    inside = c == '"';
    if (c == '-' || (c >= '0' && c <= '9')) {
      const bool infinite = std::string_view(line).substr(at).starts_with("-Infinity");
      const std::size_t end = infinite ? at + 9 : std::min(line.find_first_not_of("+-.0123456789eE", at), line.size());
      if (infinite || is_json_number(std::string_view(line).substr(at, end - at))) replace(at, end - at);
      at = end;
      continue;
    }
    for (const std::string_view word : {"NaN", "Infinity"})
      if (std::string_view(line).substr(at).starts_with(word)) replace(at, word.size());
    ++at;
  }
}

std::string kind_of(char first) {
  switch (first) {
    case '"':
      return "a string";
    case '{':
      return "an object";
    case '[':
      return "a list";
    case 'n':
      return "null";
    case 't':
    case 'f':
      return "a boolean";
    default:
      return first == '-' || (first >= '0' && first <= '9') ? "a number" : "something else";
  }
}

// What the parser says of one line, without its own numbering of lines.
std::string complaint(std::string_view line) {
  try {
    const auto parsed = nlohmann::json::parse(line);
    LONGHAUL_CHECK(parsed.is_discarded(), "a line is valid JSON after all");
  } catch (const nlohmann::json::exception& error) {
    std::string text = error.what();
    if (const auto bracket = text.find("] "); bracket != std::string::npos) text = text.substr(bracket + 2);
    if (const auto column = text.find("column "); column != std::string::npos) text = text.substr(column);
    if (text.size() > 200) text = text.substr(0, 200) + "...";
    return text;
  }
  return "";
}

}  // namespace

void JsonlFile::refuse(std::int64_t line, const std::string& what) const {
  fail("{}:{}: {}", path_, line, what);
}

JsonlFile::JsonlFile(std::string_view text, std::string path, std::optional<std::int32_t> end_token)
    : text_(text), path_(std::move(path)), end_token_(end_token) {
  std::int64_t line = 1;
  std::size_t begin = 0;
  for (; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    index_line(begin, end, line);
    begin = end + 1;
  }
}

void JsonlFile::index_line(std::size_t begin, std::size_t end, std::int64_t line) {
  if (text_.substr(begin, end - begin).starts_with("\xef\xbb\xbf")) begin += 3;  // a byte order mark
  // A copy of our own: what is checked must be what is indexed, should somebody write to the file now.
  const std::string written(text_.substr(begin, end - begin));
  std::string whole = written;
  const auto first = std::find_if_not(whole.begin(), whole.end(), blank);
  if (first == whole.end()) return;
  make_strict(whole);
  // The parser takes a NUL byte for the end of its input.
  if (const auto nul = whole.find('\0'); nul != std::string::npos)
    refuse(line, fmt::format("not valid JSON: column {}: a NUL byte", nul + 1));
  if (!nlohmann::json::accept(whole))
    refuse(line, fmt::format("not valid JSON: {}{}", complaint(whole),
                             *first == '[' || *first == '{' ? "" : " (each line must be a JSON object)"));
  if (*first != '{') refuse(line, fmt::format("the line is {}; it must be an object", kind_of(*first)));
  constexpr std::array<std::string_view, 3> fields = {"text", "prompt", "completion"};
  std::array<std::optional<std::size_t>, 3> found;
  std::vector<std::string> others;
  Members members(whole, static_cast<std::size_t>(first - whole.begin()));
  while (const auto member = members.next()) {
    const auto field = std::find(fields.begin(), fields.end(), member->name);
    if (field == fields.end()) {
      if (others.size() < 8) others.push_back(member->name.substr(0, 40));
      continue;
    }
    auto& place = found[static_cast<std::size_t>(field - fields.begin())];
    if (place) refuse(line, fmt::format("the field {} stands twice", member->name));
    if (whole[member->value] != '"')
      refuse(line, fmt::format("the field {} is {}; it must be a string", member->name, kind_of(whole[member->value])));
    place = member->value + 1;
  }
  const auto& [plain, prompt, completion] = found;
  if (plain && (prompt || completion))
    refuse(line, fmt::format("it has both text and {}; a line is either a text or a prompt with its completion",
                             prompt ? "prompt" : "completion"));
  if (prompt.has_value() != completion.has_value())
    refuse(line, fmt::format("it has {0} but no {1}; give both, or text", prompt ? "prompt" : "completion",
                             prompt ? "completion" : "prompt"));
  if (!plain && !prompt)
    refuse(line, fmt::format("it has neither text nor prompt and completion{}",
                             others.empty() ? "" : fmt::format("; its fields are {}", fmt::join(others, ", "))));
  documents_.push_back({.first = size_, .prompt = 0, .line = line});
  if (plain) index_string(written, *plain, begin);
  if (prompt) {
    index_string(written, *prompt, begin);
    documents_.back().prompt = size_ - documents_.back().first;
    prompt_tokens_ += documents_.back().prompt;
    index_string(written, *completion, begin);
  }
  if (end_token_) ++size_;
}

// The string that begins at `place` of a line, as it is written; the line begins at `offset` of the file.
void JsonlFile::index_string(std::string_view line, std::size_t place, std::size_t offset) {
  marks_.push_back({size_, static_cast<std::int64_t>(offset + place)});
  std::array<std::uint8_t, 4> bytes;
  const char* end = line.data() + line.size();
  for (const char* at = line.data() + place; *at != '"'; size_ += decode(at, end, bytes, &lone_surrogates_)) {
    if (size_ - marks_.back().token >= mark_distance)
      marks_.push_back({size_, static_cast<std::int64_t>(offset) + (at - line.data())});
  }
}

std::int64_t JsonlFile::document_end(std::int64_t document) const {
  const auto next = static_cast<std::size_t>(document) + 1;
  return next < documents_.size() ? documents_[next].first : size_;
}

std::size_t JsonlFile::document_of(std::int64_t token) const {
  const auto after = std::upper_bound(documents_.begin(), documents_.end(), token,
                                      [](std::int64_t value, const Document& one) { return value < one.first; });
  return static_cast<std::size_t>(after - documents_.begin()) - 1;
}

void JsonlFile::read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const {
  while (count > 0) {
    const auto document = static_cast<std::int64_t>(document_of(begin));
    if (end_token_ && begin == document_end(document) - 1) {
      *tokens++ = *end_token_;
      ++begin;
      --count;
      continue;
    }
    const auto mark = std::prev(std::upper_bound(
        marks_.begin(), marks_.end(), begin, [](std::int64_t value, const Mark& one) { return value < one.token; }));
    std::array<std::uint8_t, 4> bytes;
    std::int64_t token = mark->token;
    const std::int64_t end = begin + count;
    const char* text_end = text_.data() + text_.size();
    for (const char* at = text_.data() + mark->offset; at < text_end && *at != '"' && token < end;) {
      const int width = decode(at, text_end, bytes);
      if (width == 0) break;
      for (int i = 0; i < width; ++i, ++token)
        if (token >= begin && token < end) *tokens++ = bytes[static_cast<std::size_t>(i)];
    }
    token = std::min(token, end);
    if (token <= begin)
      refuse(
          documents_[static_cast<std::size_t>(document)].line,
          fmt::format("token {} is in no string any more: the file was changed while the run was reading it", begin));
    count -= token - begin;
    begin = token;
  }
}

void JsonlFile::read_prompt_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const {
  while (count > 0) {
    const std::size_t document = document_of(begin);
    const std::int64_t prompt_end = documents_[document].first + documents_[document].prompt;
    const std::int64_t end = std::min(begin + count, document_end(static_cast<std::int64_t>(document)));
    for (std::int64_t token = begin; token < end; ++token) *mask++ = token >= prompt_end;
    count -= end - begin;
    begin = end;
  }
}

void JsonlFile::validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const {
  if (vocabulary >= 256) return;  // the end token was checked before
  std::vector<std::int32_t> block(static_cast<std::size_t>(mark_distance));
  for (; begin < end; begin += mark_distance) {
    const std::int64_t count = std::min(mark_distance, end - begin);
    read(begin, count, block.data());
    for (std::int64_t i = 0; i < count; ++i)
      if (const std::int32_t token = block[static_cast<std::size_t>(i)]; token >= vocabulary)
        refuse(documents_[document_of(begin + i)].line,
               fmt::format("byte {} (character '{}') is outside the model's vocabulary of {}; bytes need 256", token,
                           token >= 32 && token < 127 ? std::string(1, static_cast<char>(token))
                                                      : "\\x" + fmt::format("{:02x}", token),
                           vocabulary));
  }
}

}  // namespace longhaul
