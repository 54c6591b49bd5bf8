"""Writes src/tokenizer/unicode_table.cpp: which code points are letters, numbers, spaces and so on.

    python make_unicode_table.py > ../../../src/tokenizer/unicode_table.cpp

The classes are asked of the `tokenizers` package itself, which is what token ids must agree with: its regular expressions
(Oniguruma) for general categories, Han and \\w, its pre-tokenizers for what they call a word, a digit and punctuation, its
normalizers for accents and lower case. Those are older than the rest: what Unicode (unicodedata2 from PyPI) has them
decompose, compose or reorder, and they leave alone, is marked.
"""
import unicodedata2

from tokenizers import Regex, normalizers, pre_tokenizers, __version__

CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
EVERYTHING = "".join(map(chr, POINTS))


def matching(pattern):
    kept = set(normalizers.Replace(Regex(pattern), "").normalize_str(EVERYTHING))
    return {c for c in POINTS if chr(c) not in kept}


def isolated(pre_tokenizer):
    """Code points c for which x c x is cut around c."""
    points = set()
    for c in POINTS:
        pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")]
        if len(pieces) != 1:
            points.add(c)
    return points


value = [0] * 0x110000
for index, name in enumerate(CATEGORIES[1:], 1):
    for c in matching(r"\p{" + name + "}"):
        assert value[c] == 0
        value[c] = index
flags = [
    matching(r"\p{Han}"),
    matching(r"\w"),
    set(POINTS) - isolated(pre_tokenizers.Whitespace()),
    isolated(pre_tokenizers.Punctuation()),
    isolated(pre_tokenizers.Digits(individual_digits=True)),
]
strip = normalizers.StripAccents()
flags.append({c for c in POINTS if strip.normalize_str(chr(c)) == ""})
nfd, nfkd, lower = normalizers.NFD(), normalizers.NFKD(), normalizers.Lowercase()
untouched = set()
for c in POINTS:
    if unicodedata2.normalize("NFKD", chr(c)) != chr(c) and nfkd.normalize_str(chr(c)) == chr(c):
        untouched.add(c)
        if unicodedata2.normalize("NFD", chr(c)) != chr(c):
            untouched |= {ord(part) for part in unicodedata2.normalize("NFD", chr(c)) if ord(part) >= 0x10000}
    # A mark of class 1 behind one of a higher class is moved before it.
    if unicodedata2.combining(chr(c)) > 1 and nfd.normalize_str("a" + chr(c) + "\u0334").endswith("\u0334"):
        untouched.add(c)
for c in untouched:
    assert nfd.normalize_str("a" + chr(c) + "\u0301") == "a" + chr(c) + "\u0301", hex(c)
flags.append(untouched)
for bit, points in enumerate(flags):
    for c in points:
        value[c] |= 32 << bit
lowered = [(c, [ord(x) for x in lower.normalize_str(chr(c))]) for c in POINTS if lower.normalize_str(chr(c)) != chr(c)]
assert [c for c, to in lowered if len(to) > 1] == [0x130]
# Runs of letters at one distance from their lower case, every letter or every other one.
lower_runs = []
for c, to in lowered:
    if c == 0x130:
        continue
    distance = to[0] - c
    if lower_runs:
        first, last, step, far = lower_runs[-1]
        if far == distance and (c - last == step or (first == last and c - last in (1, 2))):
            lower_runs[-1] = (first, c, c - last, far)
            continue
    lower_runs.append((c, c, 1, distance))

kinds = sorted(set(value))
assert len(kinds) <= 128
runs = []
for c in value:
    kind = kinds.index(c)
    if runs and runs[-1][1] == kind:
        runs[-1][0] += 1
    else:
        runs.append([1, kind])


def wrapped(numbers):
    lines, line = [], " "
    for number in numbers:
        text = f" {number},"
        if len(line) + len(text) > 120:
            lines.append(line)
            line = " "
        line += text
    return "\n".join(lines + [line])


print(f"""// Made by tests/golden/tokenizers/make_unicode_table.py from what tokenizers {__version__} answers; do not edit.
#include "tokenizer/unicode_table.h"

namespace longhaul::unicode_table {{

// clang-format off
// What a kind of code point is: the index of its general category + 32 x flags (Han, word of Oniguruma, word of Rust's
// regex, punctuation, numeric, accent, left alone by normalizers).
const std::uint16_t kinds[] = {{
{wrapped(kinds)}
}};
const std::size_t kind_count = sizeof(kinds) / sizeof(kinds[0]);

// All code points in order, as runs of one kind: length x 128 + kind.
const std::uint32_t runs[] = {{
{wrapped(length * 128 + kind for length, kind in runs)}
}};
const std::size_t run_count = sizeof(runs) / sizeof(runs[0]);

// Letters with a lower case: first, last, step, distance.
const std::int32_t lower_runs[][4] = {{
{wrapped("{" + ", ".join(map(str, run)) + "}" for run in lower_runs)}
}};
const std::size_t lower_run_count = sizeof(lower_runs) / sizeof(lower_runs[0]);
// clang-format on

}}  // namespace longhaul::unicode_table""")
