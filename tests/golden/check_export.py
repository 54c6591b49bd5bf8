#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the loss that Hugging Face `transformers` gives an exported model on token files.

  python check_export.py runs/quickstart/export validation.txt --seq-len 1024

The loss is the sum over all valid labels over their count, of all whole samples of the files, in
order: what `longhaul train` calls the validation loss when it reads the same samples. A tensor that
is missing, unknown or of another shape fails; the library alone would fill it with random numbers.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # local folders only

import torch
import torch.nn.functional as F
import transformers

from token_files import read_samples


def load(folder, dtype, attention):
    """The model of `folder`, exactly its tensors; SystemExit names what does not fit."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise SystemExit(f"{folder}: the tensors do not fit config.json: {json.dumps(wrong)}")
    return model.eval()


def evaluate(model, tokens, labels, batch):
    """(sum of losses, count of valid labels), the sum in float64."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, tokens.shape[0], batch):
            logits = model(input_ids=tokens[start : start + batch], use_cache=False).logits
            expected = labels[start : start + batch].flatten()
            losses = F.cross_entropy(
                logits.flatten(0, 1), expected, ignore_index=-100, reduction="none"
            )
            total += float(losses.double().sum())
            count += int((expected != -100).sum())
    return total, count


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="holds config.json and model.safetensors")
    parser.add_argument(
        "tokens",
        nargs="+",
        help="text (bytes are tokens), llm.c .bin, .npy, or .safetensors with tokens and labels",
    )
    parser.add_argument("--seq-len", type=int, help="S; needed unless the file is .safetensors")
    parser.add_argument("--document-end", type=int, help="token id after each text file; none")
    parser.add_argument("--samples", type=int, help="the first so many samples only")
    parser.add_argument(
        "--batch", type=int, default=4, help="samples at a time (no effect on loss)"
    )
    parser.add_argument("--dtype", choices=["float32", "float64", "bfloat16"], default="float32")
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    parser.add_argument("--threads", type=int, help="PyTorch's default if not given")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not (Path(options.folder) / "config.json").is_file():
        raise SystemExit(f"{options.folder}: no config.json there")
    model = load(options.folder, getattr(torch, options.dtype), options.attention)

    try:
        tokens, labels = read_samples(options.tokens, options.seq_len, options.document_end)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error))
    tokens, labels = (torch.from_numpy(array[: options.samples]) for array in (tokens, labels))
    vocabulary = model.config.vocab_size
    if int(tokens.max()) >= vocabulary or int(labels.max()) >= vocabulary:
        raise SystemExit(f"the files hold token ids beyond the vocabulary of {vocabulary}")

    total, count = evaluate(model, tokens, labels, options.batch)
    if count == 0:
        raise SystemExit("every label of the files is ignored: there is no loss")
    print(
        json.dumps(
            dict(
                loss=total / count,
                loss_sum=total,
                valid_labels=count,
                samples=tokens.shape[0],
                seq_len=tokens.shape[1],
                dtype=options.dtype,
                model_type=model.config.model_type,
                transformers=transformers.__version__,
                torch=torch.__version__.split("+")[0],
            )
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
