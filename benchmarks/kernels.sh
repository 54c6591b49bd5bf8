#!/bin/sh
# Reruns the problem files that benchmarks/README.md reports and writes its tables, in Markdown, to standard output:
#   benchmarks/kernels.sh [FOLDER]        # FOLDER keeps the driver's own tables (JSON); default build/kernels
# One thread. Fractions are of CPU time, so a busy machine costs time rather than figures; a table says how busy it was.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/build/kernels}
mkdir -p "$folder"
for problems in attention gemm memory; do
  compare=
  [ "$problems" = gemm ] && compare="--compare onednn,openblas"
  # shellcheck disable=SC2086
  "$root/build/longhaul" bench kernels --problems "$root/benchmarks/problems/$problems.txt" $compare \
    --json "$folder/$problems.json" >"$folder/$problems.out" || {
    cat "$folder/$problems.out" >&2
    exit 1
  }
done
python3 "$root/benchmarks/kernel_tables.py" "$folder/attention.json" "$folder/gemm.json" "$folder/memory.json"
