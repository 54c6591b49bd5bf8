"""The tables of benchmarks/README.md from what `longhaul bench kernels --json` wrote: attention, gemm, memory."""
import datetime
import json
import statistics
import subprocess
import sys


def read(file):
    with open(file) as stream:
        rows = json.load(stream)["measurements"]
    for row in rows:
        row["sizes"] = dict(pair.split("=") for pair in row["shape"].split())
        if not row["correct"]:
            sys.exit(f"{file}: {row['op']} {row['shape']} is wrong, error {row['error']}")
    return rows


def machine():
    fields = {}
    for line in subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return (f"{fields.get('Model name')} (family {fields.get('CPU family')}, model {fields.get('Model')}), "
            f"{fields.get('CPU(s)')} cores, L3 {fields.get('L3 cache')}, {datetime.date.today()}")


def busy(rows):
    shares = [row["cpu_time_over_wall_time"] for row in rows]
    return f"CPU time over wall time {statistics.median(shares):.2f} (median), {min(shares):.2f} at least"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def percent(row):
    return f"{100 * row['fraction_of_peak']:.1f}"


def attention(rows):
    found = {}
    for row in rows:
        s = row["sizes"]
        found[int(s["d"]), int(s["s"]), int(s["documents"]), s["dtype"], row["op"]] = percent(row)
    lines = []
    for d, s, documents in sorted({key[:3] for key in found}):
        name = f"D = {d}, S = {s // 1024}k" + (f", {documents} packed documents" if documents > 1 else "")
        lines.append([name] + [
            " / ".join(found[d, s, documents, dtype, "attention_" + way] for way in ("forward", "backward")) + " %"
            for dtype in ("float32", "bfloat16")])
    return table(["", "fp32 forward / backward", "bf16 forward / backward"], lines)


def gemm(rows):
    found = {}
    for row in rows:
        s = row["sizes"]
        kind = ("dw +=" if s["ta"] == "1" else "y =" if s["tb"] == "1" else "dx =")
        found.setdefault((kind, s["m"], s["n"], s["k"]), {})[s["dtype"]] = row
    lines = []
    for (kind, m, n, k), by_type in found.items():
        line = [f"{kind} {m} × {n} × {k}"]
        for dtype, libraries in (("float32", ("onednn", "openblas")), ("bfloat16", ("onednn",))):
            row = by_type[dtype]
            line.append(f"{1000 * row['tflops']:.0f} GFLOP/s, {percent(row)} %")
            line += [f"{row['library_time_over_ours'][library]:.3f}" for library in libraries]
        lines.append(line)
    return table(["m × n × k", "fp32", "beside oneDNN", "beside OpenBLAS", "bf16", "beside oneDNN"], lines)


def memory(rows):
    lines = {}
    for row in rows:
        s = row["sizes"]
        dtype = s.pop("dtype", "") or s.get("gradient", "")
        s.pop("threads", None)
        key = row["op"] + " " + " ".join(f"{name}={value}" for name, value in s.items() if name != "gradient")
        cell = f"{row['gigabytes_per_second']:.1f} GB/s, {percent(row)} %"
        lines.setdefault(key, {})[dtype] = cell
    return table(["op", "fp32", "bf16"],
                 [[key, cells.get("float32", "-"), cells.get("bfloat16", "-")] for key, cells in lines.items()])


def main():
    data = [read(file) for file in sys.argv[1:]]
    print(f"{machine()}; one thread\n")
    for title, rows, make in zip(("CPU attention", "Matrix products", "Memory-bound kernels"), data,
                                 (attention, gemm, memory)):
        print(f"### {title}\n\n{busy(rows)}.\n\n{make(rows)}")


main()
