"""A task that tiny models learn in seconds, and the halves to learn it: what the training tests build on."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from conjoin import BertConfig, EncoderDecoderConfig, EncoderDecoderModel
from conjoin.tokenizer import AutoTokenizer, TokenizerPair
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.training import TrainingArguments

WORDS = [f"w{number}" for number in range(20)]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SOURCE_WORDS = [*SPECIALS, *WORDS]
TARGET_WORDS = [*SPECIALS, "extra", *reversed(WORDS)]

_TINY: dict[str, Any] = {
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}


def encoder_config(**changes: Any) -> BertConfig:
    """A tiny reader."""
    values = {"vocab_size": len(SOURCE_WORDS), "hidden_size": 20, "num_attention_heads": 5, **_TINY, **changes}
    return BertConfig(**values)


def decoder_config(**changes: Any) -> BertConfig:
    """A tiny writer of another width and vocabulary."""
    values = {"vocab_size": len(TARGET_WORDS), "hidden_size": 12, "num_attention_heads": 3, **_TINY, **changes}
    return BertConfig(**values)


def write_tokenizer(folder: Path, words: list[str]) -> Path:
    """Save a tokenizer of whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def tokenizers(folder: Path) -> TokenizerPair:
    """The pair that the toy models read and write with."""
    source, target = (
        AutoTokenizer.from_pretrained(write_tokenizer(folder / name, words))
        for name, words in (("source", SOURCE_WORDS), ("target", TARGET_WORDS))
    )
    return TokenizerPair(source, target)


def halves(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Folders of an encoder and a decoder, with tokenizers, as `--encoder` and `--decoder` take them."""
    torch.manual_seed(0)
    Encoder.from_config(encoder_config(**changes)).save_pretrained(write_tokenizer(folder / "encoder", SOURCE_WORDS))
    decoder = decoder_config(is_decoder=True, **changes)
    Decoder.from_config(decoder).save_pretrained(write_tokenizer(folder / "decoder", TARGET_WORDS))
    return folder / "encoder", folder / "decoder"


def toy_model(folder: Path | None = None, seed: int = 0, dropout: float = 0.0, **values: Any) -> EncoderDecoderModel:
    """A fresh pair; with a folder, its tokenizers too."""
    torch.manual_seed(seed)
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    pair = (encoder_config(**drops), decoder_config(**drops))
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(*pair, **ids, **values))
    if folder is not None:
        model.tokenizer = tokenizers(folder)
    return model


def toy_rows(count: int, seed: int = 0, longest: int = 9) -> list[dict[str, str]]:
    """Pairs whose target is the source backwards."""
    draw = random.Random(seed)
    rows: list[dict[str, str]] = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(2, longest))
        rows.append({"source": " ".join(words), "target": " ".join(reversed(words))})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Save pairs as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """A short, quiet run on the CPU."""
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "doctor": False,
        "report_to": "none",
        "learning_rate": 1e-2,
        "max_steps": 6,
        "logging_steps": 2,
        "eval_samples": 0,
    }
    return TrainingArguments(**values | changes)


def weights(model: EncoderDecoderModel) -> dict[str, torch.Tensor]:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
