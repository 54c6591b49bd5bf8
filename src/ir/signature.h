// Einsum-like signatures: one letter a dimension, "bse,hde->bshd".
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// Concrete letters per operand and per result, and the text that they came from.
struct Signature {
  std::vector<std::string> operands;
  std::vector<std::string> results;
  std::string text;
  /// "*&->*&": any number of operands and as many results. Letters tie result i to operand i and nothing else: the same
  /// letter of another pair is another size.
  bool paired = false;

  /// Reads "bse,hde->bshd". `ranks` are the operands' numbers of dimensions; they expand
  ///   `*`   in an operand or result: one letter a dimension, the same letters everywhere (pointwise ops; ranks may
  ///   differ by scalars);
  ///   `...` leading dimensions: letters A, B, C, the same everywhere;
  ///   `&`   at the end of the operands ("*&->*"): the last operand repeats as often as there are operands; at the end
  ///   of
  ///         the results too ("*&->*&"): so does the result, and the signature is `paired`; "*&,*&->*&" has two
  ///         operands for each result, first all the one, then all the other.
  /// Throws std::logic_error when the text and the ranks do not fit.
  static Signature parse(std::string_view text, const std::vector<std::size_t>& ranks);
};

}  // namespace longhaul
