"""Trains small tokenizers in published styles and writes them with the ids that their own libraries give.

    python make_tokenizers.py [NAME...]      (tokenizers, tiktoken and sentencepiece from PyPI)

NAME/tokenizer.json, NAME/tokenizer.model or NAME/NAME.tiktoken (+ .json), and NAME/ids.json:
  plain    ids of each text of texts.json, special tokens being text, nothing added
  special  {index: ids} where they differ with special tokens recognised and the post-processor's tokens added
  bytes    ids of each byte string of texts.json (byte-level tokenizers without a normalizer)
  decoded  {index: text} where decoding `plain` does not give the text back
"""
import base64
import io
import json
import os
import sys

import sentencepiece
import tiktoken
from tokenizers import Tokenizer, __version__ as tokenizers_version

import styles
import texts

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 700


def write(name, file, value):
    os.makedirs(f"{HERE}/{name}", exist_ok=True)
    with open(f"{HERE}/{name}/{file}", "w" if isinstance(value, str) else "wb") as stream:
        stream.write(value)


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def byte_alphabet():
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


STAND_IN = "\uf8ff"  # private use: neither letter nor digit nor space


def with_stand_ins(data):
    """Text in which each byte that belongs to no character is a stand-in; and those bytes."""
    text, lost = "", []
    for part in data.decode("utf-8", "surrogateescape"):
        if 0xDC80 <= ord(part) < 0xDD00:
            text, lost = text + STAND_IN, lost + [ord(part) - 0xDC00]
        else:
            text += part
    return text, lost


def encode_broken(tokenizer, data):
    """What a byte-level tokenizer gives for bytes: split as if each broken byte were a private character, then the model
    on the bytes themselves."""
    alphabet = byte_alphabet()
    text, lost = with_stand_ins(data)
    assert STAND_IN not in data.decode("utf-8", "ignore")
    marker = "".join(alphabet[b] for b in STAND_IN.encode())
    ids, lost = [], iter(lost)
    for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        parts = piece.split(marker)
        piece = parts[0] + "".join(alphabet[next(lost)] + part for part in parts[1:])
        ids += [token.id for token in tokenizer.model.tokenize(piece)]
    return ids


def huggingface_ids(tokenizer, name):
    result = {"by": f"tokenizers {tokenizers_version}", "plain": [], "special": {}, "decoded": {}}
    for index, text in enumerate(texts.golden_texts()):
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        whole = tokenizer.encode(text, add_special_tokens=True).ids
        result["plain"].append(plain)
        if whole != plain:
            result["special"][index] = whole
        decoded = tokenizer.decode(plain, skip_special_tokens=False)
        if decoded != text:
            result["decoded"][index] = decoded
    if name in styles.BYTE_LEVEL:
        result["bytes"] = [encode_broken(tokenizer, data) for data in texts.golden_bytes()]
    return result


def train_sentencepiece(corpus, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(line for text in corpus for line in text.split("\n")),
                                             model_writer=model, minloglevel=2, num_threads=1, **options)
    return model.getvalue()


def character_map(corpus):
    """A small character map: full-width forms, ligatures, spaces; sentencepiece compiles it."""
    rules = {chr(c): chr(c - 0xfee0) for c in range(0xff01, 0xff5f)}
    rules |= {"\u3000": " ", "\u00a0": " ", "\u2003": " ", "\ufb01": "fi", "\u2167": "VIII", "\u00bd": "1/2", "e\u0301": "\u00e9",
              "\u2126": "\u03a9", "\u304b\u3099": "\u304c", "\u200b": "", "\t": " ", "\n": " ", "\u2026": "...", "\u212b": "\u00c5"}
    with open("/tmp/longhaul-rules.tsv", "w") as stream:
        for source, target in rules.items():
            stream.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
    model = train_sentencepiece(corpus, vocab_size=500, normalization_rule_tsv="/tmp/longhaul-rules.tsv", model_type="bpe")
    os.remove("/tmp/longhaul-rules.tsv")
    return model_charsmap(model)


def model_charsmap(model):
    """normalizer_spec (field 3), precompiled_charsmap (field 2) of the serialized model."""
    def fields(data):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            key = varint()
            if key & 7 == 2:
                length = varint()
                yield key >> 3, data[at:at + length]
                at += length
            elif key & 7 == 0:
                yield key >> 3, varint()
            elif key & 7 == 5:
                at += 4
            else:
                at += 8
    specification = next(value for field, value in fields(model) if field == 3)
    return next(value for field, value in fields(specification) if field == 2)


SENTENCEPIECE = {
    "spm_llama": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", vocab_size=900,
                      split_digits=True, remove_extra_whitespaces=False, add_dummy_prefix=True,
                      allow_whitespace_only_pieces=True, character_coverage=0.98, user_defined_symbols=["<think>"]),
    "spm_unigram": dict(model_type="unigram", normalization_rule_name="identity", vocab_size=500, hard_vocab_limit=False,
                        character_coverage=0.99),
}


def sentencepiece_ids(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    result = {"by": f"sentencepiece {sentencepiece.__version__}", "plain": [], "special": {}, "decoded": {}}
    for index, text in enumerate(texts.golden_texts()):
        if "\0" in text:
            text = text.replace("\0", "")  # the Python binding ends a string there
        ids = processor.encode(text)
        result["plain"].append(ids)
        result["special"][index] = [processor.bos_id()] + ids
        decoded = processor.decode(ids)
        if decoded != text:
            result["decoded"][index] = decoded
    return result


TIKTOKEN = {"tik_cl100k": ("cl100k_base", styles.CL100K), "tik_o200k": ("o200k_base", styles.O200K),
            "tik_kimi": (styles.KIMI, styles.KIMI), "tik_r50k": (styles.R50K, styles.R50K)}


def tiktoken_ranks(corpus):
    trained = styles.gpt2(corpus, SIZE)
    back = {character: byte for byte, character in byte_alphabet().items()}
    # The ranks of tiktoken are ids: bytes first, then merges in order.
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(back[c] for c in token) for token, _ in vocabulary if token != "<|endoftext|>"]
    tokens.sort(key=lambda token: len(token) > 1)
    return {token: rank for rank, token in enumerate(tokens)}


def tiktoken_ids(encoding):
    result = {"by": f"tiktoken {tiktoken.__version__}", "plain": [], "special": {}, "decoded": {}}
    for index, text in enumerate(texts.golden_texts()):
        plain = encoding.encode_ordinary(text)
        whole = encoding.encode(text, allowed_special="all")
        result["plain"].append(plain)
        if whole != plain:
            result["special"][index] = whole
        if encoding.decode(plain) != text:
            result["decoded"][index] = encoding.decode(plain)
    return result


def main(wanted):
    corpus = texts.training_corpus()
    chosen = lambda name: not wanted or name in wanted
    if chosen("texts"):
        with open(f"{HERE}/texts.json", "w") as stream:
            stream.write(json.dumps({"texts": texts.golden_texts(), "bytes": [data.hex() for data in texts.golden_bytes()]},
                                    ensure_ascii=True, separators=(",", ":")))
    for name, style in styles.STYLES.items():
        if chosen(name):
            tokenizer = style(corpus, SIZE)
            write(name, "tokenizer.json", compact(json.loads(tokenizer.to_str())))
            tokenizer = Tokenizer.from_file(f"{HERE}/{name}/tokenizer.json")
            write(name, "ids.json", compact(huggingface_ids(tokenizer, name)))
    for name, style in styles.MAPPED_STYLES.items():
        if chosen(name):
            tokenizer = style(corpus, 400, character_map(corpus))
            write(name, "tokenizer.json", compact(json.loads(tokenizer.to_str())))
            write(name, "ids.json", compact(huggingface_ids(tokenizer, name)))
    for name, options in SENTENCEPIECE.items():
        if chosen(name):
            model = train_sentencepiece(corpus, **options)
            write(name, "tokenizer.model", model)
            write(name, "ids.json", compact(sentencepiece_ids(model)))
    ranks = tiktoken_ranks(corpus)
    for name, (pattern, regex) in TIKTOKEN.items():
        if chosen(name):
            special = {"<|endoftext|>": len(ranks), "<|endofprompt|>": len(ranks) + 19}
            write(name, f"{name}.tiktoken",
                  "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
            write(name, f"{name}.tiktoken.json", json.dumps({"pattern": pattern, "special_tokens": special}))
            encoding = tiktoken.Encoding(name, pat_str=regex, mergeable_ranks=ranks, special_tokens=special)
            write(name, "ids.json", compact(tiktoken_ids(encoding)))


main(sys.argv[1:])
