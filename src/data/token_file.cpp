#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace longhaul {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

// Sequence and document arrays of a Megatron index start at byte 34: nothing in them is aligned.
constexpr std::int64_t megatron_header = 34;

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

std::int64_t sequence_length(const TokenFile& file, std::int64_t sequence) {
  return load<std::int32_t>(file.index.data() + megatron_header + 4 * sequence);
}
std::int64_t sequence_pointer(const TokenFile& file, std::int64_t sequence) {
  return load<std::int64_t>(file.index.data() + megatron_header + 4 * file.sequences + 8 * sequence);
}
// The sequence at which a document begins; entry `documents` is the number of sequences.
std::int64_t document_sequence(const TokenFile& file, std::int64_t document) {
  return load<std::int64_t>(file.index.data() + megatron_header + 12 * file.sequences + 8 * document);
}

// Entries [first, last) of `total` that belong to the share [begin, end) of `size`; shares that cover everything give
// every entry once.
std::pair<std::int64_t, std::int64_t> share(std::int64_t total, std::int64_t begin, std::int64_t end,
                                            std::int64_t size) {
  const auto at = [&](std::int64_t token) {
    return static_cast<std::int64_t>(static_cast<__int128>(total) * token / size);
  };
  return {at(begin), at(end)};
}

// Tokens [first, last) of a file. `at(i)` gives token i; low and high are the smallest and largest of a range.
template <typename T>
[[noreturn]] void refuse_token(const TokenFile& file, std::int64_t first, std::int64_t last, std::int64_t vocabulary) {
  const std::byte* data = file.tokens_file.data() + file.tokens_offset;
  constexpr auto width = static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t i = first; i < last; ++i) {
    const T token = load<T>(data + i * width);
    if (token < 0 || static_cast<std::uint64_t>(token) >= static_cast<std::uint64_t>(vocabulary))
      fail(
          "{}: token {} at byte {} (token number {}) is outside the model's vocabulary of {}: the file was made for "
          "another tokenizer, or has another format",
          file.tokens_file.path(), static_cast<std::int64_t>(token), file.tokens_offset + i * width, i, vocabulary);
  }
  fail("{}: tokens {} to {} are being changed while the run reads them", file.tokens_file.path(), first, last);
}

template <typename T>
bool outside(T low, T high, std::int64_t vocabulary) {
  return low < 0 || static_cast<std::uint64_t>(high) >= static_cast<std::uint64_t>(vocabulary);
}

}  // namespace

std::int64_t bytes_of(TokenType type) {
  return dispatch(type, [](auto zero) { return static_cast<std::int64_t>(sizeof(zero)); });
}

std::string_view name_of(TokenType type) {
  static constexpr std::string_view names[] = {"uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"};
  return names[static_cast<int>(type)];
}

std::int64_t largest_value(TokenType type) {
  return dispatch(type,
                  [](auto zero) { return static_cast<std::int64_t>(std::numeric_limits<decltype(zero)>::max()); });
}

void TokenFile::require_unchanged() const {
  tokens_file.require_unchanged();
  if (index_kind == Index::datatrove || index_kind == Index::megatron) index.require_unchanged();
  if (loss) loss->require_unchanged();
}

void TokenFile::read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const {
  require_unchanged();
  if (jsonl) {
    jsonl->read(begin, amount, out);
    if (vocabulary < 256) jsonl->validate(begin, begin + amount, vocabulary);
    return;
  }
  const std::int64_t stored = std::min(amount, count - begin);
  if (stored < amount) out[amount - 1] = *separator;
  if (stored <= 0) return;
  const std::byte* from = tokens_file.data() + tokens_offset + begin * bytes_of(type);
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    // Checked every time, at the width they are stored in: a wrong id would be a read outside the embedding.
    T low = 0, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (std::int64_t i = 0; i < stored; ++i) {
      const T token = load<T>(from + i * static_cast<std::int64_t>(sizeof(T)));
      low = std::min(low, token);
      high = std::max(high, token);
      out[i] = static_cast<std::int32_t>(token);
    }
    if (outside(low, high, vocabulary)) refuse_token<T>(*this, begin, begin + stored, vocabulary);
  });
}

void TokenFile::read_loss_mask(std::int64_t begin, std::int64_t amount, std::uint8_t* mask) const {
  if (masks_prompts) return jsonl->read_prompt_mask(begin, amount, mask);
  std::memset(mask, 1, static_cast<std::size_t>(amount));
  if (!loss) return;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(loss->data()) + begin;
  for (std::int64_t i = 0; i < amount; ++i) mask[i] = bytes[i] != 0;
}

std::int64_t TokenFile::document_end(std::int64_t document) const {
  if (jsonl) return jsonl->document_end(document);
  std::int64_t end = size();
  if (index_kind == Index::datatrove) {
    end = static_cast<std::int64_t>(load<std::uint64_t>(index.data() + 8 * document));
  } else if (index_kind == Index::megatron) {
    const std::int64_t sequence = document_sequence(*this, document + 1);
    if (sequence < 0 || sequence > sequences)
      fail("{}: document {} ends before sequence {} of {}", index.path(), document, sequence, sequences);
    end = sequence == sequences ? count : sequence_pointer(*this, sequence) / bytes_of(type);
  }
  if (end < 0 || end > size())
    fail("{}: document {} ends at token {}, but {} has {}", index.path(), document, end, tokens_file.path(), size());
  return end;
}

void TokenFile::validate_tokens(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const {
  if (jsonl) return jsonl->validate(begin, end, vocabulary);
  if (separator && end > count && *separator >= vocabulary)
    fail("the end-of-document token {} is outside the vocabulary of {}", *separator, vocabulary);
  end = std::min(end, count);
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    if (!std::numeric_limits<T>::is_signed && vocabulary > largest_value(type)) return;
    const std::byte* data = tokens_file.data() + tokens_offset;
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
      if (outside(low, high, vocabulary)) refuse_token<T>(*this, first, last, vocabulary);
    }
  });
}

void TokenFile::validate_index(std::int64_t begin, std::int64_t end) const {
  if (index_kind != Index::datatrove && index_kind != Index::megatron) return;
  const auto [first_document, last_document] = share(documents, begin, end, size());
  for (std::int64_t document = first_document; document < last_document; ++document) {
    const std::int64_t start = document == 0 ? 0 : document_end(document - 1);
    if (document_end(document) < start)
      fail("{}: document {} ends at token {}, before it begins at {}", index.path(), document, document_end(document),
           start);
  }
  if (index_kind == Index::datatrove) return;
  const auto [first, last] = share(sequences, begin, end, size());
  for (std::int64_t sequence = first; sequence < last; ++sequence) {
    const std::int64_t pointer = sequence_pointer(*this, sequence), length = sequence_length(*this, sequence);
    const std::int64_t next =
        sequence + 1 == sequences ? count * bytes_of(type) : sequence_pointer(*this, sequence + 1);
    if (length < 0 || pointer < 0 || next - pointer != length * bytes_of(type))
      fail("{}: sequence {} has {} tokens of {} bytes from byte {}, but the next one begins at byte {} of {}",
           index.path(), sequence, length, bytes_of(type), pointer, next, tokens_file.path());
  }
}

}  // namespace longhaul
