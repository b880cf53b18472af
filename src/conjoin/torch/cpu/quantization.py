"""Linear layers in 8 bits: weights are rounded once, with a scale per output; activations per call, with one per row.

The scheme is called W8A8, per channel and per token, symmetric (Dettmers et al. 2022, arXiv:2208.07339, section 2.1,
without its outlier columns). Embedding tables, norms and biases keep their dtype.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Self

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear import linear
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.cpu.native.checks import is_matrix, require_numbers
from conjoin.torch.cpu.native.kernels import are_units

_MOST = 127
_LEAST = 1e-36
"""Smallest scale of a row, times 127; 127 divided by less is no float32."""


def quantize_rows(weight: Float[Tensor, "m n"]) -> tuple[Int8[Tensor, "m n"], Float[Tensor, " m"]]:
    """Return integers from -127 to 127 and the float32 scale of each row, which is 1 for a row of zeros."""
    wide = weight.float()
    scale = wide.abs().amax(1) / _MOST
    scale = torch.where(scale > 0, scale, 1.0)
    return (wide / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8), scale


class QuantizedLinear(nn.Module):
    """y = x (scale W)^T + b, W in 8 bits; every row of x is rounded to 8 bits with a scale of its own.

    Args:
        weight: int8.
        scale: float32 in models of any dtype.
        bias: In the model's dtype.
    """

    def __init__(
        self, weight: Int8[nn.Parameter, "m n"], scale: Float[nn.Parameter, " m"], bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = weight, scale, bias
        self._derived: dict[str, Tensor] = {}
        self._derived_from: tuple[int, int] | None = None

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Return the layer's output, which has no gradient."""
        is_plain = self._is_plain(input)
        if is_plain and native.has("int8"):
            return native.linear_int8(input, self.weight, self.scale, self.row_sums(), self.bias)
        require_numbers(self.weight, input)
        x = input.detach().float()
        most = x.abs().amax(-1, keepdim=True)
        if is_plain:
            wide = self._by_the_fastest_product(x, most)
        else:
            rounded = torch.where(most > 0, x * most.new_tensor(_MOST).div(most), 0.0).round()
            wide = F.linear(rounded, self.weight.float()) * (most / _MOST * self.scale)
        return (wide if self.bias is None else wide + self.bias).to(input.dtype)

    def _by_the_fastest_product(
        self, x: Float[Tensor, "*lead n"], most: Float[Tensor, "*lead 1"]
    ) -> Float[Tensor, "*lead m"]:
        """Return the product without kernels: of integers, or of float32 copies of integers where that is faster."""
        rows, most = x.numel() // x.shape[-1], most.clamp_min(_LEAST)
        rounded = x.mul(most.new_tensor(_MOST).div(most)).round_()
        unit = most / _MOST
        if _multiplies_bytes(min(rows.bit_length(), _MOST_CLASSES)):
            sums = torch.ops.aten._int_mm(rounded.view(rows, -1).to(torch.int8), self.weight.t())
            return sums.view(*x.shape[:-1], -1) * ((unit + (most - most)) * self.scale)  # NaN in rows with infinity
        with torch.no_grad():  # so that `linear` takes the fastest way
            sums = linear(rounded, self._from_weight("float32", Tensor.float))
        return sums * (unit * self.scale)

    def _is_plain(self, x: Tensor) -> bool:
        """True if kernels that read memory may run on this input."""
        return (
            x.is_cpu
            and x.dtype in (torch.float32, torch.bfloat16)
            and is_eager(x)
            and x.numel() > 0
            and x.dim() > 0
            and is_matrix(self.weight, x.shape[-1], torch.int8)
            and are_units(self.weight, self.scale, self.row_sums(), self.bias, x.dtype)
        )

    def beside_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that quantisation added: the scale."""
        return [self.get_parameter("scale")]

    def row_sums(self) -> Tensor:
        """Return the int32 [m] sums that the kernel subtracts, times 128, because it adds 128 to x."""
        return self._from_weight("sums", lambda weight: weight.sum(1, dtype=torch.int32))

    def _from_weight(self, name: str, derive: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a tensor derived from the weight, anew if the weight has changed."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._derived_from != (self.weight.data_ptr(), version):
            self._derived.clear()
            self._derived_from = (self.weight.data_ptr(), version)
        if name not in self._derived:
            self._derived[name] = derive(self.weight.detach())
        return self._derived[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale.detach()
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:  # a scale keeps its precision in a bfloat16 model
            moved = torch.empty_like(self.scale, dtype=torch.float32)
            self.scale.data = moved if scale.is_meta else moved.copy_(scale)
        self._derived_from = None
        return self


_MOST_CLASSES = 7
"""Classes of 1, 2-3, 4-7, ... 64 and more rows."""
_PROBE_SIZE, _PROBE_MATRICES = 768, 8


@lru_cache(maxsize=_MOST_CLASSES)
def _multiplies_bytes(size_class: int) -> bool:
    """True if PyTorch's product of int8 matrices is exact here, and faster than that of their float32 copies.

    On processors without int8 dot products oneDNN saturates sums of two products at 16 bits.
    """
    rows = 3 * 2 ** (size_class - 1) // 2
    x = torch.full((rows, _PROBE_SIZE), _MOST, dtype=torch.int8)
    matrices = torch.full((_PROBE_MATRICES, _PROBE_SIZE, _PROBE_SIZE), _MOST, dtype=torch.int8)
    wide = matrices.float()
    try:
        if not (torch.ops.aten._int_mm(x, matrices[0].t()) == _MOST * _MOST * _PROBE_SIZE).all():
            return False
    except (AttributeError, RuntimeError):  # another version of PyTorch
        return False
    ways = (
        lambda: [torch.ops.aten._int_mm(x, matrix.t()) for matrix in matrices],
        lambda: [linear(x.float(), matrix) for matrix in wide],
    )
    with torch.no_grad():
        seconds = [min(_seconds(way) for _ in range(3)) for way in ways]
    return seconds[0] < seconds[1]


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
