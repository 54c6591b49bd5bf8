"""Text to compare tokenizers on: many scripts, code, emoji, white space, and generated characters from everywhere."""
import random
import unicodedata

WRITTEN = [
    "", " ", "a", "\n", "Hello, world!", "The quick brown fox can't jump over the lazy dog's 1234567 bones.",
    "I'll, you'RE, they'Ve, it'S, don'\u017f, 'tis 'LL'd rock'n'roll.", "  leading and trailing   ", "tabs\tand\t\ttabs\n\n\nlines\r\nwin\r\n\r\n  x",
    "\u00a0no\u00a0break \u2003em \u3000ideographic\u2028line\u2029paragraph\x85next\x0bvertical\x0cform",
    "3.14159 1,000,000 0x1F \u0663\u0664\u0665 \u00bd \u2167 \u2460\u2461 \u4e00\u5343",
    "def f(x, *args):\n    return {k: v for k, v in zip('ab', x)}  # comment\n\n\nclass A:\n\tpass\n",
    "int main() { std::vector<int> v{1,2,3}; return v[0] << 2 | ~0u; } // ok\n/* c */ #include <a/b.h>\n",
    "<html><body class=\"x\">&amp;&nbsp;</body></html> https://example.org/a?b=c&d=%20#e user@example.org",
    "{\"a\": [1, 2.5e-3, null, true], \"\\u00e9\": \"\\n\"}", "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2 \\leq \\infty",
    "Stra\u00dfe \u00c4rger na\u00efve caf\u00e9 cafe\u0301 \u0130stanbul \u0131\u011fd\u0131r \u01c5 \ufb01nd \u1e9e \u00c5ngstr\u00f6m A\u030a \u212b",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436\u0438\u043a \u0435\u0308\u0436\u0438\u043a \u0438\u0306",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5 \u1f08\u03b8\u1fc6\u03bd\u03b1\u03b9 \u1fbc \u03a3\u03c2",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u05d1\u05b0\u05bc\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0627\u0644\u0644\u0651\u064e\u0647\u064f\u06d4 \u06f1\u06f2\u06f3",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964 \u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f \u0958",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u0e01\u0e33",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u6211\u4eec\u4eca\u5929\u5b66\u4e60\u3002\u7e41\u9ad4\u5b57 \uff21\uff22\uff23\uff11\uff12 \u3007\u3005",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002\u30ab\u30bf\u30ab\u30ca \uff76\uff9e\uff97\uff7d \u304b\u3099\u306a",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4! \u1112\u1161\u11ab\u1100\u1173\u11af \uac00\u11a8",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u0532\u0561\u0580\u0565\u0582 \u12a0\u121b\u122d\u129b \u13e3\u13b3\u13a9 \u1820\u1828 \u0f56\u0f7c\u0f51",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea\U0001f3f4\U000e0067\U000e007f \u2764\ufe0f \U0001f44d\U0001f3fd 1\ufe0f\u20e3 \u00a9\u2122",
    "\U0001d4d7\U0001d552\U0001d7d8 \U00020000\U0002a6d6 \U00010330 \U0001f7e0 \U0001e900\U0001e922 \U0010fffd \ue000 \ufffd \u0378",
    "zero\u200bwidth\u200djoin\u200cnon\ufeffbom \u202eright\u202c so\u00adft \u180e",
    "a\u0300\u0301\u0302\u0327b\u0323\u0307 q\u0307\u0323 \u0344 \u0958\u09dc \u2126 \u1e69 \ud55c\u11ab",
    "<|endoftext|> x <|im_start|>user\nhi<|im_end|>\n <s>a</s> [INST] b [/INST] <bos><eos><unk>",
    "a <|end|>  \n b<|begin_of_text|>  <extra_id_0> <think>t</think> NaN xNaN NaNs NaN. [MASK] [mask] |||IP_ADDRESS|||",
    "\u2581meta\u2581space \u2581\u2581 x\u2581 <0x0A> <0xZZ> \u0120GPT \u010a", "\n\n\n\n   \n \t \n", "    indented\n        more\n  less",
    "CamelCaseWords HTTPServer XMLHttpRequest2 iPhone \u01c4\u01c5 aB\u0300c\u02b0 \u02b0x A\u0300\u0301 $HOME/path//x\r\n/..",
    "!!!??? ...--- ***___ ((())) [[[]]] {{}} ~~~``` @@@### ^^^ \u00bf\u00a1 \u2014\u2013 \u201cq\u201d \u2018s\u2019 \u2026\u3002\uff0c\u3001",
    "``quoted'' and   many    spaces  ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtsgesellschaftskapit\u00e4nsm\u00fctzenabzeichen" * 3, "\u0000\u0001\u001f\u007f\u0080",
]

BLOCKS = [(0x20, 0x7f), (0x20, 0x7f), (0x9, 0xe), (0xa0, 0x250), (0x250, 0x400), (0x400, 0x530), (0x590, 0x780),
          (0x900, 0xe00), (0xe00, 0x1200), (0x1200, 0x1800), (0x1c80, 0x2000), (0x2000, 0x2100), (0x2100, 0x2c00),
          (0x2c00, 0x3000), (0x3000, 0x3400), (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7a4), (0xe000, 0xf900),
          (0xf900, 0x10000), (0x10000, 0x11fff), (0x16000, 0x17000), (0x1d000, 0x1e000), (0x1e000, 0x1f000),
          (0x1f000, 0x20000), (0x20000, 0x32000), (0xe0000, 0xe0200), (0x0, 0xd800), (0xe000, 0x110000)]


def generated(rng, length):
    """Runs of characters of one block, spaces and line breaks between them."""
    out = []
    while len(out) < length:
        low, high = rng.choice(BLOCKS)
        for _ in range(rng.randrange(1, 12)):
            out.append(chr(rng.randrange(low, high)))
        out.append(rng.choice(["", "", " ", " ", "  ", "\n", "'s", "1", "A", "\n\n", "\t"]))
    return "".join(c for c in out if not 0xD800 <= ord(c[:1] or " ") < 0xE000)[:length]


def broken(rng, text):
    """Bytes that are no UTF-8: characters cut, bytes changed, random bytes between."""
    data = bytearray(text.encode())
    for _ in range(max(1, len(data) // 12)):
        where = rng.randrange(len(data) + 1)
        what = rng.randrange(3)
        if what == 0:
            data[where:where + rng.randrange(1, 4)] = b""
        elif what == 1:
            data[where:where] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        elif where < len(data):
            data[where] = rng.randrange(0x80, 0x100)
    return bytes(data)


def golden_texts():
    rng = random.Random(7)
    return WRITTEN + [generated(rng, 60) for _ in range(24)]


def golden_bytes():
    rng = random.Random(8)
    texts = [broken(rng, text) for text in WRITTEN if text and len(text) < 200][:24]
    texts += [bytes(rng.randrange(256) for _ in range(40)) for _ in range(4)]
    return texts + [b"\xff", b"a\xc3", b"\xe4\xbd ok", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", "\U0010ff41\U0010ffc3".encode() + b"\xff"]


def training_corpus():
    """A little of everything, with words that repeat, so that merges exist."""
    rng = random.Random(3)
    words = []
    for text in WRITTEN[:34]:
        words += text.split(" ")
    corpus = []
    for _ in range(1500):
        corpus.append(" ".join(rng.choices(words, k=12)) + rng.choice(["", "\n", ".", " ", "  \n\n"]))
    return corpus + WRITTEN[:34]
