#!/usr/bin/env bash
# Checks and measures the device kernels on a GPU machine, from a bundle (scripts/gpu_bundle.sh), under 9 minutes in all:
#   ./gpu_check.sh [--results FOLDER] [PART...]
# Parts, in this order, each with its own time limit: conformance kernels sanitizer collectives bench sdpa.
# A part that has passed is not run again: delete FOLDER (default: results, here) to start over, or name the parts to run.
# When conformance fails the emulator is wrong about this hardware, and nothing after it counts: the script stops.
#   ./gpu_check.sh --cpu
# runs the parts that need no GPU: conformance on the emulator, a sample of the emulated tests, the driver on the emulator.
# The table is FOLDER/table.md (and bench.json, sdpa.json): commit it as benchmarks/gpu/<device>-<date>.md.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
results=$here/results
cpu=
parts=()
while (($#)); do
  case $1 in
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --results)
      [[ $# -ge 2 ]] || { echo "gpu_check: --results needs a folder" >&2; exit 2; }
      results=$2
      shift
      ;;
    --cpu) cpu=yes ;;
    conformance | kernels | sanitizer | collectives | bench | sdpa) parts+=("$1") ;;
    *)
      echo "gpu_check: unknown argument $1 (see --help)" >&2
      exit 2
      ;;
  esac
  shift
done
mkdir -p "$results"
failed=()

# part NAME SECONDS COMMAND...: runs it under its limit, keeps its log, remembers a pass.
part() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  if [[ -e $results/$name.passed ]]; then
    echo "== $name: passed before"
    return 0
  fi
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" >"$results/$name.log" 2>&1
  status=$?
  tail -n 40 "$results/$name.log"
  if ((status == 0)); then
    touch "$results/$name.passed"
    echo "== $name: passed in $((SECONDS - begin)) s"
  else
    ((status == 124)) && echo "== $name: ran past its limit of $limit s"
    echo "== $name: FAILED with status $status after $((SECONDS - begin)) s; all of it: $results/$name.log"
    failed+=("$name")
  fi
  return "$status"
}

if [[ -n $cpu ]]; then
  rm -f "$results"/cpu-*.passed
  part cpu-conformance 60 "$here/gpu_conformance"
  part cpu-kernels 120 "$here/test_gpu_emulator" "attention reads strided*,the emulator*,peer plans*,push*,AdamW*"
  part cpu-bench 60 "$here/longhaul_bench_kernels" --device emulator
  echo "== ${#failed[@]} of the CPU parts failed"
  exit $((${#failed[@]} > 0))
fi

[[ -e $here/liblonghaul_cuda.so ]] || { echo "gpu_check: this bundle was built without nvcc; only --cpu runs" >&2; exit 2; }

sanitizer() {  # racecheck sees shared memory only through generic addresses: it and memcheck on the smaller tests
  local tool status=0
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not on this machine: nothing checked"
    return 0
  fi
  for tool in memcheck synccheck racecheck; do
    echo "---- $tool"
    timeout 48 compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/test_cuda_kernels" \
      "attention reads strided*,norms*,rotary*,embedding*,loss*,AdamW*,casts*" || status=$?
  done
  return "$status"
}
sdpa() {
  if ! python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    echo "no Python with PyTorch and CUDA here: no comparison with its SDPA"
    return 0
  fi
  python3 "$here/sdpa.py" "$results/bench.json" "$results/sdpa.json" "$results/sdpa.md"
}
export here results
export -f sanitizer sdpa

wanted() {
  local name
  ((${#parts[@]} == 0)) && return 0
  for name in "${parts[@]}"; do [[ $name == "$1" ]] && return 0; done
  return 1
}
for name in "${parts[@]}"; do rm -f "$results/$name.passed"; done

wanted conformance && { part conformance 20 "$here/cuda_conformance" || exit 1; }
wanted kernels && part kernels 100 "$here/test_cuda_kernels" "~push*"
wanted sanitizer && part sanitizer 150 bash -c sanitizer
wanted collectives && part collectives 30 "$here/test_cuda_kernels" "push*,a collective*"
wanted bench && part bench 150 "$here/longhaul_bench_kernels" --json "$results/bench.json" --markdown "$results/bench.md"
wanted sdpa && part sdpa 80 bash -c sdpa

{
  echo "# Device kernels, commit $(cat "$here/commit"), $(date -u +%Y-%m-%d)"
  echo
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null
  echo
  cat "$results/bench.md" "$results/sdpa.md" 2>/dev/null
} >"$results/table.md"
if ((${#failed[@]})); then
  echo "== FAILED: ${failed[*]}"
  exit 1
fi
echo "== all parts passed; the table is $results/table.md"
