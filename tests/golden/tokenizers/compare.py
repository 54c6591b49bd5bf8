"""Compares `longhaul tokenize` with the library that each tokenizer belongs to, on much text, and times both on one thread.

    python compare.py LONGHAUL [FILES...] [--characters 10000000] [--train 0] [--speed] [--names gpt2 ...]

LONGHAUL is the program. Text: FILES (UTF-8, in documents of 4,000 characters) for 60 %, then generated ones of all scripts
until --characters are reached. --train N trains the styles of styles.py to N ids on that text instead of taking the committed
tokenizers. --speed prints megabytes a second of processor time (user + system; for the program, without loading), of FILES
only. Exits with 1 when an id differs.
"""
import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

import numpy

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import sentencepiece
import tiktoken
import tiktoken.load
from tokenizers import Tokenizer

import styles
import texts

HERE = os.path.dirname(os.path.abspath(__file__))


def documents(files, characters):
    rng = random.Random(11)
    real, size = [], 0
    for name in files:
        if size >= 0.6 * characters:
            break
        try:
            text = open(name, encoding="utf-8").read()
        except (UnicodeDecodeError, OSError):
            continue
        for at in range(0, len(text), 4000):
            real.append(text[at:at + 4000].replace("\0", ""))
            size += len(real[-1])
    other = [text.replace("\0", "") for text in texts.WRITTEN if text.strip("\0")]
    size += sum(map(len, other))
    while size < characters:
        other.append(texts.generated(rng, 1500).replace("\0", " "))
        size += len(other[-1])
    return [t for t in real if t], [t for t in other if t]


def oracle(name, folder):
    """encode(list of texts) -> list of ids; special tokens are text, nothing is added."""
    if os.path.exists(f"{folder}/tokenizer.json"):
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        tokenizer.encode_special_tokens = True
        return lambda batch: [one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
    if os.path.exists(f"{folder}/tokenizer.model"):
        processor = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
        return lambda batch: [processor.encode(text) for text in batch]
    ranks = tiktoken.load.load_tiktoken_bpe(f"{folder}/{name}.tiktoken")
    pattern = {"tik_cl100k": styles.CL100K, "tik_o200k": styles.O200K, "tik_r50k": styles.R50K, "tik_kimi": styles.KIMI}[name]
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda batch: [encoding.encode_ordinary(text) for text in batch]


def processor_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def run(program, folder, batch, scratch):
    """Ids of the program, and the processor time that it took."""
    for name in os.listdir(scratch):
        if name.startswith("out"):
            os.remove(f"{scratch}/{name}")
    with open(f"{scratch}/text.jsonl", "w") as stream:
        for text in batch:
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    before = processor_seconds(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "tokenize", "--tokenizer", folder, "--format", "datatrove", "--threads", "1", "--eos", "none",
                    "-o", f"{scratch}/out", f"{scratch}/text.jsonl"], check=True, capture_output=True)
    took = processor_seconds(resource.RUSAGE_CHILDREN) - before
    width = int(open(f"{scratch}/out.ds.metadata").read().split("\n")[0].split("|")[1])
    ids = numpy.fromfile(f"{scratch}/out.ds", dtype=numpy.uint16 if width == 2 else numpy.uint32)
    ends = numpy.fromfile(f"{scratch}/out.ds.index", dtype=numpy.uint64).astype(numpy.int64)
    return numpy.split(ids, ends[:-1]), took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--characters", type=int, default=10_000_000)
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--names", nargs="*")
    options = parser.parse_args()
    real, other = documents(options.files, options.characters)
    batch = real + other
    characters = sum(map(len, batch))
    print(f"{characters} characters, {sum(map(len, real))} of them of files, {len(batch)} documents")
    names = options.names or sorted(name for name in os.listdir(HERE) if os.path.exists(f"{HERE}/{name}/ids.json"))
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            folder = f"{HERE}/{name}"
            if options.train:
                if name not in styles.STYLES:
                    continue
                folder = f"{scratch}/{name}"
                os.makedirs(folder)
                styles.STYLES[name](batch, options.train).save(f"{folder}/tokenizer.json")
            encode = oracle(name, folder)
            asked = real if options.speed else batch
            before = time.process_time()
            expected = encode(asked)
            library = time.process_time() - before
            # Documents that become nothing (white space in some styles) are left out by the program.
            keep = [i for i, ids in enumerate(expected) if ids]
            got, took = run(options.program, folder, [asked[i] for i in keep], scratch)
            wrong = [i for i, ids in zip(keep, got) if list(ids) != expected[i]]
            failed = failed or bool(wrong) or len(got) != len(keep)
            line = f"{name}: {sum(map(len, expected))} ids of {len(asked)} documents, {len(wrong)} documents differ"
            if options.speed:
                _, start = run(options.program, folder, asked[keep[0]:keep[0] + 1], scratch)
                size = sum(len(text.encode()) for text in asked) / 1e6
                line += f"; library {size / library:.1f} MB/s, program {size / max(took - start, 1e-9):.1f} MB/s"
            print(line, flush=True)
            for i in wrong[:2]:
                print("   ", ascii(asked[i][:200]))
    return failed


sys.exit(main())
