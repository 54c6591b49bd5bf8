#!/usr/bin/env bash
# Checks and measures device kernels and programs on a GPU machine, from a bundle (scripts/gpu_bundle.sh), under 9 minutes:
#   ./gpu_check.sh [--results FOLDER] [--seconds N] [PART...]
# Parts, in this order, each with its own time limit:
#   environment conformance attention generic memory optimizer push shadow-f32 shadow-bf16 verify twice ranks graphs bench
#   sdpa step-1024 step-16384 step-graphs sanitizer
# A part that fails costs only itself; what it printed and a line of summary.txt are in FOLDER (default: results, here) at
# once, and table.md is written after every part. A part that has passed is not run again: delete FOLDER to start over, or
# name the parts to run. All together end after N seconds (default 530): what no time is left for is named and is what the
# next call begins with. When conformance fails, the emulator is wrong about this hardware: look at it first.
#   ./gpu_check.sh --cpu
# runs what needs no GPU: conformance on the emulator, a sample of the emulated tests, the driver and, where the bundle has
# a trainer, its programs on the emulator.
# The table is for benchmarks/gpu/<device>-<date>.md.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
all=(environment conformance attention generic memory optimizer push shadow-f32 shadow-bf16 verify twice ranks graphs bench sdpa
  step-1024 step-16384 step-graphs sanitizer)
results=$here/results
cpu=
total=530
parts=()
while (($#)); do
  case $1 in
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --results | --seconds)
      [[ $# -ge 2 ]] || { echo "gpu_check: $1 needs a value" >&2; exit 2; }
      if [[ $1 == --results ]]; then results=$2; else total=$2; fi
      shift
      ;;
    --cpu) cpu=yes ;;
    *)
      [[ " ${all[*]} " == *" $1 "* ]] || { echo "gpu_check: unknown argument $1 (see --help)" >&2; exit 2; }
      parts+=("$1")
      ;;
  esac
  shift
done
mkdir -p "$results"
failed=()
left_out=()
begin=$SECONDS

say() { printf '%s\n' "$*" | tee -a "$results/summary.txt"; }

table() {
  {
    echo "# Device kernels, commit $(cat "$here/commit"), $(date -u +%Y-%m-%d)"
    echo
    head -n 1 "$results/environment.log" 2>/dev/null
    echo
    cat "$results/bench.md" "$results/sdpa.md" 2>/dev/null
    echo
    echo "| part | |"
    echo "| --- | --- |"
    sed -n 's/^== \([^:]*\): \(.*\)$/| \1 | \2 |/p' "$results/summary.txt"
  } >"$results/table.md"
}

# part NAME SECONDS COMMAND...: runs it under its limit, keeps its log, remembers a pass.
part() {
  local name=$1 limit=$2 start=$SECONDS left=$((total - (SECONDS - begin))) status
  shift 2
  if [[ -e $results/$name.passed ]]; then
    say "== $name: passed before"
    return 0
  fi
  if ((left < 5)); then
    left_out+=("$name")
    return 0
  fi
  ((limit > left)) && limit=$left
  timeout --kill-after=5 "$limit" "$@" >"$results/$name.log" 2>&1
  status=$?
  tail -n 40 "$results/$name.log"
  if ((status == 0)); then
    touch "$results/$name.passed"
    say "== $name: passed in $((SECONDS - start)) s"
  else
    failed+=("$name")
    say "== $name: FAILED with status $status after $((SECONDS - start)) s$( ((status == 124)) && echo ", its limit")"
  fi
  table
}

# ---- programs, where the bundle has a trainer. device: cuda or emulator.
shadow() {  # DTYPE: every op of every program beside the CPU's reference kernel
  LONGHAUL_CHECK_OPS=1 "$here/longhaul" train "$here/programs/tiny.yaml" device.type="$device" training.dtype="$1" \
    job.folder="$results/runs/shadow-$1"
}
verify() {
  local dtype
  for dtype in float32 bfloat16; do
    "$here/longhaul" verify "$here/programs/tiny.yaml" device.type="$device" training.dtype=$dtype || return
  done
}
twice() {  # the same command twice: the same bits
  local run
  for run in first second; do
    "$here/longhaul" train "$here/programs/tiny.yaml" device.type="$device" training.dtype=bfloat16 \
      job.folder="$results/runs/$run" || return
  done
  cmp "$results/runs/first/export/model.safetensors" "$results/runs/second/export/model.safetensors"
}
ranks() {  # two ranks, whose messages travel in every way, are one another to the bit
  local way
  if [[ $device == cuda ]] && (($(nvidia-smi --list-gpus | wc -l) < 2)); then
    echo "one GPU here, and a rank needs one of its own: nothing checked"
    return 0
  fi
  for way in staged nccl push; do
    for transport in threads sockets; do
      "$here/longhaul" train "$here/programs/tiny.yaml" --ranks 2 --transport $transport parallelism.sequence=2 \
        parallelism.zero_stage=3 device.type="$device" device.collectives=$way device.timeout=60 \
        training.dtype=bfloat16 job.folder="$results/runs/$way-$transport" || return
      cmp "$results/runs/staged-threads/export/model.safetensors" \
        "$results/runs/$way-$transport/export/model.safetensors" || return
    done
  done
}
graphs() {  # programs launched as wholes: the same bits
  local name way
  tiny() {  # NAME WHAT...
    "$here/longhaul" train "$here/programs/tiny.yaml" device.type="$device" training.dtype=bfloat16 \
      training.steps=4 device.timeout=60 job.folder="$results/runs/$1" "${@:2}"
  }
  same() { cmp "$results/runs/$1/export/model.safetensors" "$results/runs/$2/export/model.safetensors"; }
  tiny plain && tiny graphs device.graphs=true && same plain graphs || return
  if [[ $device == cuda ]] && (($(nvidia-smi --list-gpus | wc -l) < 2)); then
    echo "one GPU here, and a rank needs one of its own: no graphs of two ranks"
    return 0
  fi
  local two=(--ranks 2 parallelism.sequence=2 parallelism.zero_stage=3)
  tiny plain-two "${two[@]}" --transport sockets || return
  for way in nccl push; do
    for transport in sockets threads; do
      name=graphs-$way-$transport
      tiny "$name" "${two[@]}" --transport $transport device.collectives=$way device.graphs=true &&
        same plain-two "$name" || return
    done
  done
}
step() { "$here/longhaul" bench step "$here/programs/step.yaml" --steps 5 --warmup 2 "$@"; }
programs() { [[ -x $here/longhaul ]]; }

if [[ -n $cpu ]]; then
  device=emulator
  export here results device
  export -f shadow verify twice ranks graphs
  total=3600
  rm -f "$results"/cpu-*.passed
  part cpu-conformance 60 "$here/gpu_conformance"
  part cpu-kernels 120 "$here/test_gpu_emulator" "attention reads strided*,the emulator*,peer plans*,push*,AdamW*"
  part cpu-bench 60 "$here/longhaul_bench_kernels" --device emulator
  if programs; then
    rm -rf "$results/runs"
    part cpu-shadow 300 bash -c "shadow bfloat16"
    part cpu-verify 300 bash -c verify
    part cpu-twice 300 bash -c twice
    part cpu-ranks 600 bash -c ranks
    part cpu-graphs 600 bash -c graphs
  fi
  echo "== ${#failed[@]} of the CPU parts failed"
  exit $((${#failed[@]} > 0))
fi

[[ -e $here/liblonghaul_cuda.so ]] || { echo "gpu_check: this bundle was built without nvcc; only --cpu runs" >&2; exit 2; }

# cuBLASLt and NCCL may lie in a Python environment only.
for library in libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2; do
  ldconfig -p 2>/dev/null | grep -q "$library" && continue
  found=$(find /usr/local /opt "$HOME" -name "$library" 2>/dev/null | head -n 1)
  [[ -n $found ]] && export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$(dirname "$found")
done

environment() {
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total --format=csv,noheader
  echo "libraries: $LD_LIBRARY_PATH"
  nproc
  free -g | head -n 2
}
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
device=cuda
export here results device
export -f environment sanitizer sdpa shadow verify twice ranks graphs step

run() {
  case $1 in
    environment) part "$1" 10 bash -c environment ;;
    conformance) part "$1" 20 "$here/cuda_conformance" ;;
    attention) part "$1" 40 "$here/test_cuda_kernels" "*attention*,the query heads*,Hopper*,portable*,soft caps*,partial*" ;;
    generic) part "$1" 20 "$here/test_cuda_kernels" "*graph*,sums*,heads are*,a table*,scalars*,losses*,norms of any*" ;;
    memory) part "$1" 30 "$here/test_cuda_kernels" "norms forward*,a norm*,rotary*,activations*,embedding*,loss head*,casts*" ;;
    optimizer) part "$1" 20 "$here/test_cuda_kernels" "AdamW*,steps of*" ;;
    push) part "$1" 30 "$here/test_cuda_kernels" "push*,a collective*" ;;
    shadow-f32) programs && part "$1" 30 bash -c "shadow float32" ;;
    shadow-bf16) programs && part "$1" 30 bash -c "shadow bfloat16" ;;
    verify) programs && part "$1" 30 bash -c verify ;;
    twice) programs && part "$1" 30 bash -c twice ;;
    ranks) programs && part "$1" 60 bash -c ranks ;;
    graphs) programs && part "$1" 60 bash -c graphs ;;
    bench) part "$1" 110 "$here/longhaul_bench_kernels" --json "$results/bench.json" --markdown "$results/bench.md" ;;
    sdpa) part "$1" 60 bash -c sdpa ;;
    step-1024) programs && part "$1" 90 bash -c "step" ;;
    step-16384) programs && part "$1" 90 bash -c "step training.seq_len=16384 training.micro_batch_size=1 training.global_batch_size=1" ;;
    step-graphs) programs && part "$1" 60 bash -c "step device.graphs=true" ;;
    sanitizer) part "$1" 150 bash -c sanitizer ;;
  esac
}
((${#parts[@]})) || parts=("${all[@]}")
[[ ${#parts[@]} == "${#all[@]}" ]] || for name in "${parts[@]}"; do rm -f "$results/$name.passed"; done
programs || echo "gpu_check: this bundle has no trainer: kernels alone"
for name in "${parts[@]}"; do run "$name"; done
table

((${#left_out[@]})) && echo "== no time left for: ${left_out[*]}"
if ((${#failed[@]})); then
  echo "== FAILED: ${failed[*]}"
  exit 1
fi
((${#left_out[@]})) && exit 3
echo "== all parts passed; the table is $results/table.md"
