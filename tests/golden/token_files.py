# SPDX-License-Identifier: Apache-2.0
"""Reads token files into samples, as the trainer does, for the Python tools beside it.

Sample i is tokens [i S, i S + S] of the stream: S inputs and, one further on, their S labels;
neighbours share one token and a shorter tail is dropped. Nothing is shuffled.
"""

import os
from pathlib import Path

import numpy as np

LLMC = {20240520: np.dtype("<u2"), 20240801: np.dtype("<u4")}  # magic number -> token type
LLMC_HEADER = 256 * 4


def read_llmc(path):
    """Tokens of an llm.c `.bin` file; fails if header and size disagree."""
    header = np.fromfile(path, dtype="<i4", count=256)
    if header.size < 256 or int(header[0]) not in LLMC:
        raise ValueError(f"{path}: not an llm.c token file")
    dtype, count = LLMC[int(header[0])], int(header[2])
    if os.path.getsize(path) != LLMC_HEADER + count * dtype.itemsize:
        raise ValueError(f"{path}: the header promises {count} tokens, the size says otherwise")
    return np.fromfile(path, dtype=dtype, offset=LLMC_HEADER).astype(np.int64)


def write_llmc(path, tokens):
    """Writes 16-bit tokens (ids below 65536) as an llm.c `.bin` file."""
    tokens = np.asarray(tokens)
    if tokens.min() < 0 or tokens.max() >= 65536:
        raise ValueError("16-bit llm.c files hold ids 0 to 65535")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, tokens.size
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2").tobytes())


def read_stream(path, document_end=None):
    """One file's tokens, int64: `.bin` is llm.c, `.npy` an array, anything else bytes of text.

    `document_end`: the id that follows the bytes of a text file, or None for none.
    """
    suffix = Path(path).suffix
    if suffix == ".bin":
        return read_llmc(path)
    if suffix == ".npy":
        return np.load(path).astype(np.int64).reshape(-1)
    stream = np.fromfile(path, dtype=np.uint8).astype(np.int64)
    return stream if document_end is None else np.append(stream, document_end)


def read_samples(paths, seq_len=None, document_end=None):
    """(tokens, labels), int64 [samples, S] each, of the files' joint stream.

    A `.safetensors` file holding `tokens` and `labels` (shifted already, -100 = ignored), as the
    goldens do, is taken as it is; it must come alone and `seq_len`, if given, must be its own.
    """
    if str(paths[0]).endswith(".safetensors"):
        from safetensors.numpy import load_file

        tensors = load_file(paths[0])
        tokens, labels = (tensors[key].astype(np.int64) for key in ("tokens", "labels"))
        if len(paths) > 1 or seq_len not in (None, tokens.shape[1]):
            raise ValueError(f"{paths[0]}: comes alone, with its own S = {tokens.shape[1]}")
        return tokens, labels
    if seq_len is None:
        raise ValueError("a token stream needs a sequence length")
    stream = np.concatenate([read_stream(path, document_end) for path in paths])
    count = (stream.size - 1) // seq_len
    if count < 1:
        raise ValueError(f"{stream.size} tokens do not fill one sample of {seq_len} + 1")
    tokens = stream[: count * seq_len].reshape(count, seq_len)
    labels = stream[1 : count * seq_len + 1].reshape(count, seq_len)
    return tokens, labels
