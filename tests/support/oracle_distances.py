"""How transformers sorts distances between tokens."""

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

__all__ = ["deberta_buckets"]


def deberta_buckets(length: int, buckets: int, most: int) -> Tensor:
    """DeBERTa's bucket of every query and key of a text, [length, length]; the distance itself if both are -1."""
    tokens = torch.zeros(1, length, 1)
    return build_relative_position(tokens, tokens, bucket_size=buckets, max_position=most)[0]
