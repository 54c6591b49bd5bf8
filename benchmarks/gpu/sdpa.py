#!/usr/bin/env python3
"""PyTorch's SDPA (cuDNN and flash) on the attention problems of bench.json, in the same run, with the ratio to ours.

    sdpa.py bench.json sdpa.json sdpa.md

FLOPs are counted as the kernel driver counts them: visible pairs, two products forward, five backward.
"""
import json
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

REPEAT = 20


def median_ms(call):
    call()
    times = []
    for _ in range(REPEAT):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[REPEAT // 2]


def measure(shape):
    """{backend: (forward ms, backward ms)} for the masks that SDPA has."""
    b, s, h, g, d = (int(shape[key]) for key in ("b", "s", "h", "kv", "d"))
    make = lambda heads: torch.randn(b, heads, s, d, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    q, k, v = make(h), make(g), make(g)
    dout = torch.randn(b, h, s, d, device="cuda", dtype=torch.bfloat16)
    results = {}
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        try:
            with sdpa_kernel([backend]):
                attend = lambda: torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=shape["full"] == "0", enable_gqa=h != g)
                forward = median_ms(attend)
                out = attend()
                backward = median_ms(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
            results[name] = (forward, backward)
        except RuntimeError as error:
            print(f"{name} refuses {shape}: {str(error).splitlines()[0]}")
    return results


def main():
    bench = json.load(open(sys.argv[1]))
    rows, seen = [], {}
    for row in bench["measurements"]:
        if not row["op"].startswith("attention_"):
            continue
        shape = dict(entry.split("=") for entry in row["shape"].split())
        if shape["window"] != "0" or shape["documents"] != "1" or shape["kernel"] != "auto":
            continue
        key = tuple(shape[name] for name in ("b", "s", "h", "kv", "d", "full"))
        if key not in seen:
            seen[key] = measure(shape)
        if not seen[key]:
            continue
        index = 0 if row["op"] == "attention_forward" else 1
        backend, best = min(((name, times[index]) for name, times in seen[key].items()), key=lambda item: item[1])
        rows.append({"op": row["op"], "shape": row["shape"], "ours_ms": row["milliseconds"], "sdpa_ms": best,
                     "sdpa_backend": backend, "ratio": best / row["milliseconds"]})
    json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "rows": rows},
              open(sys.argv[2], "w"), indent=1)
    with open(sys.argv[3], "w") as out:
        out.write(f"\nAgainst the best of PyTorch {torch.__version__}'s SDPA back ends (ratio above 1: ours is faster):\n\n")
        out.write("| op | shape | ours ms | SDPA ms | back end | ratio |\n|---|---|---|---|---|---|\n")
        for row in rows:
            out.write(f"| {row['op']} | {row['shape']} | {row['ours_ms']:.4f} | {row['sdpa_ms']:.4f} | "
                      f"{row['sdpa_backend']} | {row['ratio']:.2f} |\n")
    print(open(sys.argv[3]).read())


if __name__ == "__main__":
    main()
