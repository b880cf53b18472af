"""The tokenizer.json of a GGUF file's vocabulary, which says what llama.cpp's llama-vocab.cpp does with it."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, cast

from conjoin import limits
from conjoin.errors import TokenizerError, warn
from conjoin.gguf.header import Header

Json = dict[str, Any]

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # LLAMA_TOKEN_TYPE_*
_SPACE = "\u2581"
_SENTINELS = 100  # T5's default; its converter calls their rows [PAD32000] and so on
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_LLAMA3_KINDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "dbrx", "smaug-bpe")
_SPLITS: dict[str, str] = {
    **dict.fromkeys(_LLAMA3_KINDS, _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}
_GPT2_KINDS = ("gpt-2", "phi-2", "olmo", "mpt", "exaone4")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_files(header: Header) -> dict[str, Json]:
    """Return the tokenizer's files by name; none, with a warning, where the vocabulary is of a kind that is not known.

    Raises:
        TokenizerError: the vocabulary contradicts itself.
    """
    words = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in header.metadata.items()
        if name.startswith("tokenizer.ggml.")
    }
    kind, split = words.get("model"), str(words.get("pre", "default"))
    if split == "default" and header.architecture == "qwen2":  # of a file from before May 2024, which does not say it
        split = "qwen2"
    words["pre"] = split
    if kind in (None, "none", "no_vocab"):
        return {}
    known = split in (*_SPLITS, *_GPT2_KINDS, *_DIGITS_APART) if kind == "gpt2" else kind in ("llama", "t5")
    if not known:
        named = f"tokenizer.ggml.model = {kind!r}, pre = {split!r}"
        warn(f"{header.path}: no tokenizer is read, since {named} is not a kind that conjoin knows.")
        return {}
    tokens = _checked(header, words)
    build = {"gpt2": _byte_level, "llama": _sentencepiece, "t5": _unigram}[str(kind)]
    document: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tokens, words.get("token_type", ())),
        **build(header, tokens, words),
        "post_processor": _frame(tokens, words, str(kind), split),
    }
    return {"tokenizer.json": document, "tokenizer_config.json": _settings(header, tokens, words)}


def _checked(header: Header, words: Mapping[str, Any]) -> list[str]:
    """Return the tokens, spelled as in the model's own files."""
    scores, types = words.get("scores"), words.get("token_type")
    tokens = cast("list[str]", words.get("tokens", []))
    if not tokens:
        raise TokenizerError(f"{header.path}: its vocabulary has no tokens.")
    problems = [
        f"tokenizer.ggml.{name} has {len(values)} entries, the vocabulary {len(tokens)}"
        for name, values in (("scores", scores), ("token_type", types))
        if values is not None and len(values) != len(tokens)
    ]
    places = {key: words.get(f"{name}_token_id") for key, name in _SPECIAL.items()}
    problems += [f"{key} is id {place}" for key, place in places.items() if place is not None and place >= len(tokens)]
    if len(tokens) > limits.VOCAB:
        problems.append(f"{len(tokens)} tokens; at most {limits.VOCAB} are supported")
    if words["model"] != "gpt2" and scores is None:
        problems.append("there are no scores")
    if words["model"] == "gpt2" and "merges" not in words:
        problems.append("there are no merges")
    spelled = _spelled(header.architecture, words["model"], tokens)
    if len(set(spelled)) != len(spelled):
        problems.append("two tokens have one spelling")
    if problems:
        raise TokenizerError(f"{header.path}: its vocabulary is damaged: {'; '.join(problems)}.")
    return spelled


def _spelled(architecture: str, kind: str, tokens: Sequence[str]) -> list[str]:
    if kind == "llama" and architecture.startswith("gemma"):
        # Files have runs of spaces where Gemma's vocabulary has runs of the sign for a space.
        return [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
    if kind != "t5":
        return list(tokens)
    unnamed = [place for place, token in enumerate(tokens) if token == f"[PAD{place}]"][:_SENTINELS]
    names = {place: f"<extra_id_{len(unnamed) - 1 - number}>" for number, place in enumerate(unnamed)}
    return [names.get(place, token) for place, token in enumerate(tokens)]


def _added(tokens: Sequence[str], types: Sequence[int]) -> list[Json]:
    """Return the tokens that stay whole in a text."""
    return [
        {
            "id": place,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER_DEFINED,
        }
        for place, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if (kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) or token.startswith("<extra_id_")) and token
    ]


def _byte_level(header: Header, tokens: Sequence[str], words: Mapping[str, Any]) -> Json:
    """Return GPT-2's tokenizer, with the split that the file names."""
    pre = str(words["pre"])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre not in _SPLITS}
    if pre in _SPLITS:
        first = [{"type": "Split", "pattern": {"Regex": _SPLITS[pre]}, "behavior": "Isolated", "invert": False}]
    else:
        first = [{"type": "Digits", "individual_digits": True}] if pre in _DIGITS_APART else []
    return {
        "normalizer": {"type": "NFC"} if _SPLITS.get(pre) == _QWEN2 else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, byte_level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(tokens, [merge.split(" ", 1) for merge in words["merges"]], ignore_merges=pre in _LLAMA3_KINDS),
    }


def _sentencepiece(header: Header, tokens: Sequence[str], words: Mapping[str, Any]) -> Json:
    """Return a SentencePiece BPE model: merges follow from the order of its pieces, unknown letters become bytes."""
    gemma = header.architecture.startswith("gemma")
    prefix = words.get("add_space_prefix", not gemma)
    # Gemma's scores do not follow the order of its merges, which is that of its ids.
    ranks = [-place for place in range(len(tokens))] if gemma else words["scores"]
    merges = words.get("merges")
    pairs = [merge.split(" ", 1) for merge in merges] if merges else _merges(tokens, ranks)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    unknown = tokens[words.get("unknown_token_id", 0)]
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {**_bpe(tokens, pairs), "unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
    }


def _unigram(header: Header, tokens: Sequence[str], words: Mapping[str, Any]) -> Json:
    """Return T5's tokenizer."""
    charsmap = words.get("precompiled_charsmap")
    coded = base64.b64encode(bytes(byte & 255 for byte in charsmap)).decode() if charsmap else None
    space = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
    return {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": coded} if coded else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "decoder": space,
        "model": {
            "type": "Unigram",
            "unk_id": words.get("unknown_token_id", 2),
            "vocab": [list(pair) for pair in zip(tokens, words["scores"], strict=True)],
            "byte_fallback": False,
        },
    }


def _bpe(tokens: Sequence[str], merges: Sequence[Sequence[str]], *, ignore_merges: bool = False) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": {token: place for place, token in enumerate(tokens)},
        "merges": [list(merge) for merge in merges],
    }


def _merges(tokens: Sequence[str], ranks: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges that pieces imply: of two pieces that touch, the one that makes the best piece comes first."""
    ids = {token: place for place, token in enumerate(tokens)}
    found: list[tuple[float, int, int, int, str, str]] = []
    for place, token in enumerate(tokens):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = sorted((ids[a], ids[b]) for a, b in halves if a in ids and b in ids)
        found += [(-ranks[place], -len(tokens[a]), -len(tokens[b]), place, tokens[a], tokens[b]) for a, b in pairs]
    found.sort(key=lambda entry: entry[:4])
    return [(first, second) for *_, first, second in found]


def _frame(tokens: Sequence[str], words: Mapping[str, Any], kind: str, split: str) -> Json | None:
    """Return what puts bos and eos around a text, as the file says or as llama.cpp does where it does not."""
    begins = words.get("add_bos_token", kind == "llama" or (kind == "gpt2" and split in _LLAMA3_KINDS))
    ends = words.get("add_eos_token", kind == "t5")
    bos, eos = words.get("bos_token_id") if begins else None, words.get("eos_token_id") if ends else None
    if bos is None and eos is None:
        return None
    before = [] if bos is None else [_special(tokens[int(bos)])]
    after = [] if eos is None else [_special(tokens[int(eos)])]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, *after],
        "pair": [*before, first, *after, *before, second, *after],
        "special_tokens": {
            tokens[place]: {"id": tokens[place], "ids": [place], "tokens": [tokens[place]]}
            for place in (bos, eos)
            if place is not None
        },
    }


def _special(token: str) -> Json:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _settings(header: Header, tokens: Sequence[str], words: Mapping[str, Any]) -> Json:
    ids = {key: words.get(f"{name}_token_id") for key, name in _SPECIAL.items()}
    settings: Json = {key: tokens[place] for key, place in ids.items() if place is not None}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if (length := header.metadata.get(f"{header.architecture}.context_length")) is not None:
        settings["model_max_length"] = length
    if (template := header.metadata.get("tokenizer.chat_template")) is not None:
        settings["chat_template"] = template
    return settings
