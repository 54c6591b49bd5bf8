#!/usr/bin/env bash
# Proves that a change computes what was computed before: compiles several hundred experiments with the program of
# another revision and with this working tree's, and compares what they print, the IR after every pass, the programs and
# the tables of memory and traffic byte for byte; then trains a handful of tiny runs with both and compares metrics
# (without times) and checkpoints.
#   scripts/replay.sh BASE                 everything; exits 1 when something differs
#   scripts/replay.sh BASE --only REGEX    experiments whose name matches, as 'llama.*ring'
#   scripts/replay.sh BASE --except REGEX  lines that match may differ: what a change alters on purpose
#   scripts/replay.sh BASE --names         where a name of BASE has another now, as SED: its text is rewritten first
#   scripts/replay.sh BASE --no-runs       compiles only
# What differs stays in build-replay/differences; programs of earlier revisions stay in build-replay.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

base='' only='.' except='' names='' runs=1
while (($#)); do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --only) only=${2:?--only needs a regular expression} && shift 2 ;;
    --except) except=${2:?--except needs a regular expression} && shift 2 ;;
    --names) names=${2:?--names needs a sed script} && shift 2 ;;
    --no-runs) runs=0 && shift ;;
    -*) die "unknown option $1; $0 --help lists those there are" ;;
    *) [[ -z $base ]] || die "one revision, please: $base or $1"; base=$1 && shift ;;
  esac
done
[[ -n $base ]] || { usage; exit 2; }
cd "$root"
commit=$(git rev-parse --verify --quiet "$base^{commit}") || die "$base is no revision of this repository"
place=$root/build-replay
mkdir -p "$place"

# The base's program, built once a revision in a work tree of its own.
before=$place/$commit/build/longhaul
if [[ ! -x $before ]]; then
  say "Building ${commit:0:10}"
  git worktree prune
  rm -rf "${place:?}/$commit"
  git worktree add --quiet --detach "$place/$commit" "$commit"
  (cd "$place/$commit" && cmake --preset release -DLONGHAUL_TESTS=OFF -DLONGHAUL_CUDA=OFF >cmake.log &&
    cmake --build build -j "$(nproc)" --target longhaul >build.log) || die "${commit:0:10} does not build: $place/$commit/*.log"
fi
build release longhaul
after=$root/build/longhaul

export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 LONGHAUL_LOG=warn
unset LONGHAUL_KERNELS LONGHAUL_ISA LONGHAUL_DUMP
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
differences=$place/differences
rm -rf "$differences"
mkdir -p "$differences" "$work/experiments"
head -c 20000 README.md >"$work/text.txt"
# Documents of many lengths, some longer than a sample.
awk 'BEGIN { for (i = 0; i < 300; ++i) { line = ""; for (j = i * 7 % 41; j >= 0; --j) line = line " " i + j; print "{\"text\": \"" line "\"}" } }' \
  >"$work/lines.jsonl"

# experiment NAME RANKS SEQUENCE MODEL [KEY=VALUE...]: one file; its first line says for how many ranks.
experiment() {
  local name=$1 ranks=$2 sequence=$3 model=$4
  shift 4
  [[ $name =~ $only ]] || return 0
  {
    printf '# %s\n' "$ranks"
    printf 'model: {config: %s}\ndata: {files: [%s], format: jsonl' "$root/$model" "$work/lines.jsonl"
    local pair
    for pair in "$@"; do [[ $pair == data.* ]] && printf ', %s' "${pair#data.}"; done
    printf '}\ntraining: {seq_len: %s, threads: 1' "$sequence"
    for pair in "$@"; do [[ $pair == training.* ]] && printf ', %s' "${pair#training.}"; done
    printf '}\n'
    for pair in "$@"; do [[ $pair == training.* || $pair == data.* ]] || printf '%s\n' "$pair"; done
  } >"$work/experiments/$name.yaml"
}

# Families x splits x stages x dtypes; accumulation, packing and lifetimes take turns so that each meets every split.
number=0
for model in llama gpt2 qwen2_window qwen3_mixed_layers own; do
  config=tests/golden/$model/config.json
  [[ $model != own ]] || config=configs/models/quickstart.json
  for split in '1 1 1' '2 2 1' '2 1 2' '2 1 {ring:2}' '2 1 {gather_kv:2}' '4 1 {ulysses:2,ring:2}' '4 1 {ulysses:2,gather_kv:2}' \
    '4 2 2' '4 2 {ring:2}' '4 1 {ring:4}' '8 2 {ulysses:2,ring:2}'; do
    read -r ranks data sequence <<<"$split"
    for stage in 0 1 2 3; do
      for dtype in float64 float32 bfloat16; do
        number=$((number + 1))
        extra=()
        case $((number % 5)) in
          1) extra+=("training.global_batch_size: $((3 * data))") ;;
          2) extra+=('validation: {freq: 2}') ;;
          3) extra+=("training.global_batch_size: $((2 * data))") ;;
        esac
        case $((number % 7)) in
          1 | 4) extra+=('data.packing: {mode: best_fit}') ;;
          2) extra+=('data.packing: {mode: documents}') ;;
          3) extra+=('data.packing: {mode: best_fit, long: skip}') ;;
        esac
        order=auto gathered=auto
        [[ $((number % 7)) != 3 || $ranks == 1 ]] || order=balanced
        [[ $((number % 4)) != 1 || $stage != 3 ]] || gathered=backward
        experiment "$model-$data-${sequence//[\{\},:]/}-zero$stage-$dtype" "$ranks" 40 "$config" "training.dtype: $dtype" \
          "${extra[@]}" "parallelism: {data: $data, sequence: ${sequence//:/: }, zero_stage: $stage, token_order: $order, keep_gathered: $gathered}"
      done
    done
  done
done
# Sizes as they are used, far from the tiny ones: only what compiles.
for shape in '8 131072 8' '64 131072 8' '8 131072 {ring:8}' '16 65536 {ulysses:8,ring:2}'; do
  read -r ranks length sequence <<<"$shape"
  experiment "llama-3.1-8b-$ranks-$length-${sequence//[\{\},:]/}" "$ranks" "$length" configs/models/llama-3.1-8b.json \
    'training.dtype: bfloat16' "parallelism: {sequence: ${sequence//:/: }, zero_stage: 3}"
done

one() {  # one FILE: 0 when both programs agree
  local name ranks side program
  name=$(basename "$1" .yaml)
  ranks=$(sed -n '1s/# //p' "$1")
  mkdir -p "$work/$name/before" "$work/$name/after"
  for side in before after; do
    program=$before
    [[ $side == before ]] || program=$after
    (cd "$work/$name/$side" && "$program" compile "$1" --ranks "$ranks" --dump-ir dump >printed 2>&1 || printf 'exit status %d\n' $? >>printed)
  done
  if [[ -n $names ]]; then find "$work/$name/before" -type f -exec sed -i -E "$names" {} +; fi
  if diff -r ${except:+-I "$except"} "$work/$name/before" "$work/$name/after" >"$work/$name.diff" 2>&1; then
    grep -q '^exit status' "$work/$name/after/printed" && echo refused >"$work/$name.refused"
    rm -rf "${work:?}/$name"
    return 0
  fi
  mv "$work/$name" "$differences/$name"
  cp "$1" "$differences/$name/experiment.yaml"
  mv "$work/$name.diff" "$differences/$name.diff"
}
export -f one
export work before after differences except names

count=$(find "$work/experiments" -name '*.yaml' | wc -l)
say "Compiling $count experiments with ${commit:0:10} and with the working tree"
find "$work/experiments" -name '*.yaml' -print0 | sort -z | xargs -0 -r -n 1 -P "$(nproc)" bash -c 'one "$0"'
refused=$(find "$work" -maxdepth 1 -name '*.refused' | wc -l)

# Tiny runs: the same folder for both, one after the other, because checkpoints hold the resolved experiment.
train() {  # train NAME RANKS KEY=VALUE...
  local name=$1 ranks=$2 side program
  shift 2
  for side in before after; do
    program=$before
    [[ $side == before ]] || program=$after
    rm -rf "$work/run"
    "$program" train configs/quickstart.yaml --ranks "$ranks" "data.files=[$work/text.txt]" "data.validation_files=[$work/text.txt]" \
      "job.folder=$work/run" training.seq_len=64 training.steps=4 training.threads=1 checkpoint.interval=2 validation.freq=2 \
      validation.steps=1 "$@" >"$work/train.log" 2>&1 || { cat "$work/train.log" >&2; die "run $name ($side) failed"; }
    sed -E -i 's/"(tokens_per_second|mfu|step_seconds|process_memory_bytes|time)":[^,}]*,?//g' "$work/run/metrics.jsonl"
    # When it ran, by which commit and process: every start differs in these.
    rm -f "$work/run/run.json"
    sed -E -i 's/^[0-9-]+ [0-9:]+ //' "$work/run/log.txt"
    if [[ -n $names ]]; then find "$work/run" -type f \( -name '*.json' -o -name '*.yaml' \) -exec sed -i -E "$names" {} +; fi
    mv "$work/run" "$work/$side"
  done
  if diff -r "$work/before" "$work/after" >"$differences/run-$name.diff"; then
    rm "$differences/run-$name.diff"
  else
    mkdir "$differences/run-$name" && mv "$work/before" "$work/after" "$differences/run-$name/"
  fi
  rm -rf "$work/before" "$work/after"
}
trained=0
if ((runs)); then
  say "Training tiny runs with both"
  for run in 'one-rank 1 parallelism.sequence=1' 'bf16-sequence 2 training.dtype=bfloat16 parallelism.zero_stage=2' \
    'ring 2 parallelism.sequence={ring: 2} parallelism.zero_stage=3' 'float64-data 2 parallelism.data=2 parallelism.sequence=1 training.dtype=float64' \
    'gathered 4 parallelism.sequence={ulysses: 2, gather_kv: 2} parallelism.zero_stage=3 training.global_batch_size=6' \
    "packed 2 data.files=[$work/lines.jsonl] data.format=jsonl data.validation_files=[$work/lines.jsonl] data.packing={mode: best_fit, long: truncate} parallelism.sequence={ring: 2} parallelism.token_order=balanced"; do
    name=${run%% *} rest=${run#* }
    [[ run-$name =~ $only ]] || continue
    mapfile -t words < <(sed -E 's/ ([a-z_.]+=)/\n\1/g' <<<"$rest")
    train "$name" "${words[@]}"
    trained=$((trained + 1))
  done
fi

((count + trained)) || die "no experiment's or run's name matches $only"
changed=$(find "$differences" -maxdepth 1 -name '*.diff' | sort)
if [[ -n $changed ]]; then
  printf '%d differ, of %d experiments and %d runs:\n' "$(wc -l <<<"$changed")" "$count" "$trained"
  sed -E 's#.*/#   #; s#\.diff$##' <<<"$changed" | head -20
  printf 'The first difference:\n'
  head -30 "$(head -n 1 <<<"$changed")"
  printf 'All of them: %s\n' "$differences"
  exit 1
fi
rmdir "$differences"
printf 'identical: %d experiments (of which %d are refused, alike) and %d runs\n' "$count" "$refused" "$trained"
