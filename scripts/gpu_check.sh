#!/usr/bin/env bash
# Checks and measures device kernels and programs on a GPU machine, from a bundle (scripts/gpu_bundle.sh), under 9 minutes:
#   ./gpu_check.sh [--results FOLDER] [--seconds N] [--limit N] [PART...]
# Parts, in this order, each with its own time limit (--limit: no part has more than N seconds):
#   environment conformance attention generic memory optimizer push shadow-f32 shadow-bf16 verify twice ranks graphs
#   graphs-two bench sdpa step-1024 pytorch-1024 step-16384 step-graphs sanitizer
# A part that fails costs only itself; what it printed and a line of summary.txt are in FOLDER (default: results, here) at
# once, and table.md is written after every part. A part that has passed is not run again: delete FOLDER to start over, or
# name the parts to run. All together end after N seconds (default 530): what no time is left for is named and is what the
# next call begins with. When conformance fails, the emulator is wrong about this hardware: look at it first.
#   ./gpu_check.sh --cpu [PART...]
# runs what needs no GPU, by the same rules: cpu-conformance cpu-kernels cpu-bench, which are the emulator's, a sample of the
# emulated tests and the driver, and where the bundle has a trainer its programs on the emulator: cpu-shadow cpu-verify
# cpu-twice cpu-ranks cpu-graphs cpu-graphs-two.
# A part that this machine lacks something for (a second GPU, PyTorch, compute-sanitizer, a trainer in the bundle) is `not
# run`, with the reason: it has not passed, and is tried again by the next call.
# Exit status: 0 when no part failed, 1 when one did, 2 when the call is wrong, 3 when no time was left for some.
# The table is for benchmarks/gpu/<device>-<date>.md.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python_libraries=${LD_LIBRARY_PATH:-}  # without the bundle's own, which may be older than what PyTorch needs
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
gpu_parts=(environment conformance attention generic memory optimizer push shadow-f32 shadow-bf16 verify twice ranks graphs
  graphs-two bench sdpa step-1024 pytorch-1024 step-16384 step-graphs sanitizer)
cpu_parts=(cpu-conformance cpu-kernels cpu-bench cpu-shadow cpu-verify cpu-twice cpu-ranks cpu-graphs cpu-graphs-two)
results=$here/results
device=cuda
total=
longest=
runs=  # of each part
parts=()
while (($#)); do
  case $1 in
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --results | --seconds | --limit)
      [[ $# -ge 2 ]] || { echo "gpu_check: $1 needs a value" >&2; exit 2; }
      case $1 in
        --results) results=$2 ;;
        --seconds) total=$2 ;;
        --limit) longest=$2 ;;
      esac
      shift
      ;;
    --cpu) device=emulator ;;
    *) parts+=("$1") ;;
  esac
  shift
done
if [[ $device == emulator ]]; then all=("${cpu_parts[@]}"); else all=("${gpu_parts[@]}"); fi
for name in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] || { echo "gpu_check: unknown argument $name (see --help)" >&2; exit 2; }
done
: "${total:=$([[ $device == emulator ]] && echo 3600 || echo 530)}"
[[ $total =~ ^[0-9]+$ && ${longest:-1} =~ ^[0-9]+$ ]] || { echo "gpu_check: --seconds and --limit take a number" >&2; exit 2; }
[[ -e $here/commit ]] || { echo "gpu_check: run this in a bundle; scripts/gpu_bundle.sh makes one" >&2; exit 2; }
mkdir -p "$results"
failed=()
lacking=()
left_out=()
begin=$SECONDS

say() { printf '%s\n' "$*" | tee -a "$results/summary.txt"; }
# Ends a part that this machine cannot run: not_run REASON
not_run() {
  echo "not run: $*"
  exit 77
}

# Tokens a second of the parts that time whole steps.
steps() {
  local name peer=
  [[ -e $results/pytorch-1024.passed ]] && peer=$(sed -n 's/.*"tokens_per_second": \([0-9.]*\).*/\1/p' "$results/pytorch-1024.log")
  echo
  echo "Steps in the shape of Qwen2.5-1.5B, bf16, 8 sequences of 1024 tokens (step-16384: one), random weights:"
  echo
  echo "| part | tokens/s | over compiled PyTorch |"
  echo "| --- | --- | --- |"
  for name in step-1024 step-graphs step-16384; do
    [[ -e $results/$name.passed ]] || continue
    awk -v name="$name" -v peer="$([[ $name == step-16384 ]] || echo "$peer")" '$1 == "tokens/s" {
      printf "| %s | %s | %s |\n", name, $2, (peer ? sprintf("%.2fx", $2 / peer) : "") }' "$results/$name.log"
  done
  [[ -n $peer ]] && echo "| pytorch-1024 | $peer | |"
}

table() {
  {
    echo "# Device kernels, commit $(cat "$here/commit"), $(date -u +%Y-%m-%d)"
    echo
    head -n 1 "$results/environment.log" 2>/dev/null
    echo
    cat "$results/bench.md" "$results/sdpa.md" 2>/dev/null
    steps
    echo
    echo "| part | |"
    echo "| --- | --- |"
    # Of a part that ran more than once the last time.
    awk 'match($0, /^== [^:]*: /) && !/: passed before$/ {
           name = substr($0, 4, RLENGTH - 5)
           if (!(name in said)) order[++count] = name
           said[name] = substr($0, RLENGTH + 1)
         }
         END { for (i = 1; i <= count; i++) printf "| %s | %s |\n", order[i], said[order[i]] }' "$results/summary.txt"
  } >"$results/table.md"
}

# part NAME SECONDS COMMAND...: runs it under its limit, keeps its log, remembers a pass.
part() {
  local name=$1 limit=$2 start=$SECONDS left=$((total - (SECONDS - begin))) status log=$results/$1.log
  shift 2
  if [[ -e $results/$name.passed ]]; then
    say "== $name: passed before"
    return 0
  fi
  if ((left < 5)); then
    left_out+=("$name")
    say "== $name: no time left"
    return 0
  fi
  ((limit > left)) && limit=$left
  [[ -n $longest ]] && ((limit > longest)) && limit=$longest
  rm -rf "$results/runs/$name"
  runs=$results/runs/$name timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
  status=$?
  tail -n 40 "$log"
  if ((status == 0)); then
    touch "$results/$name.passed"
    say "== $name: passed in $((SECONDS - start)) s"
  elif ((status == 77)) && [[ $(tail -n 1 "$log") == "not run: "* ]]; then
    lacking+=("$name")
    say "== $name: $(tail -n 1 "$log")"
  else
    failed+=("$name")
    say "== $name: FAILED with status $status after $((SECONDS - start)) s$( ((status == 124 || status == 137)) && echo ", its limit")"
  fi
  table
}

# ---- programs, where the bundle has a trainer. device: cuda or emulator; runs: a folder of the part's own, empty at first.
trainer() { [[ -x $here/longhaul ]] || not_run "this bundle has no trainer"; }
two_devices() {
  [[ $device == emulator ]] || (($(nvidia-smi --list-gpus | wc -l) > 1)) ||
    not_run "one GPU here, and a rank needs one of its own"
}
small() {  # COMMAND WHAT...: on the small model; on the emulator on a tenth of it and fewer tokens
  local less=()
  [[ $device == cuda ]] || less=("model.config=$here/programs/tiny_emulated.json" training.seq_len=64
    training.micro_batch_size=1 training.global_batch_size=2)
  "$here/longhaul" "$1" "$here/programs/tiny.yaml" device.type="$device" device.timeout=15 "${less[@]}" "${@:2}"
}
tiny() {  # NAME WHAT...: trains it into runs/NAME
  small train training.dtype=bfloat16 job.folder="$runs/$1" "${@:2}"
}
same() { cmp "$runs/$1/export/model.safetensors" "$runs/$2/export/model.safetensors"; }
shadow() {  # DTYPE: every op of every program beside the CPU's reference kernel
  trainer
  LONGHAUL_CHECK_OPS=1 tiny shadow training.dtype="$1"
}
verify() {
  trainer
  local dtype
  for dtype in float32 bfloat16; do
    small verify training.dtype=$dtype || return
  done
}
twice() {  # the same command twice: the same bits
  trainer
  tiny first && tiny second && same first second
}
ranks() {  # two ranks, whose messages travel in every way, are one another to the bit
  trainer
  two_devices
  local way transport two=(--ranks 2 parallelism.sequence=2 parallelism.zero_stage=3)
  for way in staged nccl push; do
    for transport in threads sockets; do
      tiny $way-$transport "${two[@]}" --transport $transport device.collectives=$way &&
        same staged-threads $way-$transport || return
    done
  done
}
graphs() {  # programs launched as wholes: the same bits
  trainer
  tiny plain training.steps=3 && tiny graphs training.steps=3 device.graphs=true && same plain graphs
}
graphs_two() {
  trainer
  two_devices
  local way transport two=(--ranks 2 parallelism.sequence=2 parallelism.zero_stage=3 training.steps=3)
  tiny plain "${two[@]}" --transport sockets || return
  for way in nccl push; do
    for transport in sockets threads; do
      tiny $way-$transport "${two[@]}" --transport $transport device.collectives=$way device.graphs=true &&
        same plain $way-$transport || return
    done
  done
}
step() {
  trainer
  "$here/longhaul" bench step "$here/programs/step.yaml" --steps 5 --warmup 2 "$@"
}
python() { LD_LIBRARY_PATH=$python_libraries python3 "$@"; }
pytorch() {  # the same step by PyTorch: compiled, SDPA, fused AdamW, bf16 by autocast
  trainer
  python -c 'import numpy, safetensors, torch, transformers; assert torch.cuda.is_available()' 2>/dev/null ||
    not_run "no Python with PyTorch, CUDA, transformers and safetensors here"
  python "$here/pytorch_step.py" --device cuda --model "$here/programs/qwen2.5-1.5b.json" --dtype bfloat16 --compile \
    --batch 8 --seq 1024 --steps 7 --warmup 2 --lr 1e-5
}

# ---- what only a GPU machine has
environment() {
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total --format=csv,noheader || return
  echo "libraries: $LD_LIBRARY_PATH"
  nproc
  free -g | head -n 2
}
sanitizer() {  # racecheck sees shared memory only through generic addresses: it and memcheck on the smaller tests
  local tool status=0
  command -v compute-sanitizer >/dev/null || not_run "compute-sanitizer is not on this machine"
  for tool in memcheck synccheck racecheck; do
    echo "---- $tool"
    timeout 48 compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/test_cuda_kernels" --warn NoTests \
      "attention reads strided*,norms*,rotary*,embedding*,loss*,AdamW*,casts*" || status=$?
  done
  return "$status"
}
sdpa() {
  python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || not_run "no Python with PyTorch and CUDA here"
  [[ -e $results/bench.json ]] || not_run "the part bench has left no bench.json"
  python "$here/sdpa.py" "$results/bench.json" "$results/sdpa.json" "$results/sdpa.md"
}
export here results device python_libraries
export -f python not_run trainer two_devices small tiny same shadow verify twice ranks graphs graphs_two step pytorch environment sanitizer sdpa

# kernel_tests NAME SECONDS TESTS: those of a GPU; a pattern that no test has the name of is a failure.
kernel_tests() { part "$1" "$2" "$here/test_cuda_kernels" --warn NoTests "$3"; }
program() { part "$1" "$2" bash -c "$3"; }
run() {
  case $1 in
    environment) program "$1" 10 environment ;;
    conformance) part "$1" 20 "$here/cuda_conformance" ;;
    attention) kernel_tests "$1" 40 "*attention*,the query heads*,Hopper*,portable*,soft caps*,partial*" ;;
    generic) kernel_tests "$1" 20 "*graph*,sums*,heads are*,a table*,scalars*,losses*,norms of any*" ;;
    memory) kernel_tests "$1" 30 "norms forward*,a norm*,rotary*,activations*,embedding*,loss head*,casts*" ;;
    optimizer) kernel_tests "$1" 20 "AdamW*,steps of*" ;;
    # One thread drives several ranks here: a kernel that is loaded when it is first launched could wait for one that spins.
    push) CUDA_MODULE_LOADING=EAGER kernel_tests "$1" 30 "push*,peer plans*,a collective*" ;;
    shadow-f32) program "$1" 30 "shadow float32" ;;
    shadow-bf16) program "$1" 30 "shadow bfloat16" ;;
    verify) program "$1" 30 verify ;;
    twice) program "$1" 30 twice ;;
    ranks) program "$1" 150 ranks ;;
    graphs) program "$1" 30 graphs ;;
    graphs-two) program "$1" 120 graphs_two ;;
    bench) part "$1" 110 "$here/longhaul_bench_kernels" --json "$results/bench.json" --markdown "$results/bench.md" ;;
    sdpa) program "$1" 60 sdpa ;;
    step-1024) program "$1" 90 step ;;
    pytorch-1024) program "$1" 150 pytorch ;;
    step-16384) program "$1" 90 "step training.seq_len=16384 training.micro_batch_size=1 training.global_batch_size=1" ;;
    step-graphs) program "$1" 60 "step device.graphs=true" ;;
    sanitizer) program "$1" 150 sanitizer ;;
    cpu-conformance) part "$1" 60 "$here/gpu_conformance" ;;
    cpu-kernels)
      part "$1" 120 "$here/test_gpu_emulator" --warn NoTests "attention reads strided*,the emulator*,peer plans*,push*,AdamW*"
      ;;
    cpu-bench) part "$1" 60 "$here/longhaul_bench_kernels" --device emulator ;;
    cpu-shadow) program "$1" 300 "shadow bfloat16" ;;
    cpu-verify) program "$1" 300 verify ;;
    cpu-twice) program "$1" 300 twice ;;
    cpu-ranks) program "$1" 600 ranks ;;
    cpu-graphs) program "$1" 300 graphs ;;
    cpu-graphs-two) program "$1" 600 graphs_two ;;
  esac
}

if [[ $device == cuda ]]; then
  [[ -e $here/liblonghaul_cuda.so ]] || { echo "gpu_check: this bundle was built without nvcc; only --cpu runs" >&2; exit 2; }
  # cuBLASLt and NCCL may lie in a Python environment only.
  for library in libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2; do
    ldconfig -p 2>/dev/null | grep -q "$library" && continue
    found=$(find /usr/local /opt "$HOME" -name "$library" 2>/dev/null | head -n 1)
    [[ -n $found ]] || continue
    LD_LIBRARY_PATH+=:$(dirname "$found")
    python_libraries+=${python_libraries:+:}$(dirname "$found")
  done
fi
((${#parts[@]})) || parts=("${all[@]}")
[[ ${#parts[@]} == "${#all[@]}" ]] || for name in "${parts[@]}"; do rm -f "$results/$name.passed"; done
for name in "${parts[@]}"; do run "$name"; done
table

((${#left_out[@]})) && echo "== no time left for: ${left_out[*]}"
((${#lacking[@]})) && echo "== not run here: ${lacking[*]}"
if ((${#failed[@]})); then
  echo "== FAILED: ${failed[*]}"
  exit 1
fi
((${#left_out[@]})) && exit 3
echo "== all parts that could run have passed; the table is $results/table.md"
