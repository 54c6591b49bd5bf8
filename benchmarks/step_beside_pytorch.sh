#!/usr/bin/env bash
# Times one model's training step in longhaul and in PyTorch on the same weights and tokens, turn by turn in one run, and prints both with
# their losses. Needs a Python with torch and transformers (never needed by longhaul itself):
#
#   benchmarks/step_beside_pytorch.sh PYTHON {gpt2|llama} BATCH SEQUENCE {float32|bfloat16} [STEPS] [ROUNDS] [THREADS]
#
# PyTorch runs as its user would run it and, because malloc then gives pages back after every use, also with its memory retained; the better of
# them (and of torch.compile when COMPILE=1) is the peer. WARMUP=0 leaves out the warm-up step of both (for steps of a minute). The last line is the
# summary: seconds and CPU seconds a step, and the ratios of both; on a shared machine only those of CPU seconds mean something.
set -euo pipefail
python=$1 model=$2 batch=$3 sequence=$4 dtype=$5 steps=${6:-3} rounds=${7:-2} threads=${8:-1} warmup=${WARMUP:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMP_WAIT_POLICY=passive

"$python" "$root/benchmarks/pytorch_step.py" --model "$model" --batch "$batch" --seq "$sequence" --threads "$threads" --save-only \
  --save-model "$work/model" --save-tokens "$work/tokens.bin" >/dev/null
ours=("$root/build/longhaul" bench step "$root/benchmarks/gpt2_124m.yaml" --steps "$steps" --warmup "$warmup"
  "model.config=$work/model/config.json" "model.weights=$work/model/model.safetensors" "data.files=[$work/tokens.bin]" "training.seq_len=$sequence"
  "training.micro_batch_size=$batch" "training.dtype=$dtype" "training.threads=$threads" "job.folder=$work/run")
theirs=("$python" "$root/benchmarks/pytorch_step.py" --model "$work/model/config.json" --weights "$work/model/model.safetensors" --tokens "$work/tokens.bin"
  --batch "$batch" --seq "$sequence" --dtype "$dtype" --threads "$threads" --steps $((steps + warmup)) --warmup "$warmup"
  --lr 3e-4 --weight-decay 0.1 --max-norm 1)
for ((round = 1; round <= rounds; round++)); do
  echo "== round $round: longhaul"
  "${ours[@]}" 2>/dev/null >"$work/ours"
  cat "$work/ours" >>"$work/ours.all"
  if ((round == rounds)); then cat "$work/ours"; else sed '/^op  /,$d' "$work/ours"; fi
  echo "== round $round: PyTorch"
  "${theirs[@]}" | tee -a "$work/theirs.all"
  echo "== round $round: PyTorch, memory retained"
  "${theirs[@]}" --allocator retain | tee -a "$work/theirs.all"
  if [ "${COMPILE:-0}" = 1 ]; then
    echo "== round $round: PyTorch, compiled"
    "${theirs[@]}" --allocator retain --compile | tee -a "$work/theirs.all"
  fi
done
"$python" - "$model B=$batch T=$sequence $dtype threads=$threads" "$work/ours.all" "$work/theirs.all" <<'END'
import json, re, sys
what, ours, theirs = sys.argv[1], open(sys.argv[2]).read(), [json.loads(line) for line in open(sys.argv[3])]
wall = min(float(x) for x in re.findall(r"minimum ([0-9.]+)", ours))
cpu = min(float(x) for x in re.findall(r"^CPU seconds +([0-9.]+)", ours, re.M))
loss = [float(x) for x in re.search(r"^losses +(.*)$", ours, re.M)[1].split()]
peer, peer_cpu = min(x["seconds_min"] for x in theirs), min(x["cpu_seconds_min"] for x in theirs)
apart = max(abs(a - b) / abs(b) for a, b in zip(loss, theirs[0]["losses"]))
fraction = re.search(r"^fraction of peak +([0-9.]+%)", ours, re.M)[1]
print(f"== {what}: longhaul {wall:.3f} s ({cpu:.3f} CPU, {fraction} of peak), PyTorch {peer:.3f} s ({peer_cpu:.3f} CPU): "
      f"{peer / wall:.2f}x, by CPU time {peer_cpu / cpu:.2f}x; losses differ by {apart:.1e}")
END
