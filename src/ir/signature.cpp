#include "ir/signature.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul {
namespace {

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts{""};
  for (char c : text)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

// Lower-case letters, none twice; `*` alone or `...` in front.
void check_letters(std::string_view text, std::string_view part) {
  if (part == "*") return;
  if (part.starts_with("...")) part.remove_prefix(3);
  for (std::size_t i = 0; i < part.size(); ++i) {
    LONGHAUL_CHECK(part[i] >= 'a' && part[i] <= 'z', "signature '{}': '{}' holds more than lower-case letters", text,
                   part);
    LONGHAUL_CHECK(part.find(part[i], i + 1) == std::string_view::npos, "signature '{}': '{}' holds a letter twice",
                   text, part);
  }
}

// Letters that stand for the dimensions under `*` and `...`; definitions use lower case.
std::string anonymous(std::size_t n) {
  LONGHAUL_CHECK(n <= 8, "a tensor of {} dimensions", n);
  return std::string("ABCDEFGH").substr(0, n);
}

}  // namespace

Signature Signature::parse(std::string_view text, const std::vector<std::size_t>& ranks) {
  Signature signature;
  signature.text = text;
  const auto arrow = text.find("->");
  LONGHAUL_CHECK(arrow != std::string_view::npos, "signature '{}' has no ->", text);
  std::string_view left = text.substr(0, arrow);
  bool repeat = false;
  if (!left.empty() && left.back() == '&') {
    repeat = true;
    left.remove_suffix(1);
  }
  std::string_view right = text.substr(arrow + 2);
  if (!right.empty() && right.back() == '&') {
    const bool twice = text == "*&,*&->*&";
    LONGHAUL_CHECK(twice || text == "*&->*&", "signature '{}': results repeat only in *&->*& and *&,*&->*&", text);
    LONGHAUL_CHECK(!twice || ranks.size() % 2 == 0, "signature '{}' for {} operands", text, ranks.size());
    signature.paired = true;
    for (const std::size_t rank : ranks) signature.operands.push_back(anonymous(rank));
    signature.results = signature.operands;
    if (twice) signature.results.resize(ranks.size() / 2);
    return signature;
  }
  signature.operands = split(left);
  signature.results = split(right);
  for (const auto* parts : {&signature.operands, &signature.results})
    for (const auto& part : *parts) check_letters(text, part);
  if (ranks.empty() && signature.operands == std::vector<std::string>{""}) signature.operands.clear();
  if (repeat)
    while (signature.operands.size() < ranks.size()) signature.operands.push_back(signature.operands.back());
  LONGHAUL_CHECK(signature.operands.size() == ranks.size(), "signature '{}' for {} operands", text, ranks.size());

  std::size_t star = 0, leading = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const auto& operand = signature.operands[i];
    if (operand == "*") star = std::max(star, ranks[i]);
    if (operand.starts_with("...")) {
      LONGHAUL_CHECK(ranks[i] + 3 >= operand.size(), "signature '{}': operand {} has only {} dimensions", text, i,
                     ranks[i]);
      leading = std::max(leading, ranks[i] + 3 - operand.size());
    }
  }
  const auto expand = [&](std::string& letters) {
    if (letters == "*") letters = anonymous(star);
    if (letters.starts_with("...")) letters = anonymous(leading) + letters.substr(3);
  };
  for (auto& operand : signature.operands) expand(operand);
  for (auto& result : signature.results) expand(result);
  for (std::size_t i = 0; i < ranks.size(); ++i)
    LONGHAUL_CHECK(signature.operands[i].size() == ranks[i], "signature '{}': operand {} has {} dimensions", text, i,
                   ranks[i]);
  return signature;
}

}  // namespace longhaul
