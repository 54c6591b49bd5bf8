#!/usr/bin/env bash
# What configs/finetune.yaml trains: a small Hugging Face folder (config, weights, tokenizer, chat template) and chats.
#   scripts/chat_example.sh [FOLDER] [PROGRAM]     default: data and build/longhaul of this checkout
# The tokenizer is one of the tests' (tests/golden/tokenizers/qwen2); the weights are those of a few steps of training.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder=${1:-$root/data}
program=${2:-$root/build/longhaul}
[[ -x $program ]] || die "no program $program: build it first (scripts/test.sh, or cmake --build)"
mkdir -p "$folder"
model=$folder/small-model

# Chats of one to four questions on sums, some with a system message.
awk 'BEGIN {
  srand(7)
  for (i = 0; i < 400; ++i) {
    line = "{\"messages\": ["
    if (i % 5 == 0) line = line "{\"role\": \"system\", \"content\": \"You add numbers.\"}, "
    turns = 1 + int(rand() * 4)
    for (t = 0; t < turns; ++t) {
      a = int(rand() * 50); b = int(rand() * 50)
      line = line (t ? ", " : "") "{\"role\": \"user\", \"content\": \"What is " a " plus " b "?\"}, "
      line = line "{\"role\": \"assistant\", \"content\": \"" a " plus " b " is " a + b ".\"}"
    }
    print line "]}"
  }
}' >"$folder/chats.jsonl"

if [[ -s $model/model.safetensors ]]; then
  say "Model: $model is there"
  exit 0
fi
first=$folder/.first-model
rm -rf "$first"
mkdir -p "$first"
cp "$root/tests/golden/tokenizers/qwen2/tokenizer.json" "$first/"
cat >"$first/config.json" <<'JSON'
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "vocab_size": 706, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false
}
JSON
cat >"$first/tokenizer_config.json" <<'JSON'
{
  "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast",
  "chat_template": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
}
JSON
cat >"$first/experiment.yaml" <<'YAML'
model: {config: config.json}
data: {files: [../chats.jsonl], format: jsonl, train_on: all}
training: {seq_len: 128, steps: 5, global_batch_size: 4}
job: {folder: run}
YAML
"$program" train "$first/experiment.yaml"
rm -rf "$model"
cp -r "$first/run/export" "$model"
cp "$first/tokenizer.json" "$first/tokenizer_config.json" "$model/"
rm -rf "$first"
say "Model: $model"
