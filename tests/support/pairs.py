"""Tiny joined models for tests: from the oracle's files, and fresh from configs with dropout off."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import oracle
from conjoin import AutoTokenizer, BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config, LlamaConfig
from conjoin.families import family
from conjoin.join import special_tokens
from conjoin.torch.pair.halves import Decoder
from tokenizer_samples import raw_folder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}

Model = TypeVar("Model", bound=nn.Module)

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SOURCE = BertConfig(vocab_size=61, hidden_size=20, num_attention_heads=5, pad_token_id=4, **SMALL)
TARGET = BertConfig(vocab_size=53, hidden_size=12, num_attention_heads=3, pad_token_id=3, **SMALL)
TARGET_LIKE_SOURCE = BertConfig(vocab_size=61, hidden_size=20, num_attention_heads=5, pad_token_id=4, **SMALL)
GPT_SMALL: dict[str, Any] = {
    "n_embd": 12,
    "n_layer": 3,
    "n_head": 3,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
GPT = GPT2Config(vocab_size=53, **GPT_SMALL)
LLAMA = LlamaConfig(
    vocab_size=53,
    hidden_size=32,
    intermediate_size=37,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
IDS = {"decoder_start_token_id": 9, "pad_token_id": 3, "eos_token_id": 7, "bos_token_id": 5}


def fresh(encoder: Any = SOURCE, decoder: Any = TARGET, **values: Any) -> EncoderDecoderModel:
    """A pair with fresh weights, in evaluation mode."""
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **{**IDS, **values})
    return EncoderDecoderModel(config=config)


def batch(**changes: Any) -> dict[str, Tensor]:
    """Padded inputs, and labels that end in the end id, for `fresh()`."""
    made = oracle.batch(enc_pad=4, dec_pad=3)
    labels = made["labels"].clone()
    last = (labels != -100).sum(1, keepdim=True) - 1
    labels.scatter_(1, last, IDS["eos_token_id"])
    kept = {name: made[name] for name in ("input_ids", "attention_mask")}
    return {**kept, "labels": labels, **changes}


def joined(folder: Path, encoder: str, decoder: str, **keywords: Any) -> EncoderDecoderModel:
    """Two of the oracle's checkpoints, joined, with ids set and every fresh parameter random."""
    save_half(folder / "encoder", encoder, "encoder")
    save_half(folder / "decoder", decoder, "decoder")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder / "encoder", folder / "decoder", **keywords)
    model.config.decoder_start_token_id = oracle.START_ID
    return model


def save_half(folder: Path, key: str, role: str) -> None:
    """Save the oracle's checkpoint that can play a role."""
    made = family(oracle.model_type(key))
    if made.whole and (role == "encoder" or made.decoder_architecture is None):
        oracle.save_whole(key, folder)
    elif role == "encoder" and made.encoder == "native":
        oracle.save_encoder(key, folder)
    elif made.decoder_architecture is None:
        oracle.save_encoder(key, folder, head="mlm")
    else:
        oracle.save_decoder(key, folder)


@torch.no_grad()
def stir(model: Model, spread: float = 0.1) -> Model:
    """Make every parameter random, so that nothing stays at a value that hides a mistake; but for tables of sines."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not name.endswith("positions.weight"):
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def greedy(model: EncoderDecoderModel, batch: dict[str, Tensor], steps: int = 5) -> Tensor:
    """The likeliest tokens but for an end, by full passes without a cache."""
    ends = list(special_tokens(model.config).eos)
    ids = batch["input_ids"].new_full((len(batch["input_ids"]), 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        for _ in range(steps):
            logits = model(batch["input_ids"], batch["attention_mask"], ids, use_cache=False).logits
            ids = torch.cat((ids, logits[:, -1:].index_fill(-1, torch.tensor(ends), -torch.inf).argmax(-1)), 1)
    return ids


def with_tokenizer(folder: Path, kind: str, **values: Any) -> Path:
    """A checkpoint of one BERT or GPT-2 as the hub has them: weights, config.json and the tokenizer's files."""
    raw_folder(kind, folder)
    words = len(AutoTokenizer.from_pretrained(folder))
    if kind == "bert":
        config = BertConfig(**{**SMALL, "vocab_size": words, "hidden_size": 20, "num_attention_heads": 5, **values})
    else:
        config = GPT2Config(**{**GPT_SMALL, "vocab_size": words, "bos_token_id": 0, "eos_token_id": 0, **values})
    stir(Decoder.from_config(config)).save_pretrained(folder)
    return folder
