"""Linear layers in 8 bits: weights are rounded once, with a scale per output; activations per call, with one per row.

The scheme is called W8A8, per channel and per token, symmetric (Dettmers et al. 2022, arXiv:2208.07339, section 2.1,
without its outlier columns). Embedding tables, norms and biases keep their dtype. Where a processor has no fast product
of integers, activations are not rounded, and the product is that of float32 (decision 50).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Self

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear import fastest_linear
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.cpu.native.checks import is_matrix, is_vector, require_numbers
from conjoin.torch.cpu.native.kernels import are_units

_MOST = 127
_LEAST = 1e-36
"""Smallest scale of a row, times 127; 127 divided by less is no float32."""
_WORTH_ROUNDING = 1 << 18
"""Weights of a layer from which on PyTorch's product of integers saves more than rounding its input takes."""


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
        self._derived_from: tuple[int, ...] | None = None

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Return the layer's output, which has no gradient."""
        if native.has("int8") and self._is_plain(input):
            return native.linear_int8(input, self.weight, self.scale, self.row_sums(), self.bias)
        weight = self.weight
        require_numbers(weight, input)
        is_here = input.is_cpu and is_eager(input)
        rounds = weight.numel() >= _WORTH_ROUNDING and _multiplies_bytes()
        x = input if input.dtype == torch.float32 and not input.requires_grad else input.detach().float()
        if is_here and not rounds:
            y = self._without_rounding(x)
            return y if input.dtype == torch.float32 else y.to(input.dtype)
        most = x.abs().amax(-1, keepdim=True)
        if is_here and x.numel():
            wide = self._product_of_bytes(x, most)
        else:
            rounded = torch.where(most > 0, x * most.new_tensor(_MOST).div(most), 0.0).round()
            wide = F.linear(rounded, weight.float()) * (most / _MOST * self.scale)
        return (wide if self.bias is None else wide + self.bias).to(input.dtype)

    def _without_rounding(self, x: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        bias, wide = self.bias, self._derive("float32", self._dequantized)
        if bias is not None and bias.dtype != torch.float32:
            bias = bias.float()
        fits = x.numel() and is_matrix(wide, x.shape[-1], x.dtype) and is_vector(bias, len(wide), x.dtype)
        return fastest_linear(x, wide, bias) if fits else F.linear(x, wide, bias)

    def _dequantized(self) -> Float[Tensor, "m n"]:
        return self.weight.detach().float() * self.scale.detach()[:, None]

    def _product_of_bytes(
        self, x: Float[Tensor, "*lead n"], most: Float[Tensor, "*lead 1"]
    ) -> Float[Tensor, "*lead m"]:
        rows, most = x.numel() // x.shape[-1], most.clamp_min(_LEAST)
        rounded = x.mul(most.new_tensor(_MOST).div(most)).round_()
        sums = torch.ops.aten._int_mm(rounded.reshape(rows, -1).to(torch.int8), self.weight.t())
        unit = most / _MOST + (most - most)  # NaN in rows with infinity
        return sums.view(*x.shape[:-1], -1) * (unit * self.scale)

    def _is_plain(self, x: Tensor) -> bool:
        """True if our kernel, which reads memory, may run on this input."""
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
        return self._derive("sums", lambda: self.weight.detach().sum(1, dtype=torch.int32))

    def _derive(self, name: str, derive: Callable[[], Tensor]) -> Tensor:
        """Return a tensor derived from the weight and its scale, anew if one of them has changed."""
        state = (*_state(self.weight), *_state(self.scale))
        if self._derived_from != state:
            self._derived.clear()
            self._derived_from = state
        if name not in self._derived:
            self._derived[name] = derive()
        return self._derived[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale.detach()
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:  # a scale keeps its precision in a bfloat16 model
            moved = torch.empty_like(self.scale, dtype=torch.float32)
            self.scale.data = moved if scale.is_meta else moved.copy_(scale)
        self._derived_from = None
        return self


_PROBE_SIZE, _PROBE_ROWS = 768, (1, 6, 96)


def _state(parameter: Tensor) -> tuple[int, int]:
    """Return what changes when a parameter does: its place in memory and its version."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


@lru_cache(maxsize=1)
def _multiplies_bytes() -> bool:
    """True if PyTorch's product of int8 matrices is exact here.

    On processors without int8 dot products oneDNN saturates sums of two products at 16 bits.
    """
    matrix = torch.full((_PROBE_SIZE, _PROBE_SIZE), _MOST, dtype=torch.int8)
    try:
        for rows in _PROBE_ROWS:
            sums = torch.ops.aten._int_mm(matrix[:rows], matrix.t())
            if not (sums == _MOST * _MOST * _PROBE_SIZE).all():
                return False
    except (AttributeError, RuntimeError):  # another version of PyTorch
        return False
    return True
