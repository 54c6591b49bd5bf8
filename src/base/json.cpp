#include "base/json.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/file_kind.h"

namespace longhaul {
namespace {

using nlohmann::json;

/// Hands characters to the parser and counts the lines it has consumed.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, int* line) : at_(at), line_(line) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    if (*at_ == '\n' && line_) ++*line_;
    ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  int* line_;
};

std::string escape_pointer(const std::string& key) {
  std::string text;
  for (char c : key) text += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return text;
}

/// Builds the document, refusing what nlohmann::json's own reader lets pass.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(const std::string& origin, const int* line, JsonLines* lines) : origin_(origin), line_(line), lines_(lines) {}

  json take() { return std::move(root_); }

  bool null() override { return place(nullptr); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(number_integer_t value) override { return place(value); }
  bool number_unsigned(number_unsigned_t value) override { return place(value); }
  bool number_float(number_float_t value, const string_t&) override { return place(value); }
  bool string(string_t& value) override { return place(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (level.value->contains(name))
      fail("{}:{}: the key \"{}\" stands twice in one object; keep one of them", origin_, *line_, name);
    level.key = name;
    if (lines_) (*lines_)[level.pointer + "/" + escape_pointer(name)] = *line_;
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    std::string message = error.what();
    // Drops the library's "[json.exception.parse_error.101] parse error at line 3, column 5: ", which counts from where
    // the token ended; ours is enough.
    if (const auto colon = message.find(": "); colon != std::string::npos) message = message.substr(colon + 2);
    fail("{}:{}: not valid JSON: {}", origin_, *line_, message);
  }

 private:
  struct Level {
    json* value;
    std::string pointer, key;
  };

  json* attach(json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& level = levels_.back();
    if (level.value->is_array()) {
      level.value->push_back(std::move(value));
      return &level.value->back();
    }
    return &((*level.value)[level.key] = std::move(value));
  }
  bool place(json value) {
    attach(std::move(value));
    return true;
  }
  bool open(json value) {
    if (levels_.size() >= 64) fail("{}:{}: nested deeper than 64 levels", origin_, *line_);
    std::string pointer;
    if (!levels_.empty()) {
      const Level& level = levels_.back();
      pointer = level.pointer + "/" +
                (level.value->is_array() ? std::to_string(level.value->size()) : escape_pointer(level.key));
    }
    json* placed = attach(std::move(value));
    levels_.push_back({placed, pointer, ""});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }

  const std::string& origin_;
  const int* line_;
  JsonLines* lines_;
  json root_;
  // Pointers stay valid: only the innermost container grows, and it is always the last child of the one above.
  std::vector<Level> levels_;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& origin, JsonLines* lines) {
  int line = 1;
  Builder builder(origin, &line, lines);
  const bool whole = json::sax_parse(CountingIterator(text.data(), &line),
                                     CountingIterator(text.data() + text.size(), nullptr), &builder);
  if (!whole) fail("{}: not valid JSON", origin);
  return builder.take();
}

nlohmann::json read_json(const std::filesystem::path& file, JsonLines* lines) {
  return parse_json(read_text_file(file), file.string(), lines);
}

std::string read_text_file(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) fail("{}: no such file", file.string());
  if (status.type() == std::filesystem::file_type::none) fail("{}: cannot be read: {}", file.string(), error.message());
  if (!std::filesystem::is_regular_file(status)) fail("{}: not a file", file.string());
  constexpr std::uintmax_t limit = 64u << 20;
  if (const auto size = std::filesystem::file_size(file, error); !error && size > limit)
    fail("{}: {} bytes is too large for a text file of settings (limit {})", file.string(), size, limit);
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("{}: cannot be opened: {}", file.string(), std::generic_category().message(errno));
  // By read(), which notes a failing disk in the stream; iterators let it out as an exception that names no file.
  std::string text;
  for (char piece[1 << 14]; stream.read(piece, sizeof piece) || stream.gcount() > 0;)
    text.append(piece, static_cast<std::size_t>(stream.gcount()));
  if (stream.bad()) fail("{}: cannot be read: {}", file.string(), std::generic_category().message(errno));
  if (const std::string kind = file_kind(std::string_view(text).substr(0, file_kind_bytes), TakenFor::weights);
      !kind.empty())
    fail("{}: not a text file of settings, it is {}", file.string(), kind);
  return text;
}

}  // namespace longhaul
