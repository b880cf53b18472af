"""Tokenizers: raw vocabularies of every kind, tokenizer.json, and a pair of tokenizers."""

import json
from pathlib import Path
from random import Random

from conjoin import AutoTokenizer
from conjoin.tokenizer import Tokenizer, TokenizerPair
from fuzz.mutators import change_bytes, change_json, garbled
from fuzz.runner import Kind
from tokenizer_samples import TEXTS, raw_folder

_WORDS = [
    "tokenizer_class",
    "do_lower_case",
    "model_max_length",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_ids",
    "add_bos_token",
    "add_prefix_space",
    "pad_token",
    "unk_token",
    "bos_token",
    "eos_token",
    "mask_token",
    "padding_side",
    "clean_up_tokenization_spaces",
    "legacy",
    "strip_accents",
    "truncation",
    "padding",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
    "added_tokens",
    "type",
    "vocab",
    "merges",
    "byte_fallback",
    "precompiled_charsmap",
    "src_lang",
    "chat_template",
    "special_tokens_map_file",
    "auto_map",
    "extra_special_tokens",
]
_SAMPLE = TEXTS[::4]


def _use_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in _SAMPLE]
    for each in ids:
        tokenizer.decode(each, skip_special_tokens=True)
    tokenizer.save_pretrained(folder / "again")
    again = AutoTokenizer.from_pretrained(folder / "again")
    assert [again(text)["input_ids"] for text in _SAMPLE] == ids, "a saved tokenizer cuts otherwise"


def _use_pair(folder: Path) -> None:
    pair = TokenizerPair.from_pretrained(folder)
    made = pair(_SAMPLE, text_target=_SAMPLE)
    pair.batch_decode([[max(id, 0) for id in row] for row in made["labels"]], skip_special_tokens=True)
    pair.save_pretrained(folder / "again")
    again = TokenizerPair.from_pretrained(folder / "again")(_SAMPLE, text_target=_SAMPLE)
    assert all(again[name] == made[name] for name in ("input_ids", "labels")), "saved, it cuts otherwise"


def _raw(kind: str) -> Kind:
    return Kind(
        f"tok_{kind.replace('xlm-roberta', 'xlmr')}",
        lambda folder: _write(kind, folder),
        _change_tokenizer,
        _use_tokenizer,
    )


def _write(kind: str, folder: Path) -> None:
    raw_folder(kind, folder)


def _write_whole(folder: Path) -> None:
    raw_folder("roberta", folder / "raw")
    AutoTokenizer.from_pretrained(folder / "raw").save_pretrained(folder)
    for path in sorted((folder / "raw").iterdir()):
        path.unlink()
    (folder / "raw").rmdir()


def _tokenizer(kind: str, folder: Path) -> Tokenizer:
    found = AutoTokenizer.from_pretrained(raw_folder(kind, folder))
    assert isinstance(found, Tokenizer)
    return found


def _write_pair(folder: Path) -> None:
    halves = [_tokenizer(kind, folder.with_name(f"raw-{kind}")) for kind in ("bert", "gpt2")]
    TokenizerPair(*halves).save_pretrained(folder)


def _change_tokenizer(folder: Path, draw: Random) -> None:
    for _ in range(draw.choice((1, 1, 1, 2))):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if draw.random() < 0.1:
            name = draw.choice(("special_tokens_map.json", "added_tokens.json", "config.json"))
            values = {
                "pad_token": "<p>",
                "<x>": 7,
                "model_type": "t5",
                "additional_special_tokens": ["<a>", {"content": "<b>"}],
            }
            (folder / name).write_text(json.dumps(values))
            files = [folder / name]
        path = draw.choice(files)
        match path.suffix:
            case ".json":
                change_json(path, draw, words=_WORDS)
            case ".txt":
                path.write_bytes(garbled(path.read_bytes(), draw))
            case _:
                change_bytes(path, draw)
        if draw.random() < 0.03:
            path.unlink()


KINDS = (
    *map(_raw, ("bert", "gpt2", "llama", "t5", "xlm-roberta")),
    Kind("tok_json", _write_whole, _change_tokenizer, _use_tokenizer),
    Kind("pair_tokenizer", _write_pair, _change_tokenizer, _use_pair),
)
