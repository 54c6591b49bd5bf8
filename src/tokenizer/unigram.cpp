// Unigram: of all ways to cut a piece into tokens, the one whose scores sum to most.
#include <algorithm>
#include <limits>
#include <optional>

#include "tokenizer/bpe.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/model.h"
#include "tokenizer/trie.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using namespace json_fields;

struct Unigram {
  Trie trie;
  std::optional<Trie> escaped;  // for text with escaped bytes (unicode.h), where it must be another
  std::vector<double> scores;
  double unknown_score = 0;
  std::int32_t unknown = -1;
  bool byte_fallback = false;
  std::array<std::int32_t, 256> fallback{};
};

class UnigramEncoder : public PieceEncoder {
 public:
  UnigramEncoder(const Unigram& model, const std::unordered_map<std::string, std::int32_t>& ids,
                 const std::string& where)
      : model_(model), ids_(ids), where_(where) {}

  void encode(std::string_view piece, bool escaped, std::vector<std::int32_t>& ids) override {
    WordCache::Slot* slot = nullptr;
    if (piece.size() <= WordCache::longest_word && !escaped) {
      bool found = false;
      slot = &cache_.slot_of(piece, found);
      if (found) {
        ids.insert(ids.end(), slot->ids, slot->ids + slot->count);
        return;
      }
    }
    const std::size_t before = ids.size();
    best_path(piece, escaped && model_.escaped ? *model_.escaped : model_.trie);
    for (std::size_t i = path_.size(); i-- > 0;) {
      if (path_[i].id != model_.unknown) {
        ids.push_back(path_[i].id);
        continue;
      }
      // Neighbouring unknown characters are one.
      const std::size_t begin = path_[i].begin;
      std::size_t end = path_[i].end;
      while (i > 0 && path_[i - 1].id == model_.unknown) end = path_[--i].end;
      unknown(piece.substr(begin, end - begin), escaped, ids);
    }
    const std::size_t count = ids.size() - before;
    if (slot && count <= WordCache::most_ids) WordCache::fill(*slot, piece, ids.data() + before, count);
  }

 private:
  struct Node {
    double score = 0;
    std::size_t begin = std::numeric_limits<std::size_t>::max();  // none: not reached
    std::int32_t id = 0;
  };
  struct Token {
    std::size_t begin, end;
    std::int32_t id;
  };

  // Fills path_, last token first.
  void best_path(std::string_view piece, const Trie& trie) {
    nodes_.assign(piece.size() + 1, {});
    const auto reach = [&](std::size_t begin, std::size_t end, double score, std::int32_t id) {
      Node& node = nodes_[end];
      if (node.begin == std::numeric_limits<std::size_t>::max() || score > node.score) node = {score, begin, id};
    };
    for (std::size_t begin = 0; begin < piece.size();) {
      const double so_far = nodes_[begin].score;
      const auto character = static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(piece[begin])));
      bool single = false;
      trie.prefixes(piece.substr(begin), [&](std::size_t length, std::int32_t id) {
        reach(begin, begin + length, model_.scores[static_cast<std::size_t>(id)] + so_far, id);
        single = single || length == character;
      });
      if (!single) {
        if (model_.unknown < 0)
          fail("{}: a text holds a character that the vocabulary has no token for, and it has no unk_id", where_);
        reach(begin, begin + character, model_.unknown_score + so_far, model_.unknown);
      }
      begin += character;
    }
    path_.clear();
    for (std::size_t end = piece.size(); end > 0; end = nodes_[end].begin)
      path_.push_back({nodes_[end].begin, end, nodes_[end].id});
  }

  void unknown(std::string_view part, bool escaped, std::vector<std::int32_t>& ids) {
    std::string bytes;
    if (escaped)
      unescape(part, bytes);
    else
      bytes = part;
    if (const auto found = ids_.find(bytes); found != ids_.end()) return ids.push_back(found->second);
    if (!model_.byte_fallback) return ids.push_back(model_.unknown);
    for (char byte : bytes) ids.push_back(model_.fallback[static_cast<unsigned char>(byte)]);
  }

  const Unigram& model_;
  const std::unordered_map<std::string, std::int32_t>& ids_;
  const std::string& where_;
  WordCache cache_;
  std::vector<Node> nodes_;
  std::vector<Token> path_;
};

class UnigramModel : public Model {
 public:
  UnigramModel(const json& object, const std::string& where) : where_(where) {
    const json& vocabulary = list(object, "vocab", where);
    double lowest = std::numeric_limits<double>::infinity();
    for (const auto& entry : vocabulary) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
        fail("{}: entry {} of the vocabulary ({}) is not a token and its score", where, model_.scores.size(),
             entry.dump());
      const auto id = static_cast<std::int32_t>(model_.scores.size());
      ids_[entry[0].get<std::string>()] = id;  // of a token that stands twice, the last
      model_.scores.push_back(entry[1].get<double>());
      lowest = std::min(lowest, model_.scores.back());
    }
    Trie escaped;
    bool differs = false;
    for (const auto& [token, id] : ids_) {
      if (token.empty()) continue;
      model_.trie.add(token, id);
      const std::string other = escape_invalid_utf8(token);
      differs = differs || other != token;
      escaped.add(other, id);
    }
    model_.trie.finish();
    escaped.finish();
    if (differs) model_.escaped = std::move(escaped);
    model_.unknown_score = lowest - 10;
    if (!member(object, "unk_id").is_null()) {
      const std::int64_t id = number(object, "unk_id", where);
      if (id < 0 || id >= static_cast<std::int64_t>(model_.scores.size()))
        fail("{}: unk_id {} is outside the vocabulary of {}", where, id, model_.scores.size());
      model_.unknown = static_cast<std::int32_t>(id);
    }
    if (flag(object, "byte_fallback", where)) {
      int missing = 0;
      for (int byte = 0; byte < 256; ++byte) {
        const auto id = id_of(fmt::format("<0x{:02X}>", byte));
        model_.fallback[static_cast<std::size_t>(byte)] = id.value_or(-1);
        missing += id ? 0 : 1;
      }
      if (missing != 0 && missing != 256)
        fail("{}: byte_fallback is true, but the vocabulary has {} of the 256 tokens <0x00> to <0xFF>", where,
             256 - missing);
      model_.byte_fallback = missing == 0;
    }
  }
  std::unique_ptr<PieceEncoder> encoder() const override {
    return std::make_unique<UnigramEncoder>(model_, ids_, where_);
  }
  std::string description() const override {
    return fmt::format("Unigram of {} tokens{}", ids_.size(), model_.byte_fallback ? ", byte fallback" : "");
  }

 private:
  Unigram model_;
  std::string where_;
};

}  // namespace

std::unique_ptr<Model> read_unigram(const nlohmann::json& object, const std::string& where) {
  return std::make_unique<UnigramModel>(object, where);
}

}  // namespace longhaul
