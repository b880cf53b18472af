"""Picking tokens from rows of scores."""

from ctypes import c_int, c_int64, c_void_p

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu.native.checks import refuse
from conjoin.torch.cpu.native.kernels import compiled_function
from conjoin.torch.cpu.native.library import library


def selects(scores: Tensor) -> bool:
    """True if rows of these scores are searched and edited by kernels."""
    wants_gradient = scores.requires_grad and torch.is_grad_enabled()
    return scores.dtype == torch.float32 and scores.is_cpu and not wants_gradient and library() is not None


def argmax(scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
    """Return torch.argmax of every row: the first of equals, or a NaN."""
    scores = rows_of("argmax", scores)
    rows, vocab_size = scores.shape
    places = torch.empty(rows, dtype=torch.int64)
    compiled_function("conjoin_argmax", c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int)(
        scores.data_ptr(), rows, scores.stride(0), vocab_size, places.data_ptr(), torch.get_num_threads()
    )
    return places


def top_k(scores: Float[Tensor, "R V"], k: int) -> tuple[Float[Tensor, "R k"], Int[Tensor, "R k"]]:
    """Return torch.topk of every row; of equals, the first. Meant for small k."""
    scores = rows_of("top_k", scores)
    rows, vocab_size = scores.shape
    if not 0 <= k <= vocab_size:
        refuse("top_k", scores=scores)
    values, places = scores.new_empty(rows, k), torch.empty(rows, k, dtype=torch.int64)
    types = (c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int)
    compiled_function("conjoin_top_k", *types)(
        scores.data_ptr(),
        rows,
        scores.stride(0),
        vocab_size,
        k,
        values.data_ptr(),
        places.data_ptr(),
        torch.get_num_threads(),
    )
    return values, places


def rows_of(kernel: str, scores: Tensor) -> Tensor:
    """Return scores with contiguous rows, at least one token wide.

    Raises:
        ShapeError: they are no float32 scores on a CPU.
    """
    if scores.dim() != 2 or scores.shape[1] == 0 or scores.dtype != torch.float32 or not scores.is_cpu:
        refuse(kernel, scores=scores)
    return scores if scores.stride(1) == 1 or scores.shape[1] == 1 else scores.contiguous()
