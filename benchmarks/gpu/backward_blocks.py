#!/usr/bin/env python3
"""How busy the blocks of attention backward keep a GPU, by list scheduling: no GPU, no clock.

    backward_blocks.py [MULTIPROCESSORS]      (default 132)

A block owns 128 keys and, of the query heads of a KV head, one part; under a causal mask it takes as many units of time as query
tiles of 64 rows see its keys, for each of its heads. Blocks start in the order of the grid, the last keys first, wherever one fits.
Printed for every number of parts: the share of the time in which multiprocessors work, and the memory of the parts' sums.
"""
import heapq
import sys

MULTIPROCESSORS = int(sys.argv[1]) if len(sys.argv) > 1 else 132
WANTED_BLOCKS = 1536  # parts_of in kernels/cuda/attention_launch.h


def busy(tokens, heads, kv_heads, batch, parts):
    key_tiles, query_tiles, part_heads = (tokens + 127) // 128, (tokens + 63) // 64, heads // kv_heads // parts
    ends, work = [0] * MULTIPROCESSORS, 0
    for _ in range(batch * kv_heads * parts):
        for tile in reversed(range(key_tiles)):
            time = (query_tiles - 2 * tile) * part_heads
            heapq.heapreplace(ends, ends[0] + time)
            work += time
    return work / (MULTIPROCESSORS * max(ends))


def chosen(tokens, heads, kv_heads, batch):
    group = heads // kv_heads
    blocks = (tokens + 127) // 128 * kv_heads * batch
    return next((n for n in range(1, group) if group % n == 0 and blocks * n >= WANTED_BLOCKS), group)


print("| heads | tokens | batch | blocks | busy with 1, 2, ... parts | chosen | sums of the parts, D = 128 |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for heads, kv_heads, tokens, batch in [(12, 2, 1024, 8), (12, 2, 1024, 32), (12, 2, 8192, 1), (12, 2, 16384, 1),
                                       (12, 2, 32768, 1), (32, 8, 8192, 1), (32, 8, 16384, 1), (32, 8, 32768, 1),
                                       (64, 8, 8192, 1), (8, 1, 131072, 1)]:
    group, parts = heads // kv_heads, chosen(tokens, heads, kv_heads, batch)
    shares = ", ".join(f"{n}: {100 * busy(tokens, heads, kv_heads, batch, n):.0f} %"
                       for n in range(1, group + 1) if group % n == 0)
    sums = 0 if parts == 1 else 2 * 4 * 128 * batch * tokens * kv_heads * parts / 1e6
    print(f"| {heads}:{kv_heads} | {tokens} | {batch} | {(tokens + 127) // 128 * kv_heads * batch} | {shares} | {parts} | "
          f"{sums:.0f} MB |")
