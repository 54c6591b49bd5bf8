#!/usr/bin/env bash
# Everything that benchmarks/README.md states about training steps on a CPU, in about half an hour on a machine of its own:
#
#   benchmarks/measure.sh PYTHON | tee measured.txt; grep '^== .*:.*x' measured.txt
#
# PYTHON has torch and transformers (and a C++ compiler, for torch.compile). Each line that counts begins with "== model B= T=".
set -euo pipefail
python=$1
here=$(cd "$(dirname "$0")" && pwd)
beside() { COMPILE=1 "$here/step_beside_pytorch.sh" "$python" "$@"; }
date -u
grep -m1 'model name' /proc/cpuinfo
for dtype in float32 bfloat16; do
  beside gpt2 4 64 "$dtype" 3 1
  beside gpt2 1 1024 "$dtype" 2 1
done
# Two threads: beside the CPU time over wall time of one (2.00 is two cores of one's own).
for threads in 1 2; do
  echo "== longhaul alone, gpt2 B=1 T=1024 float32, threads=$threads"
  OMP_WAIT_POLICY=passive "$here/../build/longhaul" bench step "$here/gpt2_124m.yaml" --steps 2 --warmup 1 "training.threads=$threads" 2>/dev/null |
    sed '/^op  /,$d'
done
for dtype in float32 bfloat16; do
  beside llama 1 16384 "$dtype" 1 1
done
