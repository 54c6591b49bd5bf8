#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden files of tests/golden from Hugging Face `transformers`.

For each tiny model of golden_models.py it writes a folder with

  config.json          as `save_pretrained` writes it (the library's current, v5, spelling)
  config.v4*.json      the same model in older spellings, for parsing tests (RoPE families only)
  model.safetensors    the weights, float64, Hugging Face names
  golden.safetensors   tokens, labels, logits, loss, grad.<name> of every parameter, AdamW losses
  manifest.json        versions, hyperparameters, counts, gradients that are zero, float32 figures

and beside them rope_cases.json, RoPE frequencies of many configurations.

The goldens are float64 throughout. The library casts to float32 inside RMSNorm, softmax, the loss
and RoPE; `float64_everywhere` turns those casts into casts to float64, and `ForbidFloat32` proves
that no float32 tensor was ever made. README.md says why and names the tolerances.

  python make_goldens.py              write everything beside this script
  python make_goldens.py --check      make everything afresh, compare with what is committed
  python make_goldens.py --only gpt2  one model
"""

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is made here, nothing is fetched

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from golden_models import MODELS, ROPE_CASES, TWINS

IGNORED = -100
BATCH = 2
ADAMW_STEPS = 10
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)
EPSILON = 1e-8
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0

# A gradient below this part of the whole gradient's norm counts as zero by symmetry. Rounding
# leaves about 1e-17 there; the smallest other element of these models is far above.
ZERO = 1e-14

# --------------------------------------------------------------------------- float64 in the library


class PromoteFloat32(TorchFunctionMode):
    """Every request for float32 made of PyTorch becomes one for float64.

    This reaches the casts written out in the library (`.to(torch.float32)`, `.float()`,
    `softmax(dtype=torch.float32)`, `arange(dtype=torch.float)`) and changes nothing else of it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def promoted(value):
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(
            *(promoted(argument) for argument in args),
            **{key: promoted(value) for key, value in (kwargs or {}).items()},
        )


class ForbidFloat32(TorchDispatchMode):
    """Fails as soon as any operation, forward or backward, yields a float narrower than float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                if value.dtype is not torch.float64:
                    raise AssertionError(f"{func} made a {value.dtype} in a float64 run")
        return result


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def float64_everywhere():
    with default_dtype(torch.float64), PromoteFloat32(), ForbidFloat32():
        yield


# ------------------------------------------------------------------------- weights, tokens, labels


def make_weights(model, seed):
    """Random float64 values for every parameter, none of them at a special value.

    Norm weights lie around one and biases around zero with visible spread; matrices have the
    scale of one over the square root of their fan-in, so that attention is far from uniform.
    NumPy's PCG64 draws them: they do not depend on the version of PyTorch.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, parameter in model.named_parameters():
        values = generator.standard_normal(tuple(parameter.shape))
        if name.endswith("bias"):
            values *= 0.3
        elif parameter.ndim == 1 and model.config.model_type.startswith("gemma"):
            values *= 0.25  # the factor is 1 + weight
        elif parameter.ndim == 1:
            values = 1.0 + 0.25 * values
        elif any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
            values *= 0.35
        else:
            conv1d = ".c_" in name  # GPT-2 stores its matrices [in, out]
            values /= math.sqrt(parameter.shape[0 if conv1d else 1])
        weights[name] = torch.from_numpy(values)
    return weights


def make_tokens(vocab_size, length, seed):
    """tokens and labels, [BATCH, S] each; labels[i] is the token after tokens[i], or IGNORED.

    The labels are shifted here, from S + 1 tokens, so the last position has one too. Rows are
    ignored unevenly: the first its opening and one token in the middle, the second its last third.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    stream = generator.integers(0, vocab_size, size=(BATCH, length + 1), dtype=np.int64)
    tokens = torch.from_numpy(stream[:, :-1].copy())
    labels = torch.from_numpy(stream[:, 1:].copy())
    labels[0, :4] = IGNORED
    labels[0, length // 2 + 3] = IGNORED
    labels[1, length - length // 3 :] = IGNORED
    return tokens, labels


def build(config, weights, dtype):
    """The library's model with these weights; for float64, run it under float64_everywhere."""
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=dtype
    )
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name].to(dtype))
    return model


def forward(model, tokens, labels):
    """(loss, logits) through the library's own loss, which takes labels shifted already."""
    output = model(
        input_ids=tokens,
        position_ids=torch.arange(tokens.shape[1])[None].expand_as(tokens),
        labels=labels,
        shift_labels=labels,
        use_cache=False,
    )
    return output.loss, output.logits


def gradients(model, tokens, labels):
    model.zero_grad(set_to_none=True)
    loss, logits = forward(model, tokens, labels)
    loss.backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return loss.detach(), logits.detach(), grads


def norm(tensors):
    return math.sqrt(sum(float((tensor.double() ** 2).sum()) for tensor in tensors))


def tensor_error(actual, expected, whole_norm, whole_count):
    """The project's error of one gradient tensor, as its tests compute it."""
    floor = 1e-3 * whole_norm * math.sqrt(expected.numel() / whole_count)
    return norm([actual.double() - expected]) / max(norm([expected]), floor)


# ------------------------------------------------------------------------------------ self-checks


def check_loss(loss, logits, labels):
    """The loss is the sum over valid tokens over their count, computed here a second way."""
    valid = labels != IGNORED
    picked = torch.log_softmax(logits, dim=-1)[valid].gather(1, labels[valid][:, None])
    expected = -picked.sum() / valid.sum()
    assert abs(float(loss - expected)) < 1e-13, (float(loss), float(expected))


def check_differences(model, tokens, labels, grads, seed):
    """Each gradient along a random direction against fourth-order finite differences of the loss.

    Returns the largest error over the tensors, relative to the tensor's gradient norm (and not to
    the one product, which can be small by chance).
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    worst = 0.0
    for name, parameter in model.named_parameters():
        direction = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)))
        direction /= direction.norm()
        start = parameter.detach().clone()

        def moved(distance):
            with torch.no_grad():
                parameter.copy_(start + distance * direction)
                return float(forward(model, tokens, labels)[0])

        step = 2e-3
        near = (moved(step) - moved(-step)) / (2 * step)
        far = (moved(2 * step) - moved(-2 * step)) / (4 * step)
        with torch.no_grad():
            parameter.copy_(start)
        slope = float((grads[name] * direction).sum())
        error = abs((4 * near - far) / 3 - slope) / norm([grads[name]])
        assert error < 1e-7, (name, error)
        worst = max(worst, error)
    return worst


def unturned_rows(config, name):
    """Rows of a key's bias that no rotation touches: the ends of heads, or of all in layers without RoPE."""
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = int(dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    stride, begin = (3 * dim, dim) if "query_key_value" in name else (dim, 0)
    return [head * stride + begin + i for head in range(heads) for i in range(turned, dim)]


def zero_gradients(config, tokens, labels, grads, whole_norm):
    """The rows (elements, for vectors) whose gradient is zero, each with its reason.

    Any zero that no reason explains fails: it would hide a gradient that is never tested.
    """
    found = []
    # A token counts where its own label or a later one of its row is valid: the rest reach no loss.
    reached = (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0
    used = set(tokens[reached].tolist())
    for name, grad in grads.items():
        rows = grad.reshape(grad.shape[0], -1).abs().amax(dim=1) <= ZERO * whole_norm
        rows = [index for index, zero in enumerate(rows.tolist()) if zero]
        if not rows:
            continue
        hidden = config.hidden_size
        if name.endswith("attn.c_attn.bias"):
            expected = list(range(hidden, 2 * hidden))
            kind = "symmetry"
            reason = (
                "the key's bias adds the same amount to all scores of a query, which softmax "
                "removes; only rounding remains"
            )
        elif name.endswith((".k_proj.bias", ".query_key_value.bias")):
            # What does not turn of a key head, as for all of it without RoPE.
            expected = unturned_rows(config, name)
            kind = "symmetry"
            reason = (
                "where it does not turn, the key's bias adds the same amount to all scores of a "
                "query, which softmax removes; only rounding remains"
            )
        elif name.endswith("wpe.weight"):
            last = int(reached.any(0).nonzero().max())
            expected = list(range(last + 1, grad.shape[0]))
            kind = "unused"
            reason = "positions at and beyond S are never looked up"
        elif name.endswith(("embed_tokens.weight", "embed_in.weight")) and not config.tie_word_embeddings:
            expected = sorted(set(range(config.vocab_size)) - used)
            kind = "unused"
            reason = "these token ids do not occur in the input, or only after the last valid label"
        else:
            raise AssertionError(f"{name}: rows {rows} have no gradient and no explanation")
        assert rows == expected, (name, rows, expected)
        found.append(dict(tensor=name, rows=rows, kind=kind, reason=reason))
    return found


# ------------------------------------------------------------------------------------- the goldens


def train(model, tokens, labels):
    """Ten AdamW steps on one batch: the loss and unclipped gradient norm before each update."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            dict(params=[p for p in parameters if p.ndim >= 2], weight_decay=WEIGHT_DECAY),
            dict(params=[p for p in parameters if p.ndim < 2], weight_decay=0.0),
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=EPSILON,
        foreach=False,
    )
    losses, norms = [], []
    for _ in range(ADAMW_STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss, _ = forward(model, tokens, labels)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=False))
        losses.append(loss.detach())
        optimizer.step()
    return torch.stack(losses), torch.stack(norms)


def older_spellings(saved):
    """config.json as `transformers` 4 spelt it: file name -> contents; none without RoPE."""
    if "rope_parameters" not in saved or "llama_4_scaling_beta" in saved["rope_parameters"]:
        return {}
    old = {key: value for key, value in saved.items() if key != "transformers_version"}
    rope = dict(old.pop("rope_parameters"))
    if "full_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    part = rope.pop("partial_rotary_factor", None)
    if part is not None:
        old["rotary_pct" if old["model_type"] == "gpt_neox" else "partial_rotary_factor"] = part
    theta = "rotary_emb_base" if old["model_type"] == "gpt_neox" else "rope_theta"
    old[theta] = rope.pop("rope_theta")
    rope_type = rope.pop("rope_type")
    old["torch_dtype"] = old.pop("dtype")
    # Version 4 derived the layers' kinds from max_window_layers ("full" up to it, "sliding" from it
    # on); the list stays only where that rule cannot say it.
    kinds = old.get("layer_types", [])
    if kinds == sorted(kinds):
        old.pop("layer_types", None)
    if rope_type == "default":
        return {"config.v4.json": dict(old, rope_scaling=None)}
    if "rope_local_base_freq" in old:  # read into a table that has a rope_type already
        return {"config.v4.json": dict(old, rope_scaling=dict(rope_type=rope_type, **rope))}
    return {
        "config.v4.json": dict(old, rope_scaling=dict(rope_type=rope_type, **rope)),
        "config.v4_type.json": dict(old, rope_scaling=dict(type=rope_type, **rope)),
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")


def check_older_spelling(path, config):
    """The library itself must read the older spelling as the same model."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(path.read_text())
        loaded = transformers.AutoConfig.from_pretrained(folder)
    def without_type(table):
        return {
            key: without_type(value) if isinstance(value, dict) else value
            for key, value in table.items()
            if key != "type"
        }

    rope = without_type(loaded.rope_parameters)
    assert rope == without_type(config.rope_parameters), (path, rope, config.rope_parameters)
    for key in ("num_key_value_heads", "head_dim", "layer_types", "sliding_window"):
        assert getattr(loaded, key, None) == getattr(config, key, None), (path, key)


def versions():
    return dict(
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        safetensors=safetensors.__version__,
        numpy=np.__version__,
    )


def make(name, folder):
    description, config_class, arguments, length = MODELS[name]
    seed = 1000 + list(MODELS).index(name)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_class(**arguments)

    with float64_everywhere():
        model = build_blank(config)
        weights = make_weights(model, seed)
    tokens, labels = make_tokens(config.vocab_size, length, seed + 100)
    valid = int((labels != IGNORED).sum())

    with float64_everywhere():
        model = build(config, weights, torch.float64)
        model.save_pretrained(folder)
        loss, logits, grads = gradients(model, tokens, labels)
        check_loss(loss, logits, labels)
        difference = check_differences(model, tokens, labels, grads, seed + 200)
        adamw_losses, adamw_norms = train(model, tokens, labels)
    assert float(adamw_losses[0]) == float(loss) and float(adamw_losses[-1]) < float(loss)
    (folder / "generation_config.json").unlink(missing_ok=True)

    # What the committed weights give when the library loads them itself, its casts untouched.
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    unpatched_float64 = float(forward(reloaded.train(), tokens, labels)[0].detach())
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    loss32, _, grads32 = gradients(reloaded.train(), tokens, labels)
    losses32, _ = train(reloaded, tokens, labels)
    assert set(grads32) == set(grads)

    whole_norm, whole_count = norm(grads.values()), sum(g.numel() for g in grads.values())
    errors = {key: tensor_error(grads32[key], grads[key], whole_norm, whole_count) for key in grads}
    assert abs(float(loss32) - float(loss)) / float(loss) < 1e-6
    assert abs(unpatched_float64 - float(loss)) / float(loss) < 1e-6
    assert max(errors.values()) < 1e-5, errors

    zeros = zero_gradients(config, tokens, labels, grads, whole_norm)
    if name in TWINS:
        published, renamed = TWINS[name]
        write_json(folder / "config.json", published)
        grads, grads32, errors = renamed(grads), renamed(grads32), {"": max(errors.values())}
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        safetensors.torch.save_file(
            renamed(tensors), folder / "model.safetensors", metadata={"format": "pt"}
        )
        for entry in zeros:
            entry["tensor"] = list(renamed({entry["tensor"]: None}))[0]

    # GPT-NeoX's head is saved under the name that it had before version 5.
    files = safetensors.torch.load_file(folder / "model.safetensors")

    def as_saved(table):
        return {
            key if key in files else key.replace("lm_head", "embed_out"): value
            for key, value in table.items()
        }

    grads, grads32 = as_saved(grads), as_saved(grads32)

    golden = dict(
        tokens=tokens.to(torch.int32),
        labels=labels.to(torch.int32),
        logits=logits,
        loss=loss,
        adamw_losses=adamw_losses,
        adamw_gradient_norms=adamw_norms,
    )
    golden.update((f"grad.{key}", grad) for key, grad in grads.items())
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in golden.items()}, folder / "golden.safetensors"
    )

    saved = json.loads((folder / "config.json").read_text())
    for file, contents in older_spellings(saved).items() if name not in TWINS else ():
        write_json(folder / file, contents)
        check_older_spelling(folder / file, config)

    worst = max(errors, key=errors.get)
    write_json(
        folder / "manifest.json",
        dict(
            name=name,
            description=description,
            made_by="tests/golden/make_goldens.py",
            versions=versions(),
            attn_implementation="eager",
            weights_seed=seed,
            counts=dict(
                batch=BATCH,
                sequence_length=length,
                vocab_size=config.vocab_size,
                parameter_tensors=len(grads),
                parameters=whole_count,
                tokens=BATCH * length,
                valid_labels=valid,
                ignored_labels=BATCH * length - valid,
            ),
            loss_definition=(
                "sum of -log softmax(logits)[label] over labels != -100, over their count; "
                "labels[i] is the token after tokens[i], shifted already"
            ),
            optimizer=dict(
                name="torch.optim.AdamW",
                lr=LEARNING_RATE,
                lr_schedule="constant",
                betas=list(BETAS),
                eps=EPSILON,
                weight_decay=WEIGHT_DECAY,
                weight_decay_on="tensors of two or more dimensions (embeddings included)",
                no_weight_decay_on=[key for key, grad in grads.items() if grad.ndim < 2],
                update=(
                    "p *= 1 - lr * weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + "
                    "(1 - beta2) g^2; p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) "
                    "+ eps), t from 1"
                ),
                clipping="torch.nn.utils.clip_grad_norm_",
                max_norm=MAX_NORM,
                clipping_formula="g *= min(1, max_norm / (norm + 1e-6)), before the update",
                steps=ADAMW_STEPS,
                batch="the same tokens and labels at every step",
                adamw_losses="loss before each of the updates, so the first is `loss`",
                adamw_gradient_norms="norm of the whole gradient before clipping, at each step",
            ),
            float64=dict(
                loss=float(loss),
                gradient_norm=whole_norm,
                gradient_norms={key: norm([grad]) for key, grad in grads.items()},
            ),
            unpatched_float32=dict(
                what="the library as it is, weights rounded to float32, one thread",
                loss=float(loss32),
                gradient_norm=norm(grads32.values()),
                gradient_norms={key: norm([grad]) for key, grad in grads32.items()},
                adamw_losses=losses32.tolist(),
                largest_gradient_error=errors[worst],
                largest_gradient_error_in=worst,
            ),
            unpatched_float64=dict(
                what="float64 weights, the library's inner casts to float32 left as they are",
                loss=unpatched_float64,
            ),
            zero_gradients=zeros,
            finite_difference_error=difference,
        ),
    )
    print(
        f"{name:20} loss {float(loss):.6f}  |g| {whole_norm:.4f}  last {float(adamw_losses[-1]):.6f}"
        f"  float32: loss {abs(float(loss32) / float(loss) - 1):.1e} grads {errors[worst]:.1e}"
        f"  differences {difference:.1e}"
    )


def build_blank(config):
    return transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float64
    )


def make_rope_cases(path):
    """inv_freq and the factor on cos and sin of every ROPE_CASES entry, in float64."""
    cases = []
    for name, (head_dim, max_positions, parameters, *length) in ROPE_CASES.items():
        config = transformers.LlamaConfig(
            hidden_size=2 * head_dim,
            num_attention_heads=2,
            head_dim=head_dim,
            max_position_embeddings=max_positions,
            rope_parameters=dict(parameters),
        )
        with float64_everywhere():
            rope = LlamaRotaryEmbedding(config)
            if length:
                rope(torch.zeros(1), torch.arange(length[0])[None])
        cases.append(
            dict(
                name=name,
                head_dim=head_dim,
                max_position_embeddings=max_positions,
                rope_parameters=parameters,
                **(dict(sequence_length=length[0]) if length else {}),
                attention_scaling=float(rope.attention_scaling),
                inv_freq=rope.inv_freq.tolist(),
            )
        )
    write_json(path, dict(versions=versions(), cases=cases))


# ----------------------------------------------------------------------------------------- --check


def same_numbers(left, right, where, tolerance):
    """Compares two JSON values: numbers up to rounding, float32 figures up to float32's rounding;
    versions and measured errors are left out."""
    if isinstance(left, dict):
        skip = {"versions", "transformers_version", "finite_difference_error"}
        assert set(left) == set(right), (where, set(left) ^ set(right))
        for key in left:
            if key not in skip and not key.startswith("largest_gradient_error"):
                same_numbers(left[key], right[key], f"{where}.{key}", tolerance)
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right)):
            same_numbers(one, other, f"{where}[{index}]", tolerance)
    elif isinstance(left, float) and "unpatched" not in where:
        assert abs(left - right) <= tolerance * max(abs(left), 1e-3), (where, left, right)
    elif isinstance(left, float):
        assert abs(left - right) <= 1e-5 * max(abs(left), 1e-3), (where, left, right)
    else:
        assert left == right, (where, left, right)


def compare(fresh, committed, tolerance=1e-11):
    """Every file of `fresh` against the same of `committed`; fails on the first that differs."""
    for path in sorted(fresh.rglob("*")):
        other = committed / path.relative_to(fresh)
        if path.suffix == ".json":
            same_numbers(
                json.loads(path.read_text()), json.loads(other.read_text()), str(other), tolerance
            )
        elif path.suffix == ".safetensors":
            left = safetensors.torch.load_file(path)
            right = safetensors.torch.load_file(other)
            assert set(left) == set(right), (other, set(left) ^ set(right))
            for key in left:
                assert left[key].dtype == right[key].dtype, (other, key)
                error = float((left[key].double() - right[key].double()).abs().max())
                assert error <= tolerance, (other, key, error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*MODELS, "rope_cases"], help="make these only"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare a fresh set with the committed one"
    )
    options = parser.parse_args()

    torch.set_num_threads(1)  # one order of summation
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    here = Path(__file__).resolve().parent
    with contextlib.ExitStack() as stack:
        target = here
        if options.check:
            target = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.only or MODELS:
            if name != "rope_cases":
                make(name, target / name)
        if not options.only or "rope_cases" in options.only:
            make_rope_cases(target / "rope_cases.json")
        if options.check:
            compare(target, here)
            print("the committed files agree with the fresh ones")
    return 0


if __name__ == "__main__":
    sys.exit(main())
