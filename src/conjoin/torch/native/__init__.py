"""Kernels of our own for decoding on a CPU: linear layers over few rows, attention of few queries over cached keys.

Compiled when first used, where a C++ compiler is at hand; everything works without them, slower.
"""

from conjoin.torch.native.kernels import Kept, attention, has, linear, linear_int8
from conjoin.torch.native.steps import Steps, is_watched

__all__ = ["Kept", "Steps", "attention", "has", "is_watched", "linear", "linear_int8"]
