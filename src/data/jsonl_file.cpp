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

unsigned hexadecimal(const char* digits) {
  unsigned value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = digits[i];
    value = value << 4 | static_cast<unsigned>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
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

// The next byte of a string, or all bytes of the next escaped character. The string is known to be valid JSON and `at`
// not at its end.
int decode(const char*& at, std::array<std::uint8_t, 4>& bytes) {
  if (*at != '\\') {
    bytes[0] = static_cast<std::uint8_t>(*at++);
    return 1;
  }
  const char kind = at[1];
  at += 2;
  unsigned code = static_cast<unsigned char>(kind);  // of ", \ and /
  if (kind == 'b') code = '\b';
  if (kind == 'f') code = '\f';
  if (kind == 'n') code = '\n';
  if (kind == 'r') code = '\r';
  if (kind == 't') code = '\t';
  if (kind == 'u') {
    code = hexadecimal(at);
    at += 4;
    if (code >= 0xd800 && code < 0xdc00) {  // the first half of a pair
      code = 0x10000 + ((code - 0xd800) << 10) + (hexadecimal(at + 2) - 0xdc00);
      at += 6;
    }
  }
  return utf8(code, bytes);
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
      const int count = decode(name, bytes);
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
  std::size_t begin = text.starts_with("\xef\xbb\xbf") ? 3 : 0;  // a byte order mark
  for (; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    index_line(begin, end, line);
    begin = end + 1;
  }
}

void JsonlFile::index_line(std::size_t begin, std::size_t end, std::int64_t line) {
  const std::string_view whole = text_.substr(begin, end - begin);
  const auto first = std::find_if_not(whole.begin(), whole.end(), blank);
  if (first == whole.end()) return;
  // The parser takes a NUL byte for the end of its input.
  if (const auto nul = whole.find('\0'); nul != std::string_view::npos)
    refuse(line, fmt::format("not valid JSON: column {}: a NUL byte", nul + 1));
  if (!nlohmann::json::accept(whole))
    refuse(line, fmt::format("not valid JSON: {}{}", complaint(whole),
                             *first == '[' || *first == '{' ? "" : " (each line must be a JSON object)"));
  if (*first != '{') refuse(line, fmt::format("the line is {}; it must be an object", kind_of(*first)));
  constexpr std::array<std::string_view, 3> fields = {"text", "prompt", "completion"};
  std::array<std::optional<std::size_t>, 3> found;
  std::vector<std::string> others;
  Members members(text_, begin + static_cast<std::size_t>(first - whole.begin()));
  while (const auto member = members.next()) {
    const auto field = std::find(fields.begin(), fields.end(), member->name);
    if (field == fields.end()) {
      if (others.size() < 8) others.push_back(member->name.substr(0, 40));
      continue;
    }
    auto& place = found[static_cast<std::size_t>(field - fields.begin())];
    if (place) refuse(line, fmt::format("the field {} stands twice", member->name));
    if (text_[member->value] != '"')
      refuse(line, fmt::format("the field {} is {}; it must be a string", member->name, kind_of(text_[member->value])));
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
  if (plain) index_string(*plain);
  if (prompt) {
    index_string(*prompt);
    documents_.back().prompt = size_ - documents_.back().first;
    prompt_tokens_ += documents_.back().prompt;
    index_string(*completion);
  }
  if (end_token_) ++size_;
}

void JsonlFile::index_string(std::size_t offset) {
  marks_.push_back({size_, static_cast<std::int64_t>(offset)});
  std::array<std::uint8_t, 4> bytes;
  for (const char* at = text_.data() + offset; *at != '"'; size_ += decode(at, bytes))
    if (size_ - marks_.back().token >= mark_distance) marks_.push_back({size_, at - text_.data()});
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
    for (const char* at = text_.data() + mark->offset; *at != '"' && token < end;) {
      const int width = decode(at, bytes);
      for (int i = 0; i < width; ++i, ++token)
        if (token >= begin && token < end) *tokens++ = bytes[static_cast<std::size_t>(i)];
    }
    token = std::min(token, end);
    LONGHAUL_CHECK(token > begin, "token {} of {} is in no string", begin, path_);
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
