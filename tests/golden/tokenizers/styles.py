"""Small tokenizers in the styles of published ones: the same normalizer, pre-tokenizer, decoder, post-processor and flags as
their tokenizer.json files, trained on a little text; sentencepiece models and tiktoken ranks likewise. Used by
make_tokenizers.py and compare.py."""
import io
import os

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST
OLMO2 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
         r"|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
          r"|\s+(?!\S)|\s")
R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def cased(behind):
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{UPPER}*{LOWER}+{behind}|{lead}{UPPER}+{LOWER}*{behind}|"


O200K = cased(CONTRACTIONS + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + REST
TEKKEN = cased("") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + REST
DEEPSEEK = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        + CONTRACTIONS + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*" + CONTRACTIONS + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST)
METASPACE = "\u2581"


def split(pattern, behavior="isolated"):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=False)


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=use_regex)


def template(*pieces, ids):
    return processors.TemplateProcessing(single=list(pieces), pair=[*pieces, *(p.replace("$A", "$B") for p in pieces)],
                                         special_tokens=ids)


def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def train_bytes(tokenizer, corpus, size, specials):
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def bytes_style(corpus, size, pre_tokenizer, specials, normalizer=None, ignore_merges=False, last=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    # Most families number their special tokens behind the vocabulary, GPT-2's successors before it.
    train_bytes(tokenizer, corpus, size, [] if last else specials)
    if last:
        tokenizer.add_tokens(specials)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt2(corpus, size):
    return bytes_style(corpus, size, byte_level(True), [special("<|endoftext|>")])


def llama3(corpus, size):
    tokenizer = bytes_style(corpus, size, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]),
                            [special(t) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                                  "<|end_header_id|>", "<|eot_id|>")], ignore_merges=True, last=True)
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence([byte_post(), template(bos[0] + ":0", "$A:0", ids=[bos])])
    return tokenizer


def byte_post():
    return processors.ByteLevel(trim_offsets=False)


def qwen2(corpus, size):
    specials = [special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    specials += [AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>")]
    return bytes_style(corpus, size, pre_tokenizers.Sequence([split(QWEN2), byte_level()]), specials,
                       normalizer=normalizers.NFC(), last=True)


def mistral_nemo(corpus, size):
    tokenizer = bytes_style(corpus, size, pre_tokenizers.Sequence([split(TEKKEN), byte_level()]),
                            [special(t) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")], ignore_merges=True)
    tokenizer.post_processor = template("<s>:0", "$A:0", ids=[("<s>", 1)])
    return tokenizer


def smollm(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)]),
                       [special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_text>")])


def granite(corpus, size):
    """Granite 3 and StarCoder2: as SmolLM, other special tokens, some with the spaces around them."""
    return bytes_style(corpus, size, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)]),
                       [special("<|end_of_text|>"), special("<fim_prefix>"), special("<fim_middle>"), special("<fim_suffix>"),
                        special("<|start_of_role|>"), special("<|end_of_role|>")])


def olmo2(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence([split(OLMO2), byte_level()]),
                       [special("<|endoftext|>"), AddedToken("|||IP_ADDRESS|||", special=False, normalized=False),
                        special("<|pad|>")], last=True)


def phi4(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]),
                       [special(t, lstrip=True, rstrip=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                                                       "<|im_sep|>")], last=True)


def o200k(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence([split(O200K), byte_level()]),
                       [special("<|endoftext|>"), special("<|endofprompt|>")], last=True)


def deepseek(corpus, size):
    tokenizer = bytes_style(
        corpus, size, pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                                               split(DEEPSEEK), byte_level()]),
        [special("<\uff5cbegin\u2581of\u2581sentence\uff5c>"), special("<\uff5cend\u2581of\u2581sentence\uff5c>"),
         AddedToken("<\uff5cUser\uff5c>", special=False, normalized=True)], normalizer=normalizers.Sequence([]))
    return tokenizer


def falcon(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), byte_level(True), pre_tokenizers.Digits(False),
         split("[0-9][0-9][0-9]")]), [special(">>TITLE<<"), special("<|endoftext|>")])


def bloom(corpus, size):
    return bytes_style(corpus, size, pre_tokenizers.Sequence(
        [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), byte_level()]),
        [special("<unk>"), special("<s>"), special("</s>")])


def characters_style(corpus, size, specials, normalizer, pre_tokenizer, decoder, marked=True):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained on words; what is written into the file afterwards is the published configuration.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, "always")
    everything = specials + [AddedToken(f"<0x{byte:02X}>", special=False, normalized=False) for byte in range(256)]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[t if isinstance(t, str) else t.content for t in everything],
        limit_alphabet=180, show_progress=False))
    import json
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    for token in specials:
        tokenizer.add_tokens([token])
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    if pre_tokenizer is None:
        state = json.loads(tokenizer.to_str())
        state["pre_tokenizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoder
    return tokenizer


def spaces_back(strip=True):
    parts = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strip else []))


LLAMA2_SPECIALS = [special(t) for t in ("<unk>", "<s>", "</s>")]


def llama2(corpus, size):
    tokenizer = characters_style(corpus, size, LLAMA2_SPECIALS,
                                 normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)]),
                                 None, spaces_back())
    tokenizer.post_processor = template("<s>:0", "$A:0", ids=[("<s>", 1)])
    return tokenizer


def mistral(corpus, size):
    tokenizer = characters_style(corpus, size, LLAMA2_SPECIALS + [special("[INST]"), special("[/INST]")], None,
                                 pre_tokenizers.Metaspace(METASPACE, "first", split=False), spaces_back())
    tokenizer.post_processor = template("<s>:0", "$A:0", ids=[("<s>", 1)])
    return tokenizer


def gemma(corpus, size):
    specials = [special(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")]
    specials += [AddedToken(t, special=False, normalized=False) for t in ("\n\n", "\n\n\n", METASPACE * 2, METASPACE * 3, "<table>")]
    tokenizer = characters_style(corpus, size, specials, normalizers.Replace(" ", METASPACE),
                                 pre_tokenizers.Split(" ", "merged_with_previous"), spaces_back(strip=False))
    tokenizer.post_processor = template("<bos>:0", "$A:0", ids=[("<bos>", 2)])
    return tokenizer


def phi3(corpus, size):
    specials = [special("<unk>"), special("<s>"), AddedToken("</s>", special=False, normalized=False, rstrip=True)]
    specials += [special(t, rstrip=True) for t in ("<|user|>", "<|assistant|>", "<|end|>")]
    return characters_style(corpus, size, specials,
                            normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)]),
                            None, spaces_back())


def unigram_style(corpus, size, normalizer, pre_tokenizer, specials, byte_fallback=False):
    import json
    tokenizer = Tokenizer(models.Unigram())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    extra = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    tokenizer.train_from_iterator(corpus, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=[t.content for t in specials] + extra, unk_token="<unk>", show_progress=False))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    state["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(state))


def t5(corpus, size, charsmap):
    tokenizer = unigram_style(corpus, size, normalizers.Precompiled(charsmap), pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(METASPACE, "always")]),
        [special("<pad>"), special("</s>"), special("<unk>"), special("<extra_id_0>", lstrip=True)])
    tokenizer.decoder = decoders.Metaspace(METASPACE, "always")
    tokenizer.post_processor = template("$A:0", "</s>:0", ids=[("</s>", 1)])
    return tokenizer


def albert(corpus, size, charsmap):
    tokenizer = unigram_style(corpus, size, normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
         normalizers.Lowercase(), normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " "),
         normalizers.Strip()]),
        pre_tokenizers.Metaspace(METASPACE, "always"), [special("<pad>"), special("<unk>"), AddedToken("[MASK]", special=True,
                                                                                              normalized=True, lstrip=True)])
    tokenizer.decoder = decoders.Metaspace(METASPACE, "always")
    return tokenizer


def unigram_bytes(corpus, size):
    tokenizer = unigram_style(corpus, size, normalizers.NFKC(), pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Digits(True),
         pre_tokenizers.Metaspace(METASPACE, "first")]),
        [special("<unk>"), special("</s>"), AddedToken("NaN", special=False, normalized=True, single_word=True)],
        byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(METASPACE, "first")])
    return tokenizer


STYLES = {f.__name__: f for f in (gpt2, llama3, qwen2, mistral_nemo, smollm, granite, olmo2, phi4, o200k, deepseek, falcon,
                                  bloom, llama2, mistral, gemma, phi3, unigram_bytes)}
MAPPED_STYLES = {"t5": t5, "albert": albert}  # with a character map of sentencepiece
BYTE_LEVEL = "gpt2 llama3 mistral_nemo smollm granite olmo2 phi4 o200k deepseek bloom".split()  # no normalizer but that
BYTE_FALLBACK = "llama2 mistral gemma phi3 unigram_bytes".split()


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


def encode_broken(tokenizer, name, data):
    """What a tokenizer that keeps bytes gives for them: split as if each broken byte were a private character, then the
    model on the bytes themselves; with byte fallback, the three bytes of that character become the one it stands for."""
    text, lost = with_stand_ins(data)
    assert STAND_IN not in data.decode("utf-8", "ignore")
    if name in BYTE_FALLBACK:
        byte = [tokenizer.token_to_id(f"<0x{value:02X}>") for value in range(256)]
        marker = [byte[value] for value in STAND_IN.encode()]
        ids, lost, given = [], iter(lost), tokenizer.encode(text, add_special_tokens=False).ids
        at = 0
        while at < len(given):
            stands = given[at:at + 3] == marker
            ids.append(byte[next(lost)] if stands else given[at])
            at += 3 if stands else 1
        assert next(lost, None) is None
        return ids
    alphabet = byte_alphabet()
    if tokenizer.normalizer:
        text = tokenizer.normalizer.normalize_str(text)
    marker = "".join(alphabet[b] for b in STAND_IN.encode())
    ids, lost = [], iter(lost)
    for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        parts = piece.split(marker)
        piece = parts[0] + "".join(alphabet[next(lost)] + part for part in parts[1:])
        ids += [token.id for token in tokenizer.model.tokenize(piece)]
    return ids


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


TIKTOKEN = {"tik_cl100k": ("cl100k_base", CL100K), "tik_o200k": ("o200k_base", O200K),
            "tik_kimi": (KIMI, KIMI), "tik_r50k": (R50K, R50K)}  # in the file beside it, for the library


def tiktoken_ranks(corpus, size):
    trained = gpt2(corpus, size)
    back = {character: byte for byte, character in byte_alphabet().items()}
    # The ranks of tiktoken are ids: bytes first, then merges in order.
    vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(back[c] for c in token) for token, _ in vocabulary if token != "<|endoftext|>"]
    tokens.sort(key=lambda token: len(token) > 1)
    return {token: rank for rank, token in enumerate(tokens)}
