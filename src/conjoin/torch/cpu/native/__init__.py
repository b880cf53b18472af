"""Our own CPU kernels: linear layers over few rows, attention of few queries over cached keys, whole decoding steps,
copies of cache rows; in training, dropout, norms, gates, rotary positions and attention with their gradients.

They are compiled on first use if there is a C++ compiler; without them everything works, but slower.
"""

from conjoin.torch.cpu.native.kernels import Kept, attention, has, linear, linear_int8
from conjoin.torch.cpu.native.moving import move_rows
from conjoin.torch.cpu.native.pointwise import GATES, gated, gated_backward, rms_norm, rms_norm_backward, rotate
from conjoin.torch.cpu.native.stack import NativeStack, reason_against
from conjoin.torch.cpu.native.steps import Steps, Want, encode, native_stack, read_sources
from conjoin.torch.cpu.native.training import STEPS, Call, Reads, drop, like_tokens, weight_gradient

__all__ = [
    "GATES",
    "STEPS",
    "Call",
    "Kept",
    "NativeStack",
    "Reads",
    "Steps",
    "Want",
    "attention",
    "drop",
    "encode",
    "gated",
    "gated_backward",
    "has",
    "like_tokens",
    "linear",
    "linear_int8",
    "move_rows",
    "native_stack",
    "read_sources",
    "reason_against",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "weight_gradient",
]
