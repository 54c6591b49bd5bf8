// Covering arrays: few rows of a product of dimensions in which every choice of values of any `strength` dimensions
// still occurs.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace longhaul::testing {

/// Row number `index` of the product of `sizes`, the last dimension fastest.
inline std::vector<std::size_t> row_of_product(std::size_t index, const std::vector<std::size_t>& sizes) {
  std::vector<std::size_t> row(sizes.size());
  for (std::size_t d = sizes.size(); d-- > 0; index /= sizes[d]) row[d] = index % sizes[d];
  return row;
}

/// All sets of `strength` of `dimensions`.
inline std::vector<std::vector<std::size_t>> subsets(std::size_t dimensions, std::size_t strength) {
  std::vector<std::vector<std::size_t>> list;
  for (std::size_t bits = 0; bits < (std::size_t{1} << dimensions); ++bits) {
    std::vector<std::size_t> set;
    for (std::size_t d = 0; d < dimensions; ++d)
      if (bits >> d & 1) set.push_back(d);
    if (set.size() == strength) list.push_back(set);
  }
  return list;
}

/// Indices into the product of `sizes`; always the same ones. Greedy: rows that cover the most come first, tried in an
/// order without pattern.
inline std::vector<std::size_t> covering(const std::vector<std::size_t>& sizes, std::size_t strength) {
  std::size_t product = 1;
  for (std::size_t size : sizes) product *= size;
  const auto sets = subsets(sizes.size(), strength);
  std::vector<std::vector<bool>> covered;
  std::size_t left = 0;
  for (const auto& set : sets) {
    std::size_t choices = 1;
    for (std::size_t d : set) choices *= sizes[d];
    covered.emplace_back(choices, false);
    left += choices;
  }
  const auto place = [&](const std::vector<std::size_t>& row, const std::vector<std::size_t>& set) {
    std::size_t at = 0;
    for (std::size_t d : set) at = at * sizes[d] + row[d];
    return at;
  };
  std::vector<std::size_t> chosen;
  for (std::size_t least = sets.size(); least >= 1 && left > 0; --least)
    for (std::size_t i = 0; i < product; ++i) {
      const std::size_t index = (i * 7919) % product;  // a prime that no product of small sizes shares
      const auto row = row_of_product(index, sizes);
      std::size_t gain = 0;
      for (std::size_t s = 0; s < sets.size(); ++s) gain += !covered[s][place(row, sets[s])];
      if (gain < least) continue;
      for (std::size_t s = 0; s < sets.size(); ++s) covered[s][place(row, sets[s])] = true;
      left -= gain;
      chosen.push_back(index);
    }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace longhaul::testing
