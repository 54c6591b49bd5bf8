// npy: a NumPy array of one dimension, as numpy.save writes it: "\x93NUMPY", a version, the length of a header that is
// a Python dictionary (descr, fortran_order, shape), and the ids. Little-endian integers; it says nothing of documents.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

constexpr std::array types = {std::pair{"|u1", TokenType::uint8}, std::pair{"<u2", TokenType::uint16},
                              std::pair{"<i2", TokenType::int16}, std::pair{"<u4", TokenType::uint32},
                              std::pair{"<i4", TokenType::int32}, std::pair{"<i8", TokenType::int64}};

// The dictionary of a header, of which keys' values are taken as they are written.
class Dictionary {
 public:
  Dictionary(std::string text, const std::string& path) : text_(std::move(text)), path_(path) {
    take('{');
    while (!taken('}')) {
      const std::string key = quoted();
      take(':');
      entries_.emplace_back(key, value());
      if (!taken(',') && !next_is('}')) refuse();
    }
  }
  const std::string& at(const std::string& key) const {
    for (const auto& [name, value] : entries_)
      if (name == key) return value;
    fail("{}: the header of the NumPy array has no {}", path_, key);
  }

 private:
  [[noreturn]] void refuse() const {
    fail("{}: the header of the NumPy array is garbled at its byte {}", path_, place_);
  }
  void skip_space() {
    while (place_ < text_.size() && (text_[place_] == ' ' || text_[place_] == '\n')) ++place_;
  }
  bool next_is(char wanted) {
    skip_space();
    return place_ < text_.size() && text_[place_] == wanted;
  }
  bool taken(char wanted) {
    if (!next_is(wanted)) return false;
    ++place_;
    return true;
  }
  void take(char wanted) {
    if (!taken(wanted)) refuse();
  }
  std::string quoted() {
    skip_space();
    const char quote = place_ < text_.size() ? text_[place_] : 0;
    const std::size_t end = quote == '\'' || quote == '"' ? text_.find(quote, place_ + 1) : std::string::npos;
    if (end == std::string::npos) refuse();
    std::string inside = text_.substr(place_ + 1, end - place_ - 1);
    place_ = end + 1;
    return inside;
  }
  // A text without its quotes, a word, or what stands between brackets, with them.
  std::string value() {
    skip_space();
    if (next_is('\'') || next_is('"')) return quoted();
    const std::size_t begin = place_;
    if (next_is('(') || next_is('[')) {
      int depth = 0;
      for (; place_ < text_.size(); ++place_) {
        depth += text_[place_] == '(' || text_[place_] == '[';
        depth -= text_[place_] == ')' || text_[place_] == ']';
        if (depth == 0) return text_.substr(begin, ++place_ - begin);
      }
      refuse();
    }
    while (place_ < text_.size() && text_[place_] != ',' && text_[place_] != '}') ++place_;
    return text_.substr(begin, place_ - begin);
  }

  std::string text_;
  const std::string& path_;
  std::size_t place_ = 0;
  std::vector<std::pair<std::string, std::string>> entries_;
};

// "(123,)": of one dimension; nothing for another shape.
std::optional<std::int64_t> length_of(const std::string& shape) {
  const std::size_t comma = shape.find(',');
  if (shape.size() < 4 || shape.front() != '(' || comma == std::string::npos) return std::nullopt;
  if (shape.find_first_not_of(" )", comma + 1) != std::string::npos) return std::nullopt;  // more dimensions
  const std::string digits = shape.substr(1, comma - 1);
  if (digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::stoll(digits);
}

class NpyFile : public StoredTokens {
 public:
  explicit NpyFile(const std::string& path) {
    file_ = MappedFile(path);
    const std::string magic("\x93NUMPY", 6);
    if (file_.size() < 10 || std::memcmp(file_.data(), magic.data(), magic.size()) != 0) {
      const std::string kind = kind_of(file_, TakenFor::tokens);
      fail("{} was given as data.format: npy, but {}", path,
           kind.empty() ? "does not begin as a NumPy array does" : "its first bytes are those of " + kind);
    }
    const auto version = load_number<std::uint8_t>(file_, 6, "the version of the NumPy array");
    if (version < 1 || version > 3) fail("{}: version {} of NumPy's format is not known; 1 to 3 are", path, version);
    std::int64_t header = 0, begin = 0;
    if (version == 1) {
      header = load_number<std::uint16_t>(file_, 8, "the length of the header");
      begin = 10;
    } else {
      header = load_number<std::uint32_t>(file_, 8, "the length of the header");
      begin = 12;
    }
    if (header > (1 << 20)) fail("{}: a header of {} bytes is none of a NumPy array", path, header);
    const auto* text = reinterpret_cast<const char*>(file_.at(begin, header, "the header of the NumPy array"));
    take_header(Dictionary(std::string(text, static_cast<std::size_t>(header)), path), path);
    offset_ = begin + header;
    const std::int64_t bytes = file_.size() - offset_;
    if (bytes != count_ * bytes_of(type_))
      fail("{}: its header says {} {} ids, which makes {} bytes, but {} follow it: it is {}", path, count_,
           name_of(type_), count_ * bytes_of(type_), bytes,
           bytes < count_ * bytes_of(type_) ? "truncated" : "not what its header says");
    refuse_empty();
  }

 private:
  void take_header(const Dictionary& header, const std::string& path) {
    const std::string& type = header.at("descr");
    const auto known = std::find_if(types.begin(), types.end(), [&](const auto& one) { return type == one.first; });
    if (known == types.end())
      fail(
          "{}: its dtype is {}{}; token ids are whole numbers of |u1, <u2, <i2, <u4, <i4 or <i8: save it with "
          ".astype('<u2') or .astype('<u4')",
          path, type.substr(0, 40),
          type.starts_with('[')   ? ", a structured one"
          : type.starts_with('>') ? ", big-endian"
                                  : "");
    type_ = known->second;
    if (header.at("fortran_order") != "False")
      fail("{}: it is stored in Fortran order; save it as numpy.ascontiguousarray(ids)", path);
    const std::string& shape = header.at("shape");
    const auto length = length_of(shape);
    if (!length)
      fail("{}: its shape is {}; token ids are an array of one dimension: save ids.ravel()", path, shape.substr(0, 40));
    count_ = *length;
  }
};

// 128 bytes, as NumPy pads it: the count is known only at the end.
constexpr std::int64_t header_bytes = 128;

void finish(const WrittenTokens& written) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({},), }}",
                                   written.width == 2 ? "<u2" : "<u4", written.tokens);
  header.resize(header_bytes - 11, ' ');
  const std::string bytes = std::string("\x93NUMPY\1\0\x76\0", 10) + header + "\n";
  LONGHAUL_CHECK(static_cast<std::int64_t>(bytes.size()) == header_bytes, "a header of {} bytes", bytes.size());
  written.write_header(bytes);
}

const FormatRegistration npy({{.name = "npy", .meaning = "a NumPy array of ids, `.npy`", .documents = ""},
                              {".npy"},
                              only_itself,
                              [](const std::string& path, const FormatOptions&) -> std::unique_ptr<TokenFile> {
                                return std::make_unique<NpyFile>(path);
                              },
                              FormatWriter{.ending = ".npy", .header_bytes = header_bytes, .finish = finish}});

}  // namespace
}  // namespace longhaul
