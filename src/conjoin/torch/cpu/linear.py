"""The linear layer of every brick: F.linear, computed in inference on a CPU by the fastest of three implementations.

`F.linear` in float32 uses MKL; oneDNN is in the same wheel; the third are our own kernels (`native`). Which one is
fastest depends on the processor, the dtype and the number of rows, so each is timed once per process (decision 0006).
"""

import time
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear_grad import Product, has_onednn, is_right, onednn, trained_linear
from conjoin.torch.cpu.mode import mode_of
from conjoin.torch.cpu.native.checks import is_matrix, is_vector, require_numbers

_MOST_CLASSES = 9
"""Classes of 1, 2-3, 4-7, ... 128-255 and more rows: small products are bound by memory, large ones by arithmetic."""
_CLEARLY = 0.95
"""A library replaces our own kernels if its time is below this share of theirs."""
_PROBE_SIZE, _PROBE_MATRICES = 768, 8
"""Together larger than a core's cache, as a model's layers are."""


class Linear(nn.Linear):
    """y = x W^T + b; W is (out, in)."""

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Map every vector."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "*lead m"]:
    """Return F.linear(x, weight, bias), computed by the fastest implementation on this machine."""
    match mode_of(x, weight, bias):
        case "inference" if _fits(x, weight, bias):
            return fastest_linear(x, weight, bias)
        case "training":
            return trained_linear(x, weight, bias)
        case _:
            require_numbers(weight, x)
            return F.linear(x, weight, bias)


def fastest_linear(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None
) -> Float[Tensor, "*lead m"]:
    """Return `linear` of eager, contiguous tensors of one dtype on a CPU, outside of autograd; x is not empty."""
    rows = x.numel() // x.shape[-1]
    return _fastest(x.dtype, min(rows.bit_length(), _MOST_CLASSES))(x, weight, bias)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """True if `native.linear` supports the shapes, dtypes and strides."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() > 0
        and is_matrix(weight, x.shape[-1], x.dtype)
        and is_vector(bias, weight.shape[0], x.dtype)
    )


@lru_cache(maxsize=2 * _MOST_CLASSES)
def _fastest(dtype: torch.dtype, size_class: int) -> Product:
    """Return the fastest implementation that is correct on this machine, for 2^(size_class - 1) rows and more.

    It is measured once per process, within milliseconds. Only our own kernels compute a row bitwise equally in any
    batch, so a library must be clearly faster to replace them.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3 * 2 ** (size_class - 1) // 2, _PROBE_SIZE, generator=generator).to(dtype)
    shape = (_PROBE_MATRICES, _PROBE_SIZE, _PROBE_SIZE)
    matrices = torch.randn(shape, generator=generator).to(dtype).unbind()
    atol = 1e-3 if dtype == torch.float32 else 1.0
    ways = [F.linear, *(way for way in _alternatives(dtype) if is_right(way, x, matrices[0], rtol=1e-2, atol=atol))]
    seconds = {way: min(_seconds(way, x, matrices) for _ in range(3)) for way in ways}
    if native.linear in seconds:
        seconds[native.linear] *= _CLEARLY
    return min(ways, key=seconds.__getitem__)


def _alternatives(dtype: torch.dtype) -> list[Product]:
    ways: list[Product] = []
    if native.has("float32" if dtype == torch.float32 else "bfloat16"):
        ways.append(native.linear)
    if has_onednn():
        ways.append(onednn)
    return ways


def _seconds(way: Product, x: Tensor, matrices: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    for matrix in matrices:
        way(x, matrix, None)
    return time.perf_counter() - start
