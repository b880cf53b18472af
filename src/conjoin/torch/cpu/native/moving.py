"""Copying rows of a cache over other rows."""

import ctypes
from ctypes import Structure, c_int, c_int64, c_void_p

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from conjoin.torch.cpu.native.checks import refuse
from conjoin.torch.cpu.native.kernels import compiled_function


class _Moving(Structure):
    _fields_ = (("data", c_void_p), *((name, c_int64) for name in ("row", "head", "heads", "bytes")))


def move_rows(tensors: list[Shaped[Tensor, "R K t E"]], to: Int[Tensor, " r"], source: Int[Tensor, " r"]) -> None:
    """Copy rows `source` to rows `to` in every tensor, as if all copies happened at once.

    Args:
        tensors: The positions of each head must be contiguous.
        to: Distinct rows.
    """
    to, source = (rows.to(torch.int64).contiguous() for rows in (to, source))
    rows = tensors[0].shape[0] if tensors else 0
    if len(to) != len(source) or (len(to) and not _are_rows(to, source, rows)):
        refuse("move_rows", to=to, source=source, first=tensors[0] if tensors else None)
    if unsupported := [tensor for tensor in tensors if not _has_contiguous_heads(tensor, rows)]:
        refuse("move_rows", tensor=unsupported[0])
    if not rows:
        return
    array = (_Moving * len(tensors))()
    for moving, tensor in zip(array, tensors, strict=True):
        size = tensor.element_size()
        moving.data, moving.heads, moving.bytes = tensor.data_ptr(), tensor.shape[1], tensor[0, 0].numel() * size
        moving.row, moving.head = tensor.stride(0) * size, tensor.stride(1) * size
    types = (c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_int)
    compiled_function("conjoin_move_rows", *types)(
        ctypes.addressof(array), len(tensors), to.data_ptr(), source.data_ptr(), len(to), torch.get_num_threads()
    )


def _are_rows(to: Tensor, source: Tensor, rows: int) -> bool:
    """True if all indices are in [0, rows)."""
    if not (to.is_cpu and source.is_cpu):
        return False
    lowest, highest = torch.stack((to, source)).aminmax()
    return int(lowest) >= 0 and int(highest) < rows


def _has_contiguous_heads(tensor: Tensor, rows: int) -> bool:
    """True if the positions of each head are contiguous."""
    if not tensor.is_cpu or tensor.dim() != 4 or tensor.shape[0] != rows:
        return False
    return tensor.stride(3) == 1 and (tensor.stride(2) == tensor.shape[3] or tensor.shape[2] <= 1)
