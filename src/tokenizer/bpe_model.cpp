// BPE as tokenizer.json and tiktoken describe it, on bytes or on characters.
#include <algorithm>
#include <array>

#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/model.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using namespace json_fields;

constexpr std::string_view metaspace = "\xe2\x96\x81";  // U+2581, which stands for a space

/// What encoders share.
struct Bpe {
  explicit Bpe(std::size_t pairs) : merges(pairs) {}

  MergeTable merges;
  bool of_bytes = false;
  std::array<std::int32_t, 256> byte_ids{};                  // of single bytes (of_bytes); -1: none
  std::unordered_map<char32_t, std::int32_t> character_ids;  // else of single characters
  std::array<std::int32_t, 128> ascii_ids{};                 // the same for ASCII
  std::array<std::int32_t, 256> fallback{};                  // of <0x00> to <0xFF>, all or none
  bool byte_fallback = false, fuse_unknown = false;
  std::int32_t unknown = -1;                                 // -1: what is not in the vocabulary is left out
  std::unordered_map<std::string_view, std::int32_t> whole;  // pieces that are tokens as they are, merges or not
  std::vector<std::string> whole_storage;
  // Whether no token holds U+2581 behind another character than itself: then no merge reaches across the beginning of a
  // word, and a text that nobody split may be split there.
  bool cut_at_metaspace = false;
};

class BpeEncoder : public PieceEncoder {
 public:
  explicit BpeEncoder(const Bpe& bpe) : bpe_(bpe) {}

  void encode(std::string_view piece, bool escaped, std::vector<std::int32_t>& ids) override {
    if (bpe_.of_bytes) {
      if (escaped) {
        bytes_.clear();
        unescape(piece, bytes_);
        piece = bytes_;
      }
      return word(piece, false, ids);
    }
    if (bpe_.cut_at_metaspace) {
      for (;;) {
        const std::size_t cut = word_end(piece);
        word(piece.substr(0, cut), escaped, ids);
        if (cut == piece.size()) return;
        piece.remove_prefix(cut);
      }
    }
    word(piece, escaped, ids);
  }

 private:
  // Where the next word begins: at a U+2581 behind something else.
  static std::size_t word_end(std::string_view piece) {
    std::size_t from = 0;
    while (piece.substr(from).starts_with(metaspace)) from += metaspace.size();
    const std::size_t found = piece.find(metaspace, from);
    return found == std::string_view::npos ? piece.size() : found;
  }

  void word(std::string_view piece, bool escaped, std::vector<std::int32_t>& ids) {
    WordCache::Slot* slot = nullptr;
    if (piece.size() <= WordCache::longest_word && !escaped) {
      bool found = false;
      slot = &cache_.slot_of(piece, found);
      if (found) {
        ids.insert(ids.end(), slot->ids, slot->ids + slot->count);
        return;
      }
    }
    symbols_.clear();
    const auto token = bpe_.whole.empty() ? bpe_.whole.end() : bpe_.whole.find(piece);
    if (token != bpe_.whole.end()) {
      symbols_.push_back(token->second);
    } else {
      if (bpe_.of_bytes)
        symbols_of_bytes(piece);
      else
        symbols_of_characters(piece, escaped);
      bpe_.merges.apply(symbols_);
    }
    if (slot && symbols_.size() <= WordCache::most_ids) WordCache::fill(*slot, piece, symbols_.data(), symbols_.size());
    ids.insert(ids.end(), symbols_.begin(), symbols_.end());
  }

  void symbols_of_bytes(std::string_view piece) {
    for (char letter : piece) {
      const std::int32_t id = bpe_.byte_ids[static_cast<unsigned char>(letter)];
      if (id >= 0) {
        flush_unknown();
        symbols_.push_back(id);
      } else {
        unknown();
      }
    }
    flush_unknown();
  }

  void symbols_of_characters(std::string_view piece, bool escaped) {
    for (const char *at = piece.data(), *end = at + piece.size(); at < end;) {
      const char* begin = at;
      const char32_t c = next_code_point(at);
      std::int32_t id = -1;
      if (c < 0x80) {
        id = bpe_.ascii_ids[c];
      } else if (!(escaped && is_escape(c))) {
        const auto found = bpe_.character_ids.find(c);
        if (found != bpe_.character_ids.end()) id = found->second;
      }
      if (id >= 0) {
        flush_unknown();
        symbols_.push_back(id);
      } else if (bpe_.byte_fallback) {
        if (escaped && is_escape(c)) {
          symbols_.push_back(bpe_.fallback[c - first_escape]);
        } else {
          for (; begin < at; ++begin) symbols_.push_back(bpe_.fallback[static_cast<unsigned char>(*begin)]);
        }
      } else {
        unknown();
      }
    }
    flush_unknown();
  }

  void unknown() {
    if (bpe_.unknown < 0) return;
    if (!bpe_.fuse_unknown) flush_unknown();
    pending_ = true;
  }
  void flush_unknown() {
    if (pending_) symbols_.push_back(bpe_.unknown);
    pending_ = false;
  }

  const Bpe& bpe_;
  WordCache cache_;
  std::string bytes_;
  std::vector<std::int32_t> symbols_;
  bool pending_ = false;
};

class BpeModel : public Model {
 public:
  BpeModel(const json& object, bool of_bytes, const std::string& where) : bpe_(count_merges(object, where)) {
    read_vocabulary(object, where);
    bpe_.of_bytes = of_bytes;
    bpe_.fuse_unknown = flag(object, "fuse_unk", where);
    if (!member(object, "unk_token").is_null()) {
      const std::string token = text(object, "unk_token", where);
      const auto id = id_of(token);
      if (!id) fail("{}: unk_token {} is not in the vocabulary", where, token);
      bpe_.unknown = *id;
    }
    // All of them or none: a vocabulary that lacks some bytes would fall back for some characters only.
    if (flag(object, "byte_fallback", where)) {
      int missing = 0;
      for (int byte = 0; byte < 256; ++byte) {
        const auto id = id_of(fmt::format("<0x{:02X}>", byte));
        bpe_.fallback[static_cast<std::size_t>(byte)] = id.value_or(-1);
        missing += id ? 0 : 1;
      }
      if (missing != 0 && missing != 256)
        fail("{}: byte_fallback is true, but the vocabulary has {} of the 256 tokens <0x00> to <0xFF>", where,
             256 - missing);
      bpe_.byte_fallback = missing == 0;
    }
    place_characters();
    read_merges(object, where);
    if (flag(object, "ignore_merges", where)) place_whole_tokens();
  }

  std::unique_ptr<PieceEncoder> encoder() const override { return std::make_unique<BpeEncoder>(bpe_); }
  std::string description() const override {
    return fmt::format("BPE of {} tokens and {} merges{}", ids_.size(), bpe_.merges.size(),
                       bpe_.of_bytes        ? ", byte level"
                       : bpe_.byte_fallback ? ", byte fallback"
                                            : "");
  }

 private:
  static std::size_t count_merges(const json& object, const std::string& where) {
    return list(object, "merges", where).size();
  }

  void read_vocabulary(const json& object, const std::string& where) {
    const json& dropout = member(object, "dropout");
    if (!dropout.is_null() && dropout != 0.0)
      fail("{}: dropout {} makes ids random; set it to null for training on fixed ids", where, dropout.dump());
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& affix = member(object, name);
      if (!affix.is_null() && affix != "")
        fail("{}: {} {} is not supported; null or \"\" is", where, name, affix.dump());
    }
    const json& vocabulary = member(object, "vocab");
    if (!vocabulary.is_object()) fail("{}: \"vocab\" is not an object", where);
    ids_.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary.items()) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > 0x7ffffffe)
        fail("{}: the id of {} is {}", where, token, id.dump());
      ids_.emplace(token, id.get<std::int32_t>());
    }
  }

  void place_characters() {
    bpe_.byte_ids.fill(-1);
    bpe_.ascii_ids.fill(-1);
    for (const auto& [token, id] : ids_) {
      if (token.empty() || static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(token[0]))) != token.size())
        continue;
      if (bpe_.of_bytes) {
        if (const auto byte = bytes_of_characters(token)) bpe_.byte_ids[static_cast<unsigned char>((*byte)[0])] = id;
        continue;
      }
      const char* at = token.data();
      const char32_t c = next_code_point(at);
      if (c < 0x80)
        bpe_.ascii_ids[c] = id;
      else
        bpe_.character_ids[c] = id;
    }
  }

  void read_merges(const json& object, const std::string& where) {
    std::uint32_t rank = 0;
    bool cut = !bpe_.of_bytes && id_of(std::string(metaspace)).has_value();
    std::string left, right;
    for (const auto& merge : list(object, "merges", where)) {
      if (merge.is_string()) {
        const auto& line = merge.get_ref<const std::string&>();
        if (line.starts_with("#version")) continue;
        const std::size_t space = line.find(' ');
        if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
          fail("{}: merge {} ({}) is not two tokens", where, rank, merge.dump());
        left = line.substr(0, space);
        right = line.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else {
        fail("{}: merge {} ({}) is not two tokens", where, rank, merge.dump());
      }
      const auto first = id_of(left), second = id_of(right), both = id_of(left + right);
      for (const auto& [id, token] : {std::pair(first, left), std::pair(second, right), std::pair(both, left + right)})
        if (!id) fail("{}: merge {} needs the token {}, which is not in the vocabulary", where, rank, token);
      bpe_.merges.add(*first, *second, {rank++, static_cast<std::uint32_t>(*both)});
      cut = cut && !joins_words(left + right);
    }
    bpe_.cut_at_metaspace = cut && !flag(object, "ignore_merges", where);
  }

  // Whether U+2581 stands behind another character.
  static bool joins_words(std::string_view token) {
    while (token.starts_with(metaspace)) token.remove_prefix(metaspace.size());
    return token.find(metaspace) != std::string_view::npos;
  }

  void place_whole_tokens() {
    bpe_.whole_storage.reserve(ids_.size());
    bpe_.whole.reserve(ids_.size());
    for (const auto& [token, id] : ids_) {
      if (bpe_.of_bytes) {
        auto bytes = bytes_of_characters(token);
        if (!bytes) continue;
        bpe_.whole_storage.push_back(std::move(*bytes));
      } else {
        bpe_.whole_storage.push_back(token);
      }
      bpe_.whole.emplace(bpe_.whole_storage.back(), id);
    }
  }

  Bpe bpe_;
};

class RankModel : public Model {
 public:
  RankModel(const std::vector<std::pair<std::string, std::int32_t>>& ranks, const std::string& where)
      : bpe_(make(ranks, where)) {
    for (const auto& [token, rank] : ranks) {
      std::string written;
      append_byte_characters(token, written);
      ids_.emplace(std::move(written), rank);
    }
  }
  std::unique_ptr<PieceEncoder> encoder() const override { return std::make_unique<BpeEncoder>(*bpe_); }
  std::string description() const override { return fmt::format("ranks of {} tokens, byte level", ids_.size()); }

 private:
  static std::unique_ptr<Bpe> make(const std::vector<std::pair<std::string, std::int32_t>>& ranks,
                                   const std::string& where) {
    std::unordered_map<std::string_view, std::int32_t> ids;
    ids.reserve(ranks.size());
    for (const auto& [token, rank] : ranks)
      if (!ids.emplace(token, rank).second) fail("{}: the token of rank {} stands twice", where, rank);
    // Any cut of a token into two tokens is a merge of that token's rank.
    const auto for_each_pair = [&](auto&& visit) {
      for (const auto& [token, rank] : ranks)
        for (std::size_t cut = 1; cut < token.size(); ++cut) {
          const auto left = ids.find(std::string_view(token).substr(0, cut));
          if (left == ids.end()) continue;
          const auto right = ids.find(std::string_view(token).substr(cut));
          if (right != ids.end()) visit(left->second, right->second, rank);
        }
    };
    std::size_t pairs = 0;
    for_each_pair([&](std::int32_t, std::int32_t, std::int32_t) { ++pairs; });
    auto bpe = std::make_unique<Bpe>(pairs);
    for_each_pair([&](std::int32_t left, std::int32_t right, std::int32_t rank) {
      bpe->merges.add(left, right, {static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(rank)});
    });
    bpe->of_bytes = true;
    for (int byte = 0; byte < 256; ++byte) {
      const char letter = static_cast<char>(byte);
      const auto found = ids.find(std::string_view(&letter, 1));
      if (found == ids.end())
        fail("{}: the byte {:#04x} is no token, so that not every text could be said", where, byte);
      bpe->byte_ids[static_cast<std::size_t>(byte)] = found->second;
    }
    bpe->whole_storage.reserve(ranks.size());
    for (const auto& [token, rank] : ranks) {
      bpe->whole_storage.push_back(token);
      bpe->whole.emplace(bpe->whole_storage.back(), rank);
    }
    return bpe;
  }

  std::unique_ptr<Bpe> bpe_;
};

}  // namespace

std::unique_ptr<Model> read_bpe(const nlohmann::json& object, bool of_bytes, const std::string& where) {
  return std::make_unique<BpeModel>(object, of_bytes, where);
}

std::unique_ptr<Model> rank_model(const std::vector<std::pair<std::string, std::int32_t>>& ranks,
                                  const std::string& where) {
  return std::make_unique<RankModel>(ranks, where);
}

std::unique_ptr<Model> read_model(const nlohmann::json& object, bool of_bytes, const std::string& where) {
  if (!object.is_object()) fail("{} is not an object", where);
  // Files of old do not say: what has merges is BPE.
  const std::string kind = !member(object, "type").is_null() ? type(object, where)
                           : object.contains("merges")       ? "BPE"
                                                             : "of an unnamed type";
  if (kind == "BPE") return read_bpe(object, of_bytes, where);
  if (kind == "Unigram") {
    if (of_bytes) fail("{}: Unigram behind ByteLevel is not supported", where);
    return read_unigram(object, where);
  }
  fail("{} is {}, which this program does not have; it has BPE and Unigram", where, kind);
}

}  // namespace longhaul
