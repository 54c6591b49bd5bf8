// Problem lines: what a kernel is checked and timed on, as text.
//
//   attention_forward  b=1 h=12 kv=4 s=8192 d=64,128 window=0 dtype=float32,bfloat16     # a comment
//
// An op, then sizes and words over the op's defaults, separated by blanks or commas. A list of values stands for one
// problem a value; several lists for all combinations. bf16, fp32 and fp64 are read as the full names of dtypes.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace longhaul::bench {

/// Sizes of a problem: "s=8192 h=16 d=128".
class Shape {
 public:
  Shape() = default;
  /// Throws Error for a malformed text, for a key given twice and for a list of values.
  explicit Shape(const std::string& text);
  bool has(const std::string& key) const;
  /// Throws Error for a missing key, or a value that is no size (0 is one).
  std::int64_t number(const std::string& key) const;
  std::string word(const std::string& key) const;
  /// Every entry of `over` replaces one of this; throws Error for a key that this op does not have.
  Shape with(const Shape& over) const;
  std::string text() const;

 private:
  friend std::vector<Shape> expand(const std::string& text);
  std::vector<std::pair<std::string, std::string>> entries_;  // in the order given
};

/// The shapes that a text with lists of values stands for, the last list varying fastest.
std::vector<Shape> expand(const std::string& text);

struct Problem {
  std::string op;
  Shape over;         ///< over the op's defaults
  std::string where;  ///< "FILE:LINE", for errors; empty for a problem from the command line
};
/// The problems of a file, line by line. Empty lines and what follows # are skipped. Throws Error naming the line.
std::vector<Problem> read_problems(const std::string& file);

}  // namespace longhaul::bench
