"""Linear layers in 8 bits: weights are rounded once, with a scale per output; activations per call, with one per row.

The scheme is called W8A8, per channel and per token, symmetric (Dettmers et al. 2022, arXiv:2208.07339, section 2.1,
without its outlier columns). Embedding tables, norms and biases keep their dtype.
"""

from collections.abc import Callable
from typing import Self

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.cpu.native.checks import is_matrix, require_numbers
from conjoin.torch.cpu.native.kernels import are_units

_MOST = 127


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
        self._sums: Tensor | None = None
        self._summed: tuple[int, int] | None = None

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Return the layer's output, which has no gradient."""
        if self._native(input):
            return native.linear_int8(input, self.weight, self.scale, self.row_sums(), self.bias)
        require_numbers(self.weight, input)
        x = input.detach().float()
        most = x.abs().amax(-1, keepdim=True)
        rounded = torch.where(most > 0, x * most.new_tensor(_MOST).div(most), 0.0).round()
        wide = F.linear(rounded, self.weight.float()) * (most / _MOST * self.scale)
        return (wide if self.bias is None else wide + self.bias).to(input.dtype)

    def _native(self, x: Tensor) -> bool:
        return (
            x.is_cpu
            and x.dtype in (torch.float32, torch.bfloat16)
            and is_eager(x)
            and x.numel() > 0
            and x.dim() > 0
            and is_matrix(self.weight, x.shape[-1], torch.int8)
            and are_units(self.weight, self.scale, self.row_sums(), self.bias, x.dtype)
            and native.has("int8")
        )

    def beside_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that quantisation added: the scale."""
        return [self.get_parameter("scale")]

    def row_sums(self) -> Tensor:
        """Return the int32 [m] sums that the kernel subtracts, times 128, because it adds 128 to x."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._sums is None or self._summed != (self.weight.data_ptr(), version):
            self._sums = self.weight.sum(1, dtype=torch.int32)
            self._summed = (self.weight.data_ptr(), version)
        return self._sums

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale.detach()
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:  # a scale keeps its precision in a bfloat16 model
            moved = torch.empty_like(self.scale, dtype=torch.float32)
            self.scale.data = moved if scale.is_meta else moved.copy_(scale)
        self._sums = None
        return self
