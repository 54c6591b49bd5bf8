#include "data/stored_tokens.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"

namespace longhaul {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename Function>
decltype(auto) dispatch(TokenType type, Function&& function) {
  switch (type) {
    case TokenType::uint8:
      return function(std::uint8_t{});
    case TokenType::int8:
      return function(std::int8_t{});
    case TokenType::int16:
      return function(std::int16_t{});
    case TokenType::uint16:
      return function(std::uint16_t{});
    case TokenType::int32:
      return function(std::int32_t{});
    case TokenType::uint32:
      return function(std::uint32_t{});
    case TokenType::int64:
      break;
  }
  return function(std::int64_t{});
}

template <typename T>
bool outside(T low, T high, std::int64_t vocabulary) {
  return low < 0 || static_cast<std::uint64_t>(high) >= static_cast<std::uint64_t>(vocabulary);
}

// Tokens [first, last) of a file, one of which is outside the vocabulary, beginning at byte `offset`.
template <typename T>
[[noreturn]] void refuse_token(const MappedFile& file, std::int64_t offset, std::int64_t first, std::int64_t last,
                               std::int64_t vocabulary) {
  constexpr auto width = static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t i = first; i < last; ++i) {
    const T token = load<T>(file.data() + offset + i * width);
    if (outside(token, token, vocabulary))
      fail(
          "{}: token {} at byte {} (token number {}) is outside the model's vocabulary of {}: the file was made for "
          "another tokenizer, or has another format",
          file.path(), static_cast<std::int64_t>(token), offset + i * width, i, vocabulary);
  }
  fail("{}: tokens {} to {} are being changed while the run reads them", file.path(), first, last);
}

}  // namespace

std::int64_t bytes_of(TokenType type) {
  return dispatch(type, [](auto zero) { return static_cast<std::int64_t>(sizeof(zero)); });
}

std::string_view name_of(TokenType type) {
  static constexpr std::string_view names[] = {"uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"};
  return names[static_cast<int>(type)];
}

std::pair<std::int64_t, std::int64_t> share_of(std::int64_t total, std::int64_t begin, std::int64_t end,
                                               std::int64_t size) {
  const auto at = [&](std::int64_t token) {
    return static_cast<std::int64_t>(static_cast<__int128>(total) * token / size);
  };
  return {at(begin), at(end)};
}

std::string kind_of(const MappedFile& file, TakenFor expected) {
  return file_kind({reinterpret_cast<const char*>(file.data()),
                    static_cast<std::size_t>(std::min<std::int64_t>(file.size(), file_kind_bytes))},
                   expected);
}

void refuse_other_kinds(const MappedFile& file, std::string_view format, TakenFor expected) {
  const std::string kind = kind_of(file, expected);
  if (!kind.empty())
    fail("{} was given as data.format: {}, but its first bytes are those of {}", file.path(), format, kind);
}

void StoredTokens::refuse_empty() const {
  if (count_ == 0) fail("{} holds no tokens", file_.path());
}

std::int64_t StoredTokens::checked_end(std::int64_t document, std::int64_t end, const std::string& where) const {
  if (end < 0 || end > count_)
    fail("{}: document {} ends at token {}, but {} has {}", where, document, end, file_.path(), count_);
  return end;
}

void StoredTokens::validate_documents(std::int64_t begin, std::int64_t end, const std::string& where) const {
  const auto [first, last] = share_of(documents(), begin, end, size());
  for (std::int64_t document = first; document < last; ++document) {
    const std::int64_t start = document == 0 ? 0 : document_end(document - 1);
    if (document_end(document) < start)
      fail("{}: document {} ends at token {}, before it begins at {}", where, document, document_end(document), start);
  }
}

void StoredTokens::read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const {
  require_unchanged();
  const std::byte* from = file_.data() + offset_ + begin * bytes_of(type_);
  dispatch(type_, [&](auto zero) {
    using T = decltype(zero);
    // Checked every time, at the width they are stored in: a wrong id would be a read outside the embedding.
    T low = 0, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (std::int64_t i = 0; i < amount; ++i) {
      const T token = load<T>(from + i * static_cast<std::int64_t>(sizeof(T)));
      low = std::min(low, token);
      high = std::max(high, token);
      out[i] = static_cast<std::int32_t>(token);
    }
    if (outside(low, high, vocabulary)) refuse_token<T>(file_, offset_, begin, begin + amount, vocabulary);
  });
}

void StoredTokens::validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const {
  dispatch(type_, [&](auto zero) {
    using T = decltype(zero);
    constexpr auto largest = static_cast<std::int64_t>(std::numeric_limits<T>::max());
    if (!std::numeric_limits<T>::is_signed && vocabulary > largest) return;
    const std::byte* data = file_.data() + offset_;
    constexpr auto width = static_cast<std::int64_t>(sizeof(T));
    constexpr std::int64_t block = 1 << 16;
    for (std::int64_t first = begin; first < end; first += block) {
      const std::int64_t last = std::min(end, first + block);
      // Minimum and maximum of a block vectorize (-O2 does it only when asked); the search for the culprit happens
      // once.
      T low = 0, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
      for (std::int64_t i = first; i < last; ++i) {
        const T token = load<T>(data + i * width);
        low = std::min(low, token);
        high = std::max(high, token);
      }
      if (outside(low, high, vocabulary)) refuse_token<T>(file_, offset_, first, last, vocabulary);
    }
  });
}

}  // namespace longhaul
