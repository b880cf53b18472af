"""Kernels of our own for a CPU: linear layers over few rows, attention of few queries over cached keys, whole decoding
steps; and of training, what stands between the products of attention, and dropout.

Compiled when first used, where a C++ compiler is at hand; everything works without them, slower.
"""

from conjoin.torch.native.kernels import Kept, attention, has, linear, linear_int8
from conjoin.torch.native.steps import Steps, is_watched
from conjoin.torch.native.training import STEPS, drop, soften, soften_backward

__all__ = [
    "STEPS",
    "Kept",
    "Steps",
    "attention",
    "drop",
    "has",
    "is_watched",
    "linear",
    "linear_int8",
    "soften",
    "soften_backward",
]
