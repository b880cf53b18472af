"""The linear layer where gradients are wanted on a CPU: each of its products by whoever is fastest.

y = x W^T + b, dx = dy W and dW = dy^T x are all a B^T of some a and B. `F.linear` gives them to MKL; oneDNN takes B as
it lies, transposed or not, but copies an a that is transposed, which costs more than it gains: dW has a kernel.
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
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from conjoin.native.build import processor
from conjoin.native.place import cache_folder
from conjoin.torch.cpu import native

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""a, B and a bias: a B^T + bias."""
Name = Literal["y", "dx", "dw"]

_PROBE_ROWS, _PROBE_SIZES, _PROBE_ROUNDS = 512, (384, 768), 5
_LEAST_GAIN = 1.03
"""What is no faster than this stays with PyTorch."""


def trained_linear(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None
) -> Float[Tensor, "*lead m"]:
    """Return F.linear(x, weight, bias) with gradients, each product by the faster library; `mode_of` is "training"."""
    is_float32 = x.dtype == weight.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32)
    if (
        is_float32
        and not torch.is_autocast_enabled("cpu")
        and weight.is_contiguous()
        and fastest_products() != Products()
    ):
        return _Linear.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return F.linear(x, weight, bias)


def onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a B^T + bias by oneDNN; the operator is private, so whoever calls this has tried it."""
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(a, b, bias, "none", [], "")


def has_onednn() -> bool:
    """Whether PyTorch was built with oneDNN and its operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True, slots=True)
class Products:
    """Which of them do not go to MKL: y and dx to oneDNN, dW to the kernel."""

    y: bool = False
    dx: bool = False
    dw: bool = False

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
        return _turned(dy.t(), x.t(), None) if self.dw else F.linear(dy.t(), x.t())


def _product(by_onednn: bool) -> Product:
    return onednn if by_onednn else F.linear


def _turned(a: Float[Tensor, "m rows"], b: Float[Tensor, "n rows"], _: Tensor | None) -> Float[Tensor, "m n"]:
    """a B^T, where both are views of what lies the other way."""
    return native.weight_gradient(a.t().contiguous(), b.t().contiguous())


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


_brought: "list[Products]" = []
"""What a run that goes on brought with it, in place of what was measured here; empty otherwise."""


def use_products(products: Products | None) -> list[str]:
    """Let this process compute as another did, to the bit; None ends that.

    Returns:
        The products for which this machine lacks the way; they go to MKL.
    """
    others = _others()
    wanted = [name for name, value in asdict(products or Products()).items() if value]
    _brought[:] = [] if products is None else [Products(**{name: True for name in wanted if name in others})]
    fastest_products.cache_clear()
    return [name for name in wanted if name not in others]


@lru_cache(maxsize=1)
def fastest_products() -> Products:
    """Which products others than MKL compute, rightly and faster, on this machine.

    Measured once per machine and kept in the user's cache: two processes that chose differently would round
    differently. A checkpoint holds the choice, so that a run goes on to the bit whatever became of the cache.
    """
    if _brought:
        return _brought[0]
    file = _kept()
    if file is None:
        return _measured()
    if not file.exists():
        _write_first(file, _measured())
    try:
        return as_products(json.loads(file.read_text()))
    except (OSError, ValueError, RecursionError):
        return Products()


def as_products(values: Any) -> Products:
    """Read what `asdict` gives.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(values, dict) or not all(isinstance(value, bool) for value in values.values()):  # pyright: ignore
        raise ValueError("expected true or false for each of y, dx and dw")
    try:
        return Products(**values)  # pyright: ignore
    except TypeError:
        raise ValueError("expected y, dx and dw") from None


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
    others = _others()
    generator = torch.Generator().manual_seed(0)
    seconds = {name: [0.0, 0.0] for name in others}
    for size in _PROBE_SIZES:
        x, dy = torch.randn(2, _PROBE_ROWS, size, generator=generator).unbind()
        weight = torch.randn(size, size, generator=generator)
        given = {"y": (x, weight), "dx": (dy, weight.t()), "dw": (dy.t(), x.t())}
        for name, other in list(others.items()):
            if not is_right(other, *given[name]):
                del others[name]
                continue
            for way, taken in enumerate(_seconds(other, *given[name])):
                seconds[name][way] += taken
    return Products(**{name: seconds[name][0] > _LEAST_GAIN * seconds[name][1] for name in others})


def _others() -> dict[Name, Product]:
    """What this machine has beside MKL."""
    found: dict[Name, Product] = {}
    if has_onednn():
        found |= {"y": onednn, "dx": onednn}
    if native.has("float32"):
        found["dw"] = _turned
    return found


def is_right(product: Product, a: Tensor, b: Tensor, *, rtol: float = 1e-4, atol: float = 1e-3) -> bool:
    """Whether a product runs here and gives a B^T."""
    try:
        return torch.allclose(product(a, b, None).float(), F.linear(a.float(), b.float()), rtol=rtol, atol=atol)
    except (RuntimeError, TypeError):  # another build's operator takes other arguments
        return False


def _seconds(other: Product, a: Tensor, b: Tensor) -> tuple[float, float]:
    """The best of several calls of PyTorch's way and of the other."""
    best = [float("inf"), float("inf")]
    for _ in range(_PROBE_ROUNDS):
        for way, product in enumerate((F.linear, other)):
            start = time.perf_counter()
            product(a, b, None)
            best[way] = min(best[way], time.perf_counter() - start)
    return best[0], best[1]
