"""Trains small tokenizers in published styles and writes them with the ids that their own libraries give.

    python make_tokenizers.py [NAME...]      (tokenizers, tiktoken and sentencepiece from PyPI)

NAME/tokenizer.json, NAME/tokenizer.model or NAME/NAME.tiktoken (+ .json), and NAME/ids.json:
  plain    ids of each text of texts.json, special tokens being text, nothing added
  special  {index: ids} where they differ with special tokens recognised and the post-processor's tokens added
  bytes    ids of each byte string of texts.json (byte-level tokenizers without a normalizer)
  fallback the same of tokenizers with byte fallback
  decoded  {index: text} where decoding `plain` does not give the text back
"""
import base64
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
        result["bytes"] = [styles.encode_broken(tokenizer, name, data) for data in texts.golden_bytes()]
    if name in styles.BYTE_FALLBACK:
        tokenizer.encode_special_tokens = True
        result["fallback"] = [styles.encode_broken(tokenizer, name, data) for data in texts.golden_bytes()]
    return result


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
            tokenizer = style(corpus, 400, styles.character_map(corpus))
            write(name, "tokenizer.json", compact(json.loads(tokenizer.to_str())))
            write(name, "ids.json", compact(huggingface_ids(tokenizer, name)))
    for name, options in styles.SENTENCEPIECE.items():
        if chosen(name):
            model = styles.train_sentencepiece(corpus, **options)
            write(name, "tokenizer.model", model)
            write(name, "ids.json", compact(sentencepiece_ids(model)))
    ranks = styles.tiktoken_ranks(corpus, SIZE)
    for name, (pattern, regex) in styles.TIKTOKEN.items():
        if chosen(name):
            special = {"<|endoftext|>": len(ranks), "<|endofprompt|>": len(ranks) + 19}
            write(name, f"{name}.tiktoken",
                  "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
            write(name, f"{name}.tiktoken.json", json.dumps({"pattern": pattern, "special_tokens": special}))
            encoding = tiktoken.Encoding(name, pat_str=regex, mergeable_ranks=ranks, special_tokens=special)
            write(name, "ids.json", compact(tiktoken_ids(encoding)))


main(sys.argv[1:])
