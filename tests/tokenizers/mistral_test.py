"""Mistral's published vocabularies, id for id, against Mistral's own tokenizer and SentencePiece.

usage: mistral_test.py IDS_PROGRAM

Runs only with FIREQ_TEST_TOKENIZERS=1: it installs mistral-common (which carries the vocabularies),
tokenizers, sentencepiece and gguf from PyPI into a virtual environment (FIREQ_TEST_VENV names one to make
or to use again), and exits with 77, which ctest shows as skipped, otherwise.

Each tekken vocabulary is written as the tokenizer.json of a model of its kind (the vocabulary's own pattern,
byte-level BPE, ignore_merges) and as a GGUF file with pre-tokenizer "tekken"; each SentencePiece one as
tokenizer.json and as a GGUF file with scores. FireQ reads all of them; what must come out are the ids of
mistral_common's Tekkenizer or of SentencePiece. Hugging Face's library, which reads
the same tokenizer.json, must give them too.
"""

import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import virtual_environment  # noqa: E402

SPACE_MARK = "\u2581"
ODD_TEXTS = [
    "", " ", "   ", "\n", "\r\n\r\n", "\t\t a", "a" * 3000, "=" * 2999, " " * 1001 + "x", "\u00a0\u2003\u3000|",
    "I'll won't CAN'T it's O'Neill'S", "HelloWorld helloWORLD HTTPServer iPhone McDonald", "1234567890 3.14159 1e-9",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "e\u0301 \u00e9 \u0130\u0131 \u01c5 \u1e9e\u00df \ufb01 \u2167 \u00bd \u0663\u0664",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f3fd \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "path/to//file.cpp:12: error\n\n\n    return x;\n\t}\n/*..*/ // --- ***\n", "a\u0300\u0301\u0302b \u200bx\ufeffy",
    "[INSTRUCTION] <sp ecial> </ s> <|im_start|>", "\u2581under\u2581score\u2581", "<0x41><0xFF>", "\x01\x02\x7f\u0080",
    "\U0010ffff\ue000\ud7ff", "Dz\u01c6\u02b0\u02c7\u00aa\u00ba\u24d0\u24b6", "...!!!???\r\n,,,\r/ \n/", "don\u2019t \u2018x\u2019",
]


def random_text(seed: int, size: int) -> str:
    """Characters of every script and category, those that are assigned, in runs of one block."""
    source = random.Random(seed)
    text = []
    while len(text) < size:
        start = source.choice([source.randrange(0x20, 0x7F), source.randrange(0xA0, 0x3000), source.randrange(0x110000)])
        for _ in range(source.randrange(1, 9)):
            char = chr(min(start + source.randrange(24), 0x10FFFF))
            if unicodedata.category(char) not in ("Cs", "Cn", "Co"):
                text.append(source.choice(["", "", "", " ", "\n", "  "]) + char)
    return "".join(text)


def texts() -> list[str]:
    wiki = pathlib.Path(os.environ["FIREQ_TEST_DATA"], "wikitext-2-raw/wiki.test.raw").read_bytes().decode()
    return [wiki, *ODD_TEXTS, *(random_text(seed, 20000) for seed in range(4))]


def byte_characters() -> list[str]:
    """How byte-level BPE spells each byte: printable Latin-1 as itself, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelled = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in spelled]
    return [spelled.get(byte) or chr(0x100 + others.index(byte)) for byte in range(256)]


def cuts(pieces: dict, joined) -> list:
    """Every way to make a token of two others."""
    return [(joined[:at], joined[at:]) for at in range(1, len(joined))
            if joined[:at] in pieces and joined[at:] in pieces]


def added(index: int, content: str) -> dict:
    return {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def write_json(directory: pathlib.Path, spec: dict) -> None:
    directory.mkdir()
    whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "normalizer": None} | spec
    (directory / "tokenizer.json").write_text(json.dumps(whole))


def write_gguf(path: pathlib.Path, kind: str, tokens: list, types: list, more) -> None:
    import gguf
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_tekken(source: pathlib.Path, directory: pathlib.Path) -> None:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    own = Tekkenizer.from_file(source)
    special = own.num_special_tokens
    spell = byte_characters()
    data = json.loads(source.read_text())
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in data["vocab"]}
    ranks = {piece: rank for piece, rank in ranks.items() if rank < own.n_words - special}
    written = {piece: "".join(spell[byte] for byte in piece) for piece in ranks}
    # Tiktoken joins the pair that makes the token of the lowest rank.
    merges = [[written[left], written[right]] for piece in sorted(ranks, key=ranks.get)
              for left, right in sorted(cuts(ranks, piece), key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))]
    names = [own.id_to_piece(index) for index in range(special)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": data["config"]["pattern"]}, "behavior": "Isolated", "invert": False}
    vocab = {written[piece]: special + rank for piece, rank in ranks.items()}
    write_json(directory, {
        "added_tokens": [added(index, name) for index, name in enumerate(names)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {name: index for index, name in enumerate(names)} | vocab, "merges": merges}})

    def more(writer) -> None:
        writer.add_tokenizer_pre("tekken")
        writer.add_token_merges([" ".join(merge) for merge in merges])

    write_gguf(directory.with_suffix(".gguf"), "gpt2", names + sorted(vocab, key=vocab.get),
               [3] * special + [1] * len(vocab), more)


def write_sentencepiece(source: pathlib.Path, directory: pathlib.Path) -> None:
    import sentencepiece
    own = sentencepiece.SentencePieceProcessor(model_file=str(source))
    size = own.get_piece_size()
    pieces = [own.id_to_piece(index) for index in range(size)]
    # The types of a GGUF file: unknown, control, byte, normal.
    types = [2 if own.is_unknown(index) else 3 if own.is_control(index) else 6 if own.is_byte(index) else 1
             for index in range(size)]
    scores = [own.get_score(index) for index in range(size)]
    normal = {pieces[index]: index for index in range(size) if types[index] == 1}
    merges = [list(cut) for piece in sorted(normal, key=lambda piece: (-scores[normal[piece]], normal[piece]))
              for cut in sorted(cuts(normal, piece), key=lambda cut: (normal[cut[0]], normal[cut[1]]))]
    unknown = pieces[types.index(2)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    write_json(directory, {
        "added_tokens": [added(index, pieces[index]) for index in range(size) if types[index] in (2, 3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": merges}})
    write_gguf(directory.with_suffix(".gguf"), "llama", pieces, types, lambda writer: writer.add_token_scores(scores))


def own_ids(source: pathlib.Path):
    if source.suffix == ".json":
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer
        tekken = Tekkenizer.from_file(source)
        return lambda text: tekken.encode(text, bos=False, eos=False)
    import sentencepiece
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source))
    return pieces.encode


def ids_by(program: str, model: pathlib.Path, every: list[str]) -> list[list[int]]:
    return json.loads(subprocess.run([program, model], input=json.dumps(every).encode(), check=True,
                                     stdout=subprocess.PIPE).stdout)


def difference(got: list[int], want: list[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    return f"{len(got)} ids for {len(want)}, first difference at {at}: {got[at:at + 4]} {want[at:at + 4]}"


def compare(program: str, source: pathlib.Path, scratch: pathlib.Path) -> list[str]:
    """What differs, a line each."""
    import tokenizers
    directory = scratch / source.name.replace(".", "_")
    (write_tekken if source.suffix == ".json" else write_sentencepiece)(source, directory)
    expected = own_ids(source)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    every = texts()
    wanted = [expected(text) for text in every]
    second = [theirs.encode(text, add_special_tokens=False).ids for text in every]
    bad = []
    for name, got in ("the tokenizers library", second), *(
            (model.name, ids_by(program, model, every)) for model in (directory, directory.with_suffix(".gguf"))):
        for number, (text, ids, want) in enumerate(zip(every, got, wanted, strict=True)):
            if ids != want:
                bad.append(f"{name}, {source.name}, text {number} ({text[:30]!r}): {difference(ids, want)}")
    print(f"{source.name}: {len(bad)} differ", flush=True)
    return bad


def main() -> None:
    for name, value in (("FIREQ_TEST_TOKENIZERS", "1"), ("FIREQ_TEST_DATA", None)):
        if os.environ.get(name) is None or value not in (None, os.environ[name]):
            virtual_environment.skip(f"{name} is not {value or 'set'}")
    virtual_environment.enter("tokenizers", "mistral-common", "tokenizers", "sentencepiece", "gguf")
    import mistral_common
    folder = pathlib.Path(mistral_common.__file__).parent / "data"
    sources = sorted([*folder.glob("tekken*.json"), *folder.glob("*.model.v*")])
    with tempfile.TemporaryDirectory(prefix="fireq_tokenizers_") as scratch:
        bad = [line for source in sources
               for line in compare(os.path.abspath(sys.argv[1]), source, pathlib.Path(scratch))]
    print(*bad, sep="\n")
    sys.exit(1 if bad or not sources else 0)


if __name__ == "__main__":
    main()
