#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times a training step in PyTorch on the CPU or a GPU, to stand beside `longhaul`'s own.

A step is: zero gradients, forward, loss, backward, clip by the global norm, AdamW. The model is
the one of Hugging Face `transformers` with scaled-dot-product attention (PyTorch's fused kernel),
in training mode without dropout, and the optimizer is the fused one. Prints one JSON line.

  python pytorch_step.py --model gpt2 --batch 1 --seq 1024 --threads 1 --steps 5
  python pytorch_step.py --model llama --dtype bfloat16 --compile --seq 512
  python pytorch_step.py --model DIR/config.json --weights DIR/model.safetensors --tokens data.bin
  python pytorch_step.py --device cuda --model qwen2.5-1.5b.json --dtype bfloat16 --compile --batch 8

On a GPU every step is waited for before its time is taken. scripts/gpu_check.sh runs it there, from a bundle in which
`token_files.py` lies beside it.

glibc hands large blocks back to the system after every use, and a step then spends part of its time
on page faults: about a sixth for GPT-2 124M at B=4 S=64. `--allocator retain` starts the program
anew with malloc told to keep its memory. The default is what a user of PyTorch gets; quote both.

To compare losses, give both programs the same weights and tokens: `--save-model DIR` and
`--save-tokens FILE.bin` (llm.c format) write what this run used before its first step. Step k takes
samples k B ... k B + B - 1, sample i being tokens [i S, i S + S], and starts again after the last;
a file of exactly B samples gives every step the same batch, so that shuffling cannot matter.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

# Set on some machines for old OpenBLAS builds; a current one picks its kernels better itself.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "golden"))
from token_files import read_samples, write_llmc

# glibc's malloc: no block by mmap, nothing given back, so that a step reuses the last one's pages.
RETAIN = dict(
    MALLOC_MMAP_MAX_="0",
    MALLOC_TRIM_THRESHOLD_=str(1 << 46),
    MALLOC_TOP_PAD_=str(256 << 20),
)

DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout")


def model_config(name):
    """The configuration of `gpt2` (124M), `llama` (a small one), or a config.json or its folder."""
    if name == "gpt2":
        config = transformers.GPT2Config()
    elif name == "llama":
        config = transformers.LlamaConfig(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
        )
    else:
        path = Path(name)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise SystemExit(f"--model {name}: neither gpt2, llama, nor a config.json")
        values = json.loads(path.read_text())
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    for key in DROPOUTS:
        if hasattr(config, key):
            setattr(config, key, 0.0)
    return config


def load_weights(model, path):
    """Fills the model from a safetensors file that holds every tensor; GPT-2's prefix may lack."""
    tensors = load_file(path)
    wanted = model.state_dict()
    if "transformer.wte.weight" in wanted and "wte.weight" in tensors:
        tensors = {f"transformer.{key}": value for key, value in tensors.items()}
    masks = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # in old files, not weights
    tensors = {key: value for key, value in tensors.items() if not key.endswith(masks)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise SystemExit(f"{path}: missing {sorted(set(missing) - tied)}, unknown {unexpected}")


def random_stream(vocab_size, samples, seq_len):
    """Tokens for `samples` samples of S + 1, neighbours sharing one."""
    generator = np.random.Generator(np.random.PCG64(7))
    return generator.integers(0, vocab_size, size=samples * seq_len + 1, dtype=np.int64)


def get_samples(options, vocab_size):
    if options.tokens:
        tokens, labels = read_samples(options.tokens, options.seq, options.document_end)
    else:
        stream = random_stream(vocab_size, options.batch, options.seq)
        tokens = stream[:-1].reshape(options.batch, options.seq)
        labels = stream[1:].reshape(options.batch, options.seq)
    if tokens.max() >= vocab_size or labels.max() >= vocab_size:
        raise SystemExit(f"the tokens go beyond the vocabulary of {vocab_size}")
    return tokens, labels


def save_tokens(path, tokens, labels):
    """Writes the samples back as the stream they must have come from."""
    stream = np.append(tokens.reshape(-1), labels[-1, -1])
    if not np.array_equal(stream[1:], labels.reshape(-1)):
        raise SystemExit("--save-tokens: these labels are no stream shifted by one")
    write_llmc(path, stream)


def make_optimizer(model, options):
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            dict(params=[p for p in parameters if p.ndim >= 2], weight_decay=options.weight_decay),
            dict(params=[p for p in parameters if p.ndim < 2], weight_decay=0.0),
        ],
        lr=options.lr,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )


def train(model, optimizer, samples, options):
    """Runs the steps; (losses, unclipped gradient norms, seconds, CPU seconds) of each."""
    on_gpu = options.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    tokens, labels = (torch.from_numpy(array).to(options.device) for array in samples)
    parameters = list(model.parameters())
    step_model = torch.compile(model) if options.compile else model
    autocast = torch.autocast(
        options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"
    )
    losses, norms, seconds, cpu_seconds = [], [], [], []
    for step in range(options.steps):
        rows = torch.arange(step * options.batch, (step + 1) * options.batch) % tokens.shape[0]
        inputs, targets = tokens[rows], labels[rows]
        wait()
        start, cpu_start = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            # The library's loss takes labels shifted already as `shift_labels`.
            loss = step_model(
                input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False
            ).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.max_norm)
        optimizer.step()
        wait()
        losses.append(float(loss.detach()))
        norms.append(float(norm))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return losses, norms, seconds, cpu_seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2", help="gpt2, llama, or a config.json (or folder)")
    parser.add_argument("--batch", type=int, default=1, help="B, sequences a step")
    parser.add_argument("--seq", type=int, help="S; 1024, or the file's own for .safetensors")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32",
                        help="bfloat16: autocast over float32 weights")  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile (needs a C++ compiler)"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="gradient checkpointing, of every layer"
    )
    parser.add_argument("--allocator", choices=["default", "retain"], default="default",
                        help="retain: malloc keeps freed memory between steps")  # fmt: skip
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2, help="first steps left out of min, median")
    parser.add_argument(
        "--tokens", nargs="+", help="text, llm.c .bin, .npy or .safetensors; random"
    )
    parser.add_argument("--document-end", type=int, help="token id after each text file; none")
    parser.add_argument("--weights", help="safetensors file; else the library's initialization")
    parser.add_argument("--seed", type=int, default=0, help="of that initialization")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--weight-decay", type=float, default=0.1, help="on matrices only")
    parser.add_argument("--max-norm", type=float, default=1.0)
    parser.add_argument("--save-model", help="folder for config.json and the initial weights")
    parser.add_argument("--save-only", action="store_true", help="save, and run no step")
    parser.add_argument("--save-tokens", help="llm.c .bin file for the tokens used")
    options = parser.parse_args()
    if options.seq is None and not (options.tokens and options.tokens[0].endswith(".safetensors")):
        options.seq = 1024
    if options.steps <= options.warmup:
        parser.error("--steps must be more than --warmup")
    if options.allocator == "retain" and any(os.environ.get(k) != v for k, v in RETAIN.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RETAIN})

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(options.seed)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    config = model_config(options.model)
    try:
        samples = get_samples(options, config.vocab_size)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: this PyTorch finds no GPU")
    with torch.device(options.device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        ).train()
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    if options.weights:
        load_weights(model, options.weights)
    if options.save_model:
        model.save_pretrained(options.save_model)
    if options.save_tokens:
        save_tokens(options.save_tokens, *samples)

    if options.save_only:
        return 0
    losses, norms, seconds, cpu_seconds = train(model, make_optimizer(model, options), samples, options)
    timed = seconds[options.warmup :]
    tokens_per_step = options.batch * samples[0].shape[1]
    print(
        json.dumps(
            dict(
                model=options.model,
                device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                parameters=sum(p.numel() for p in model.parameters()),
                batch=options.batch,
                seq=samples[0].shape[1],
                dtype=options.dtype,
                compile=options.compile,
                checkpointing=options.checkpointing,
                threads=torch.get_num_threads(),
                attention=model.config._attn_implementation,
                optimizer="AdamW fused",
                allocator=options.allocator,
                losses=losses,
                gradient_norms=norms,
                seconds=[round(value, 6) for value in seconds],
                seconds_min=round(min(timed), 6),
                cpu_seconds_min=round(min(cpu_seconds[options.warmup :]), 6),
                seconds_median=round(statistics.median(timed), 6),
                warmup_steps=options.warmup,
                tokens_per_second=round(tokens_per_step / statistics.median(timed), 2),
                peak_memory_bytes=torch.cuda.max_memory_allocated()
                if options.device == "cuda"
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                cpu_capability=torch.backends.cpu.get_cpu_capability(),
                mkldnn=torch.backends.mkldnn.is_available(),
                mkl=torch.backends.mkl.is_available(),
                torch=torch.__version__,
                transformers=transformers.__version__,
                python=platform.python_version(),
            )
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
