"""The linear layer of every brick: PyTorch's, with the faster of the CPU's two libraries where no gradient is wanted.

`F.linear` in float32 goes to MKL. oneDNN, in the same wheel, is faster where several rows meet one matrix (1.2 to 2
times on AMD Zen 4 for 2 to 32 rows, as fast for 1 row), so it is tried once per process and used where it wins.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_PROBE_ROWS, _PROBE_SIZE, _PROBE_MATRICES = 4, 768, 8
"""Larger than a core's cache together, as a model's layers are."""


class Linear(nn.Linear):
    """y = x W^T + b; W is (out, in)."""

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Map every vector."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "*lead m"]:
    """F.linear, through oneDNN where that is faster and nothing needs a gradient."""
    if _plain_cpu_call(x, weight) and _onednn_wins():
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _plain_cpu_call(x: Tensor, weight: Tensor) -> bool:
    """Only ordinary float32 tensors in plain inference: the operator knows no gradient, autocast or subclass."""
    return (
        x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.numel() > 0
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(x, weight, bias, "none", [], "")


@lru_cache(maxsize=1)
def _onednn_wins() -> bool:
    """Whether oneDNN is there, right, and faster than F.linear on this machine; measured once, in milliseconds."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBE_ROWS, _PROBE_SIZE, generator=generator)
    shape = (_PROBE_MATRICES, _PROBE_SIZE, _PROBE_SIZE)
    matrices = torch.randn(shape, generator=generator).unbind()
    try:
        if not torch.allclose(_onednn(x, matrices[0], None), F.linear(x, matrices[0]), rtol=1e-4, atol=1e-3):
            return False
    except (RuntimeError, TypeError):  # another build's operator takes other arguments
        return False
    ours, theirs = float("inf"), float("inf")
    for _ in range(3):
        ours = min(ours, _seconds(lambda matrix: _onednn(x, matrix, None), matrices))
        theirs = min(theirs, _seconds(lambda matrix: F.linear(x, matrix), matrices))
    return ours < theirs


def _seconds(run: Callable[[Tensor], Tensor], matrices: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    for matrix in matrices:
        run(matrix)
    return time.perf_counter() - start
