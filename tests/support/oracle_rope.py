"""The oracle of rotary positions: the frequencies that transformers' own models hold for a config."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from oracle import build_config

__all__ = ["frequencies", "turns"]


def frequencies(key: str, layer_type: str | None = None, **changes: Any) -> tuple[Tensor, float]:
    """Radians per position of every pair of dimensions, and what cos and sin are multiplied by.

    Args:
        layer_type: which kind of layer, where they differ.
        changes: config values over those of the TINY key.
    """
    rotation = AutoModel.from_config(build_config(key, **changes)).rotary_emb
    prefix = f"{layer_type}_" if layer_type else ""
    return getattr(rotation, f"{prefix}inv_freq"), getattr(rotation, f"{prefix}attention_scaling")


def turns(key: str, positions: Tensor, **changes: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions in a sequence that holds them all, [1, T, size]."""
    rotation = AutoModel.from_config(build_config(key, **changes)).rotary_emb
    return rotation(torch.zeros(1), positions)
