#!/usr/bin/env bash
# One optimizer step on one rank, and on two ranks (threads of one process, one thread each) that share every sequence, by each strategy in
# turn; a few rounds. Prints what `longhaul bench step --row` says of each, and the fastest step of all rounds as a Markdown table with its
# speed over the fastest step of one rank in the same run.
#
#   benchmarks/strategies.sh [STEPS] [ROUNDS] [OVERRIDE...]       # default: 2 steps, 2 rounds; under 6 minutes on two free cores
set -euo pipefail
steps=${1:-2} rounds=${2:-2}
shift $(($# < 2 ? $# : 2))
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENBLAS_CORETYPE
export OMP_WAIT_POLICY=passive LONGHAUL_LOG=warn

measure() { # NAME RANKS SEQUENCE
  "$root/build/longhaul" bench step "$root/benchmarks/strategies.yaml" --ranks "$2" --steps "$steps" --row \
    parallelism.data=1 "parallelism.sequence=$3" "job.folder=$work/run" "${overrides[@]}" | sed "s/^/$1 | /" | tee -a "$work/rows"
}

overrides=("$@")
echo "strategy | ranks | seconds a step, fastest | median | CPU / wall | waiting % | moving % | packing %"
for ((round = 1; round <= rounds; round++)); do
  measure "one rank" 1 1
  measure "{ulysses: 2}" 2 "{ulysses: 2}"
  measure "{ring: 2}" 2 "{ring: 2}"
  measure "{gather_kv: 2}" 2 "{gather_kv: 2}"
done

echo
awk -F ' *[|] *' '
  !($1 in best) || $3 < best[$1] { best[$1] = $3; row[$1] = sprintf("%.1f | %s | ", $3 * $5, $5) $6 " % | " $7 " % | " $8 " %" }
  !($1 in seen) { seen[$1] = 1; order[++n] = $1 }
  END {
    print "| | seconds a step | over one rank | CPU seconds | CPU time / wall | waiting | moving | packing |"
    print "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= n; ++i) printf "| `%s` | %.3f | %.2fx | %s |\n", order[i], best[order[i]], best["one rank"] / best[order[i]], row[order[i]]
  }' "$work/rows"
