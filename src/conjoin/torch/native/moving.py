"""Rows of a cache that take over what others hold."""

import ctypes
from ctypes import Structure, c_int, c_int64, c_void_p

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from conjoin.torch.native.kernels import compiled_function


class _Moving(Structure):
    _fields_ = (("data", c_void_p), *((name, c_int64) for name in ("row", "head", "heads", "bytes")))


def move_rows(tensors: list[Shaped[Tensor, "R K t E"]], to: Int[Tensor, " r"], source: Int[Tensor, " r"]) -> None:
    """Let rows `to` hold what rows `source` held before, in every tensor.

    Args:
        tensors: A head's positions lie side by side.
        to: No row is named twice.
    """
    made = (_Moving * len(tensors))()
    for moving, tensor in zip(made, tensors, strict=True):
        size = tensor.element_size()
        moving.data, moving.heads, moving.bytes = tensor.data_ptr(), tensor.shape[1], tensor[0, 0].numel() * size
        moving.row, moving.head = tensor.stride(0) * size, tensor.stride(1) * size
    types = (c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_int)
    to, source = (rows.to(torch.int64).contiguous() for rows in (to, source))
    compiled_function("conjoin_move_rows", *types)(
        ctypes.addressof(made), len(tensors), to.data_ptr(), source.data_ptr(), len(to), torch.get_num_threads()
    )
