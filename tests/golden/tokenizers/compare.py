"""Compares `longhaul tokenize` with the library that each tokenizer belongs to, on much text, and times both.

    python compare.py LONGHAUL [FILES...] [--characters 10000000] [--train 0] [--speed N] [--names gpt2 ...]

LONGHAUL is the program. Text: FILES (UTF-8, in documents of 4,000 characters) for 60 %, 4 % that is no UTF-8 (characters
cut, random bytes; for tokenizers that keep bytes, and sentencepiece), generated characters of all scripts for the rest.
--train N trains every style to N ids on a part of that text instead of taking the committed tokenizers. --speed N compares
nothing but times, on N threads: megabytes of FILES a second of processor time (user and system, of all threads; for the
program, which also reads JSON and writes tokens, without loading), the best of three turns that the two take one after the
other; and by the clock. A table comes out; exits with 1 when an id differs.
"""
import argparse
import base64
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

import numpy

import styles
import texts

HERE = os.path.dirname(os.path.abspath(__file__))
# falcon's looks at bytes as if they were characters.
KEEPS_BYTES = styles.BYTE_LEVEL + styles.BYTE_FALLBACK + ["qwen2"]


def documents(files, characters):
    """Documents of files, generated ones, and ones that are no UTF-8."""
    rng = random.Random(11)
    real, size = [], 0
    files = sorted(files)
    rng.shuffle(files)
    for name in files:
        if size >= 0.6 * characters:
            break
        try:
            text = open(name, encoding="utf-8").read(300_000)
        except (UnicodeDecodeError, OSError):
            continue
        for at in range(0, len(text), 4000):
            real.append(text[at:at + 4000].replace("\0", ""))
            size += len(real[-1])
    other = [text.replace("\0", "") for text in texts.WRITTEN if text.strip("\0")]
    size += sum(map(len, other))
    broken = []
    while sum(map(len, broken)) < 0.04 * characters:
        source = rng.choice(real)[:1500] if real and rng.random() < 0.5 else texts.generated(rng, 1500)
        broken.append(texts.broken(rng, source.replace(styles.STAND_IN, " ")).replace(b"\0", b" "))
    size += sum(map(len, broken))
    while size < characters:
        other.append(texts.generated(rng, 1500).replace("\0", " "))
        size += len(other[-1])
    return [t for t in real if t], [t for t in other if t], broken


def train(name, folder, corpus, size):
    """A tokenizer of the style, trained; its files in `folder`."""
    os.makedirs(folder)
    if name in styles.STYLES or name in styles.MAPPED_STYLES:
        trained = (styles.STYLES[name](corpus, size) if name in styles.STYLES else
                   styles.MAPPED_STYLES[name](corpus, size, styles.character_map(texts.training_corpus())))
        trained.save(f"{folder}/tokenizer.json")
    elif name in styles.SENTENCEPIECE:
        with open(f"{folder}/tokenizer.model", "wb") as stream:
            stream.write(styles.train_sentencepiece(corpus, **(styles.SENTENCEPIECE[name] | {"vocab_size": 4 * size, "hard_vocab_limit": False})))
    else:
        ranks = styles.tiktoken_ranks(corpus, size)
        with open(f"{folder}/{name}.tiktoken", "w") as stream:
            stream.write("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
        with open(f"{folder}/{name}.tiktoken.json", "w") as stream:
            json.dump({"pattern": styles.TIKTOKEN[name][0], "special_tokens": {"<|endoftext|>": len(ranks)}}, stream)


def oracle(name, folder, threads):
    """encode(list of texts) -> list of ids; special tokens are text, nothing is added. And the same of bytes, or None."""
    if os.path.exists(f"{folder}/tokenizer.json"):
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        tokenizer.encode_special_tokens = True
        of_bytes = None
        if name in KEEPS_BYTES:
            of_bytes = lambda data: styles.encode_broken(tokenizer, name, data)
        return lambda batch: [one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False)], of_bytes
    if os.path.exists(f"{folder}/tokenizer.model"):
        import sentencepiece
        processor = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
        return lambda batch: processor.encode(batch, num_threads=threads), processor.encode
    import tiktoken
    import tiktoken.load
    ranks = tiktoken.load.load_tiktoken_bpe(f"{folder}/{name}.tiktoken")
    encoding = tiktoken.Encoding(name, pat_str=styles.TIKTOKEN[name][1], mergeable_ranks=ranks, special_tokens={})
    return lambda batch: encoding.encode_ordinary_batch(batch, num_threads=threads), None


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(program, folder, batch, scratch, threads):
    """Ids of the program for documents that are text or bytes, and the seconds that it took: of processors, by the clock."""
    for name in os.listdir(scratch):
        if name.startswith("out"):
            os.remove(f"{scratch}/{name}")
    files = []
    if isinstance(batch[0], bytes):
        for number, data in enumerate(batch):
            files.append(f"{scratch}/{number:06}.txt")
            with open(files[-1], "wb") as stream:
                stream.write(data)
    else:
        files = [f"{scratch}/text.jsonl"]
        with open(files[0], "w") as stream:
            for text in batch:
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    before = processor_seconds(), time.perf_counter()
    subprocess.run([program, "tokenize", "--tokenizer", folder, "--format", "datatrove", "--threads", str(threads), "--eos",
                    "none", "-o", f"{scratch}/out", *files], check=True, capture_output=True)
    took = processor_seconds() - before[0], time.perf_counter() - before[1]
    width = int(open(f"{scratch}/out.ds.metadata").read().split("\n")[0].split("|")[1])
    ids = numpy.fromfile(f"{scratch}/out.ds", dtype=numpy.uint16 if width == 2 else numpy.uint32)
    ends = numpy.fromfile(f"{scratch}/out.ds.index", dtype=numpy.uint64).astype(numpy.int64)
    return numpy.split(ids, ends[:-1]), took


def differing(program, folder, batch, expected, scratch):
    """Numbers of the documents whose ids are others. Those that become nothing are left out by the program."""
    keep = [i for i, ids in enumerate(expected) if ids]
    got, _ = run(program, folder, [batch[i] for i in keep], scratch, os.cpu_count())
    assert len(got) == len(keep), f"{len(got)} documents instead of {len(keep)}"
    return [i for i, ids in zip(keep, got) if list(ids) != expected[i]]


def speed(options, encode, folder, batch, scratch):
    size = sum(len(text.encode()) for text in batch) / 1e6
    encode(batch[:2])
    library, program, start = [], [], []
    for _ in range(3):
        before = time.process_time(), time.perf_counter()
        encode(batch)
        library.append((time.process_time() - before[0], time.perf_counter() - before[1]))
        program.append(run(options.program, folder, batch, scratch, options.speed)[1])
        start.append(run(options.program, folder, batch[:1], scratch, options.speed)[1])
    least = lambda all, clock: min(one[clock] for one in all)
    return [(size / least(library, clock), size / max(least(program, clock) - least(start, clock), 1e-9)) for clock in (0, 1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--characters", type=int, default=10_000_000)
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--speed", type=int, default=0, nargs="?", const=1)
    parser.add_argument("--names", nargs="*")
    options = parser.parse_args()
    # Before the library is loaded, which looks once.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.speed > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(max(1, options.speed))
    real, other, broken = documents(options.files, options.characters)
    batch = real + other
    print(f"{sum(map(len, batch))} characters, {sum(map(len, real))} of them of files, in {len(batch)} documents; "
          f"{len(broken)} documents of {sum(map(len, broken))} bytes that are no UTF-8", flush=True)
    print("| style | library, MB a processor second | program | ratio | library, MB a second | program | ratio |\n"
          "| --- | --- | --- | --- | --- | --- | --- |" if options.speed else
          "| style | ids of text | documents that differ | ids of bytes | documents that differ |\n| --- | --- | --- | --- | --- |")
    names = options.names or sorted(name for name in os.listdir(HERE) if os.path.exists(f"{HERE}/{name}/ids.json"))
    # Unigram and sentencepiece keep every character that they see: those of files.
    corpus = random.Random(5).sample(batch, len(batch) // 10) if options.train else []
    written = random.Random(5).sample(real, len(real) // 10) if options.train else []
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            folder = f"{HERE}/{name}"
            if options.train:
                folder = f"{scratch}/{name}"
                train(name, folder, corpus if name in styles.STYLES and name != "unigram_bytes" else written, options.train)
            encode, encode_bytes = oracle(name, folder, max(1, options.speed))
            if options.speed:
                columns = speed(options, encode, folder, real, scratch)
                print(f"| {name} | " + " | ".join(f"{a:.1f} | {b:.1f} | {b / a:.1f}" for a, b in columns) + " |", flush=True)
                continue
            expected = encode(batch)
            wrong = differing(options.program, folder, batch, expected, scratch)
            line = f"| {name} | {sum(map(len, expected)):,} | {len(wrong)} of {len(batch):,} |"
            examples = [batch[i] for i in wrong[:2]]
            if encode_bytes:
                expected = [encode_bytes(data) for data in broken]
                wrong = differing(options.program, folder, broken, expected, scratch)
                line += f" {sum(map(len, expected)):,} | {len(wrong)} of {len(broken):,} |"
                examples += [broken[i] for i in wrong[:2]]
            else:
                line += " | |"
            print(line, flush=True)
            failed = failed or bool(examples)
            for example in examples:
                print("   ", ascii(example[:200]))
    return failed


if __name__ == "__main__":
    sys.exit(main())
