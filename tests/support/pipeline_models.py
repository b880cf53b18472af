"""Tiny models of the pipelines' tests: the same numbers on every machine, readable by conjoin and by transformers 4."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from conjoin import BartConfig, EncoderDecoderModel, MBartConfig, T5Config
from conjoin.tokenizer.mbart import MBART50_LANGUAGES

WORDS = [
    *(
        "the",
        "a",
        "cat",
        "dog",
        "sat",
        "ran",
        "on",
        "mat",
        "hill",
        "hello",
        "world",
        "again",
        "and",
        "it",
        "they",
        "away",
    ),
    *("together", "summarize", "translate", "English", "German", "to", "Romanian", ":", ",", ".", "!", "one", "two"),
    *(
        "three",
        "red",
        "green",
        "blue",
        "house",
        "tree",
        "river",
        "bird",
        "fish",
        "small",
        "large",
        "old",
        "new",
        "sees",
    ),
]
TASKS: dict[str, Any] = {
    "summarization": {"prefix": "summarize : ", "min_length": 3, "num_beams": 3, "length_penalty": 2.0},
    "translation_en_to_de": {"prefix": "translate English to German : ", "num_beams": 2},
    "translation_en_to_ro": {"prefix": "translate English to Romanian : ", "max_length": 7},
}
"""As in T5's config.json, with smaller numbers."""

_SIZES: dict[str, Any] = {"vocab_size": len(WORDS) + 3, "pad_token_id": 0, "eos_token_id": 1}
_BART_SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 40,
}


def t5(folder: Path, **values: Any) -> Path:
    """A T5 with prefixes and settings for its tasks."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    config = T5Config(**_SIZES, **sizes, task_specific_params=TASKS, **values)
    return _written(folder, config, _words(), Numbers(seed=2, spread=0.6, end=1.6))


def bart(folder: Path, **values: Any) -> Path:
    """A BART of 40 positions without settings for tasks."""
    config = BartConfig(**{**_SIZES, **_BART_SIZES, "bos_token_id": 2, "decoder_start_token_id": 1, **values})
    return _written(folder, config, _words(), Numbers(seed=21, spread=0.4, end=2.0))


def bart_beams(folder: Path) -> Path:
    """The same with a number of beams of its own."""
    return _with_settings(bart(folder), num_beams=2)


def bart_length(folder: Path) -> Path:
    """The same with a length and beams of its own, as bart-large-cnn has them."""
    return _with_settings(bart(folder), num_beams=4, max_length=11, min_length=5)


def mbart50(folder: Path) -> Path:
    """A model of fifty languages, whose code stands in front of texts."""
    tokenizer = _pieces()
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = MBartConfig(**{**_BART_SIZES, **ids, "vocab_size": tokenizer.get_vocab_size()})
    numbers = Numbers(seed=17, spread=0.4, end=2.5)
    names = {"tokenizer_class": "MBart50Tokenizer", "src_lang": "en_XX", "bos_token": "<s>"}
    return _written(folder, config, tokenizer, numbers, **names)


def _words() -> Tokenizer:
    """A word for every token, an end behind every text."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def _pieces() -> Tokenizer:
    scored = [(f"▁{word}", -2.0 - number / 100) for number, word in enumerate(WORDS)]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((token, 0.0) for token in special), *scored, *((code, 0.0) for code in MBART50_LANGUAGES)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    code = tokenizer.token_to_id("en_XX")
    tokenizer.post_processor = TemplateProcessing(single="en_XX $A </s>", special_tokens=[("en_XX", code), ("</s>", 2)])
    tokenizer.add_special_tokens([*special, *MBART50_LANGUAGES, "<mask>"])
    return tokenizer


@dataclass(frozen=True, slots=True)
class Numbers:
    """How parameters are drawn such that results vary and end.

    Args:
        spread: Standard deviation of weights.
        end: Factor of the end token's vector.
    """

    seed: int
    spread: float
    end: float


def _written(folder: Path, config: Any, tokenizer: Tokenizer, numbers: Numbers, **settings: Any) -> Path:
    model = EncoderDecoderModel(config=config)
    fill(model, numbers)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    written = {**names, "unk_token": "<unk>", "model_max_length": 30, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder


def fill(model: EncoderDecoderModel, numbers: Numbers) -> None:
    """Draw every parameter."""
    draws = np.random.RandomState(numbers.seed)  # its numbers never change, unlike those of newer generators
    for name, parameter in sorted(model.named_parameters()):
        drawn = torch.from_numpy(draws.standard_normal(tuple(parameter.shape)).astype(np.float32))
        parameter.data.copy_(drawn * (1.0 if "embed" in name else numbers.spread))
        if name.endswith("embed.words.weight"):
            parameter.data[model.config.eos_token_id] *= numbers.end


def _with_settings(folder: Path, **settings: Any) -> Path:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder
