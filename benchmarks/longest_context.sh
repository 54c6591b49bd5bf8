#!/usr/bin/env bash
# What a token of context costs: the bytes that one more token needs, and a step's time, of longhaul under each plan for its activations
# and of PyTorch, eager and with gradient checkpointing, for the model of benchmarks/strategies_model.json (a Llama of 4 layers, hidden 512,
# heads 8:2 of 64, MLP 1536, vocabulary 8192) in bfloat16, one sequence, one thread. Every number is of a process of its own: its peak
# resident memory, and the seconds of one step. Needs a Python with torch and transformers (never needed by longhaul itself):
#
#   benchmarks/longest_context.sh PYTHON
#
# Bytes a token are the slope of peak resident memory between two lengths: what programs need whatever the length is, weights and libraries
# among it, drops out. The lengths are SHORT (4096 8192), and LONG (21504 24576) where MLPs have tiles: of 3072 rows at least, they have
# their full effect from about 20000 tokens on. The row "budget" has activation_memory.budget at BUDGET bytes a token (12600).
set -euo pipefail
python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export OMP_WAIT_POLICY=passive BUDGET=${BUDGET:-12600} SHORT=${SHORT:-4096 8192} LONG=${LONG:-21504 24576}

cat >"$work/measure.py" <<'END'
import json, os, re, resource, subprocess, sys, time

root, python, work = sys.argv[1:]
short, long = ([int(n) for n in os.environ[name].split()] for name in ("SHORT", "LONG"))
longhaul = [f"{root}/build/longhaul", "bench", "step", f"{root}/benchmarks/strategies.yaml", "--steps", "1", "--warmup", "0",
            "training.dtype=bfloat16"]
torch = [python, f"{root}/benchmarks/pytorch_step.py", "--model", "llama", "--dtype", "bfloat16", "--steps", "1", "--warmup", "0",
         "--threads", "1"]
programs = {
    "PyTorch": torch,
    "PyTorch, checkpointing": torch + ["--checkpointing"],
    "longhaul, keep": longhaul + ["activation_memory.mode=keep"],
    "longhaul, auto": longhaul,
    "longhaul, recompute": longhaul + ["activation_memory.mode=recompute"],
    "longhaul, budget": longhaul,
}
tiled = ("longhaul, recompute", "longhaul, budget")
ends = {name: long if name in tiled else short for name in programs}
ends["longhaul, keep"] = short + long[-1:]
measured = {}
for name, command in programs.items():
    for length in ends[name]:
        command = list(command)
        if command[0] == python:
            command += ["--seq", str(length)]
        else:
            command += [f"training.seq_len={length}", f"job.folder={work}/run"]
            if name.endswith("budget"):
                command.append(f"activation_memory.budget={int(os.environ['BUDGET']) * length}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(f"{work}/errors", "w"), text=True) as process:
            out = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)}\n{open(f'{work}/errors').read()}")
        if command[0] == python:
            line = json.loads(out.splitlines()[-1])
            seconds, cpu, loss = line["seconds_min"], line["cpu_seconds_min"], line["losses"][0]
        else:
            seconds = float(re.search(r"minimum ([0-9.]+)", out)[1])
            cpu = float(re.search(r"^CPU seconds +([0-9.]+)", out, re.M)[1])
            loss = float(re.search(r"^losses +([0-9.]+)", out, re.M)[1])
        measured[name, length] = usage.ru_maxrss * 1024, seconds, cpu, loss
        print(f"{name:24} {length:7} tokens: {usage.ru_maxrss * 1024:12} bytes, {seconds:8.2f} s, {cpu:8.2f} CPU s, loss {loss:.6f}",
              flush=True)

slope = {name: (measured[name, n[1]][0] - measured[name, n[0]][0]) / (n[1] - n[0]) for name, n in ends.items()}
print("\n| program | bytes a token | tokens in the same memory | CPU s of a step | beside keep |\n| --- | --- | --- | --- | --- |")
for name in programs:
    at = ends[name][1]
    cpu, keep = measured[name, at][2], measured["longhaul, keep", at][2]
    print(f"| {name} | {slope[name]:.0f} | {slope['PyTorch, checkpointing'] / slope[name]:.1f}x | {cpu:.1f} of {at} tokens | {cpu / keep:.2f}x |")
END
"$python" "$work/measure.py" "$root" "$python" "$work"
