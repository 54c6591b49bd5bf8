#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes generated.json beside each golden model: what `transformers` generates with it, greedily.

The model is loaded from the golden folder in float64 and goes on with the beginning of each of the
golden's sequences by `generate(do_sample=False)`, with its cache. Models that transformers does not
have (TWINS) are left out, and sequences that grow beyond the original length of longrope: there
transformers changes frequencies in the middle, we do not (docs/models.md).

  python make_generated.py            write everything
  python make_generated.py --check    make everything afresh, compare with what is committed
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors.torch
import torch
import transformers

from golden_models import TWINS

HERE = Path(__file__).parent
NEW_TOKENS = 16
PROMPTS = (9, 17)  # tokens of the first and the second sequence


def depends_on_length(config, prompt):
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    return rope.get("rope_type") == "longrope" and prompt <= original < prompt + NEW_TOKENS


def make(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    tokens = safetensors.torch.load_file(folder / "golden.safetensors")["tokens"].long()
    cases = []
    for row, length in enumerate(PROMPTS):
        if depends_on_length(model.config, length):
            continue
        prompt = tokens[row : row + 1, :length]
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=-1,
            pad_token_id=0,
            use_cache=True,
        )
        cases.append({"prompt": prompt[0].tolist(), "tokens": made[0, length:].tolist()})
        assert len(cases[-1]["tokens"]) == NEW_TOKENS
    return {"transformers": transformers.__version__, "torch": torch.__version__, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    torch.manual_seed(0)
    for folder in sorted(path.parent for path in HERE.glob("*/manifest.json")):
        if folder.name in TWINS:
            continue
        made = make(folder)
        file = folder / "generated.json"
        if check:
            same = json.loads(file.read_text())["cases"] == made["cases"]
            print(folder.name, "as committed" if same else "DIFFERS")
        else:
            file.write_text(json.dumps(made) + "\n")
            print(folder.name, *(case["tokens"] for case in made["cases"]))


if __name__ == "__main__":
    main()
