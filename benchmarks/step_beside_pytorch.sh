#!/usr/bin/env bash
# Times one model's training step in longhaul and in PyTorch on the same weights and tokens, turn by turn in one run, and prints both with
# their losses. Needs a Python with torch and transformers (never needed by longhaul itself):
#
#   benchmarks/step_beside_pytorch.sh PYTHON {gpt2|llama} BATCH SEQUENCE {float32|bfloat16} [STEPS] [ROUNDS] [THREADS]
#
# PyTorch runs as its user would run it and, because malloc then gives pages back after every use, also with its memory retained; the better of
# them (and of torch.compile when COMPILE=1) is the peer.
set -euo pipefail
python=$1 model=$2 batch=$3 sequence=$4 dtype=$5 steps=${6:-3} rounds=${7:-2} threads=${8:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMP_WAIT_POLICY=passive

"$python" "$root/benchmarks/pytorch_step.py" --model "$model" --batch "$batch" --seq "$sequence" --threads "$threads" --steps 1 --warmup 0 \
  --save-model "$work/model" --save-tokens "$work/tokens.bin" >/dev/null
ours=("$root/build/longhaul" bench step "$root/benchmarks/gpt2_124m.yaml" --steps "$steps" "model.config=$work/model/config.json"
  "model.weights=$work/model/model.safetensors" "data.files=[$work/tokens.bin]" "training.seq_len=$sequence" "training.micro_batch_size=$batch"
  "training.dtype=$dtype" "training.threads=$threads" "job.folder=$work/run")
theirs=("$python" "$root/benchmarks/pytorch_step.py" --model "$work/model/config.json" --weights "$work/model/model.safetensors" --tokens "$work/tokens.bin"
  --batch "$batch" --seq "$sequence" --dtype "$dtype" --threads "$threads" --steps $((steps + 1)) --warmup 1 --lr 3e-4 --weight-decay 0.1 --max-norm 1)
for ((round = 1; round <= rounds; round++)); do
  echo "== round $round: longhaul"
  "${ours[@]}" 2>/dev/null | if ((round == rounds)); then cat; else sed '/^op  /,$d'; fi
  echo "== round $round: PyTorch"
  "${theirs[@]}"
  echo "== round $round: PyTorch, memory retained"
  "${theirs[@]}" --allocator retain
  if [ "${COMPILE:-0}" = 1 ]; then
    echo "== round $round: PyTorch, compiled"
    "${theirs[@]}" --allocator retain --compile
  fi
done
