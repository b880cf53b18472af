"""Pairs whose self-attention reads the source: language models joined to themselves, and ids for both sides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import oracle
from conjoin.torch.pair.halves import Decoder
from conjoin.torch.pair.model import EncoderDecoderModel

KEYS = [
    key
    for key in oracle.TINY
    if oracle.can_decode(key) and oracle.model_type(key) not in oracle.WHOLE_FAMILIES and not key.endswith("/dynamic")
]
SOURCES, TARGETS = (7, 4, 6), (5, 5, 3)
Logits = Callable[[Tensor], Tensor]


def language_model(key: str, folder: Path) -> Logits:
    """Save a causal LM; returns what gives the logits of ids [1, T]: transformers' model, where it has one."""
    if oracle.model_type(key) in oracle.WITHOUT_CAUSAL_LM:
        oracle.save_encoder(key, folder, head="mlm")
        decoder = Decoder.from_pretrained(folder, add_cross_attention=False)
        return lambda ids: decoder(ids).logits[0].detach()
    model = oracle.save_decoder(key, folder)
    return lambda ids: oracle.decoder_logits(model, ids)[0]


def layerwise(folder: Path, **settings: Any) -> EncoderDecoderModel:
    """Join a checkpoint to itself."""
    settings = {"encoder_attention": "causal", "decoder_start_token_id": oracle.START_ID, **settings}
    return EncoderDecoderModel.from_encoder_decoder_pretrained(
        folder, folder, cross_attention_init="layerwise", **settings
    )


def ids_of(key: str, lengths: tuple[int, ...], seed: int = 1, side: str = "right") -> tuple[Tensor, Tensor]:
    """Ids of mixed lengths, padded, and their mask."""
    kind, width = oracle.TINY[key], max(lengths)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(oracle.FIRST_ORDINARY_ID, kind["vocab_size"], (len(lengths), width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    mask = mask if side == "right" else mask.flip(1)
    return ids.masked_fill(~mask, kind["pad_token_id"]), mask.long()


def rows_of(ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The real ids of each row."""
    return [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
