"""The oracle of rotary positions: the frequencies that transformers' own models hold for a config."""

from typing import Any

from torch import Tensor
from transformers import AutoModel

from oracle import build_config

__all__ = ["frequencies"]


def frequencies(key: str, layer_type: str | None = None, **changes: Any) -> tuple[Tensor, float]:
    """Radians per position of every pair of dimensions, and what cos and sin are multiplied by.

    Args:
        layer_type: which kind of layer, where they differ.
        changes: config values over those of the TINY key.
    """
    rotation = AutoModel.from_config(build_config(key, **changes)).rotary_emb
    prefix = f"{layer_type}_" if layer_type else ""
    return getattr(rotation, f"{prefix}inv_freq"), getattr(rotation, f"{prefix}attention_scaling")
