#!/usr/bin/env bash
# How much of communication runs beside computation. Ranks are threads; computation is as slow as overlap_machine.json says
# (bench step --paced), links as LONGHAUL_DELAY says, both by timers, so that two cores carry any number of ranks. The
# delay of every line makes communication about half as long as computation. Prints a Markdown table: seconds of the fastest of
# STEPS steps, taking turns and beside computation, each with what the cost model predicts; the time that no schedule goes
# below; and the share of what can be hidden that was: (turns - beside) / (turns predicted - least).
#
#   benchmarks/overlap.sh [STEPS]       # default 3; about 4 minutes
set -euo pipefail
steps=${1:-3}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive LONGHAUL_LOG=warn

run() { # OVERLAP OUTPUT RANKS OVERRIDE...
  local overlap=$1 output=$2 ranks=$3
  shift 3
  "${LONGHAUL:-$root/build/longhaul}" bench step "$root/benchmarks/overlap.yaml" --paced --ranks "$ranks" --steps "$steps" --warmup 1 \
    "job.folder=$work/run" "parallelism.overlap=$overlap" parallelism.bucket_size=524288 "$@" >"$output"
}

measure() { # NAME RANKS BANDWIDTH OVERRIDE...
  local name=$1 ranks=$2 bandwidth=$3
  shift 3
  export LONGHAUL_DELAY=1e-4:$bandwidth
  run off "$work/off" "$ranks" "$@"
  run on "$work/on" "$ranks" "$@"
  awk -v name="$name" -v ranks="$ranks" '
    /^ +minimum/ { gsub(",", ""); measured[FILENAME] = $2 }
    /^predicted/ { predicted[FILENAME] = $2 }
    / of communication, / { communication[FILENAME] = $1; least = $(NF - 2) }
    END {
      off = ARGV[1]; on = ARGV[2]
      printf "| %s | %d | %.2f / %.2f | %.3f (%.3f) | %.3f (%.3f) | %.3f | %.0f %% | %.1f %% |\n", name, ranks, communication[off],
        predicted[off] - communication[off], measured[off], predicted[off], measured[on], predicted[on], least,
        100 * (measured[off] - measured[on]) / (predicted[off] - least), 100 * (measured[off] / predicted[off] - 1)
    }' "$work/off" "$work/on"
}

echo "| | ranks | communication / computation | turns (predicted) | beside (predicted) | least | hidden | turns over predicted |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
measure "ZeRO-3 x ulysses" 4 1e7 parallelism.data=2 'parallelism.sequence={ulysses: 2}' parallelism.zero_stage=3
measure "ring" 2 2e6 'parallelism.sequence={ring: 2}' parallelism.zero_stage=0 training.seq_len=1024
measure "gradient sums" 2 2.1e6 parallelism.data=2 parallelism.zero_stage=1
