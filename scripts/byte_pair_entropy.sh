#!/usr/bin/env bash
# byte_pair_entropy.sh FILE: prints the conditional entropy H(next byte | byte) of a file in nats a byte, counted on the
# file itself. Nothing that sees only the present byte can predict the next with a smaller mean loss on that file.
set -euo pipefail
[[ $# == 1 && -f $1 ]] || { echo "usage: byte_pair_entropy.sh FILE" >&2; exit 2; }
LC_ALL=C od -An -v -tu1 -w1 -- "$1" | LC_ALL=C awk '
  NR > 1 { pairs[previous * 256 + $1]++; firsts[previous]++; total++ }
  { previous = $1 + 0 }
  END {
    if (!total) { print "byte_pair_entropy.sh: fewer than two bytes" > "/dev/stderr"; exit 1 }
    for (pair in pairs) sum -= pairs[pair] * log(pairs[pair] / firsts[int(pair / 256)])
    printf "%.6f\n", sum / total
  }'
