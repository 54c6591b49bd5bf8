// Strings by prefix: for added tokens (the longest that stands at a place) and Unigram (all pieces that begin there).
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace longhaul {

class Trie {
 public:
  /// `value` >= 0. A key that stands already keeps its first value and false is returned.
  bool add(std::string_view key, std::int32_t value);
  /// Makes lookups possible; add nothing afterwards.
  void finish();
  bool empty() const { return keys_ == 0; }

  /// Calls visit(length, value) for every key that `text` begins with, shortest first.
  template <typename Visit>
  void prefixes(std::string_view text, Visit&& visit) const {
    std::int32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node < 0) return;
      if (nodes_[static_cast<std::size_t>(node)].value >= 0) visit(i + 1, nodes_[static_cast<std::size_t>(node)].value);
    }
  }
  /// Whether some key begins with this byte.
  bool begins(unsigned char byte) const { return root_[byte] >= 0; }

 private:
  struct Node {
    std::int32_t value = -1;
    std::uint32_t first = 0, count = 0;  // of edges_
  };
  struct Edge {
    std::int32_t node;
    unsigned char byte;
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const {
    if (node == 0) return root_[byte];
    const Node& from = nodes_[static_cast<std::size_t>(node)];
    const Edge* edge = edges_.data() + from.first;
    std::uint32_t low = 0, high = from.count;
    while (high - low > 4) {
      const std::uint32_t middle = (low + high) / 2;
      if (edge[middle].byte <= byte)
        low = middle;
      else
        high = middle;
    }
    for (; low < high; ++low)
      if (edge[low].byte == byte) return edge[low].node;
    return -1;
  }

  std::size_t keys_ = 0;
  std::vector<Node> nodes_{1};
  std::vector<Edge> edges_;
  std::array<std::int32_t, 256> root_{};
  std::vector<std::vector<Edge>> growing_{1};  // until finish
};

inline bool Trie::add(std::string_view key, std::int32_t value) {
  std::size_t node = 0;
  for (char letter : key) {
    const auto byte = static_cast<unsigned char>(letter);
    auto& edges = growing_[node];
    const auto place = std::lower_bound(edges.begin(), edges.end(), byte,
                                        [](const Edge& edge, unsigned char b) { return edge.byte < b; });
    if (place != edges.end() && place->byte == byte) {
      node = static_cast<std::size_t>(place->node);
      continue;
    }
    edges.insert(place, {static_cast<std::int32_t>(nodes_.size()), byte});
    node = nodes_.size();
    nodes_.emplace_back();
    growing_.emplace_back();
  }
  if (nodes_[node].value >= 0) return false;
  nodes_[node].value = value;
  ++keys_;
  return true;
}

inline void Trie::finish() {
  root_.fill(-1);
  for (const Edge& edge : growing_[0]) root_[edge.byte] = edge.node;
  for (std::size_t node = 0; node < nodes_.size(); ++node) {
    nodes_[node].first = static_cast<std::uint32_t>(edges_.size());
    nodes_[node].count = static_cast<std::uint32_t>(growing_[node].size());
    edges_.insert(edges_.end(), growing_[node].begin(), growing_[node].end());
  }
  growing_.clear();
  growing_.shrink_to_fit();
}

}  // namespace longhaul
