"""The linear layer where gradients are wanted on a CPU: each of its products by the faster of two libraries.

y = x W^T + b, dx = dy W and dW = dy^T x are all a B^T of some a and B. `F.linear` gives them to MKL; oneDNN takes B as
it lies, transposed or not, but copies an a that is transposed, which costs more than it gains: dW stays with MKL.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.native.build import cache_folder, processor

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""a, B and a bias: a B^T + bias."""

_PROBE_ROWS, _PROBE_SIZES, _PROBE_ROUNDS = 512, (384, 768), 5
_LEAST_GAIN = 1.03
"""What is no faster than this stays with PyTorch."""


def linear_with_gradient(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "*lead m"]:
    """F.linear and its gradients, through oneDNN where that is faster."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if _is_trained_float32(x, weight, given) and fastest_products() != Products():
        return _Linear.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return F.linear(x, weight, bias)


def ordinary(*tensors: Tensor) -> bool:
    """Whether autograd functions of our own may take these: no subclass, compiler, tracer or transform is about."""
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def _is_trained_float32(x: Tensor, weight: Tensor, given: tuple[Tensor, ...]) -> bool:
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
        and any(tensor.requires_grad for tensor in given)
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and weight.is_contiguous()
        and ordinary(*given)
    )


def onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a B^T + bias by oneDNN; the operator is private, so whoever calls this has tried it."""
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(a, b, bias, "none", [], "")


@dataclass(frozen=True, slots=True)
class Products:
    """Which of them go to oneDNN."""

    y: bool = False
    dx: bool = False

    def forward(
        self, x: Float[Tensor, "rows n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None
    ) -> Float[Tensor, "rows m"]:
        """x W^T + bias."""
        return _product(self.y)(x, weight, bias)

    def to_input(self, dy: Float[Tensor, "rows m"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "rows n"]:
        """dy W."""
        return _product(self.dx)(dy, weight.t(), None)

    def to_weight(self, dy: Float[Tensor, "rows m"], x: Float[Tensor, "rows n"]) -> Float[Tensor, "m n"]:
        """dy^T x."""
        return F.linear(dy.t(), x.t())


def _product(by_onednn: bool) -> Product:
    return onednn if by_onednn else F.linear


class _Linear(torch.autograd.Function):
    """F.linear; where its gradient is to be differentiated again, that is made of PyTorch's own operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        ctx.shape = x.shape
        y = fastest_products().forward(x.reshape(-1, x.shape[-1]).contiguous(), weight, bias)
        return torch.ops.aten._unsafe_view(y, [*x.shape[:-1], len(weight)])  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        products = Products() if torch.is_grad_enabled() else fastest_products()
        rows = dy.reshape(-1, dy.shape[-1]).contiguous()
        return (
            None if weight is None else products.to_input(rows, weight).view(ctx.shape),
            None if x is None else products.to_weight(rows, x.reshape(-1, x.shape[-1]).contiguous()),
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


@lru_cache(maxsize=1)
def fastest_products() -> Products:
    """Which products oneDNN computes, rightly and faster, on this machine.

    Measured once per machine and kept in the user's cache: two processes that chose differently would round
    differently, and a run that is resumed must go on to the bit.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return Products()
    file = _kept()
    if file is None:
        return _measured()
    if not file.exists():
        _write_first(file, _measured())
    try:
        return Products(**json.loads(file.read_text()))
    except (OSError, TypeError, ValueError):
        return Products()


def _kept() -> Path | None:
    """The file of what was measured; its name changes with whatever the outcome depends on."""
    try:
        facts = (processor(), torch.__version__, str(torch.get_num_threads()), *asdict(Products()))
        return cache_folder() / f"products-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:16]}.json"
    except OSError:
        return None


def _write_first(file: Path, products: Products) -> None:
    """Write what was measured, unless another process has come before."""
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(asdict(products)))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, file)
        scratch.unlink()
    except OSError:
        return


def _measured() -> Products:
    """Time the products at sizes of training, both ways in turn."""
    generator = torch.Generator().manual_seed(0)
    gains = {"y": [0.0, 0.0], "dx": [0.0, 0.0]}
    for size in _PROBE_SIZES:
        x, dy = torch.randn(2, _PROBE_ROWS, size, generator=generator).unbind()
        weight = torch.randn(size, size, generator=generator)
        for name, a, b in (("y", x, weight), ("dx", dy, weight.t())):
            if not _is_right(a, b):
                return Products()
            for way, seconds in enumerate(_seconds(a, b)):
                gains[name][way] += seconds
    return Products(**{name: plain > _LEAST_GAIN * onednn for name, (plain, onednn) in gains.items()})


def _is_right(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.allclose(onednn(a, b, None), F.linear(a, b), rtol=1e-4, atol=1e-3)
    except (RuntimeError, TypeError):  # another build's operator takes other arguments
        return False


def _seconds(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The best of several calls of PyTorch's way and of oneDNN."""
    best = [float("inf"), float("inf")]
    for _ in range(_PROBE_ROUNDS):
        for way, product in enumerate((F.linear, onednn)):
            start = time.perf_counter()
            product(a, b, None)
            best[way] = min(best[way], time.perf_counter() - start)
    return best[0], best[1]
