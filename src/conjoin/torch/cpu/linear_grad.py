"""The linear layer with gradients on a CPU, each of whose products is computed by the fastest library.

y = x W^T + b, dx = dy W and dW = dy^T x are all a B^T for some a and B. `F.linear` uses MKL. oneDNN reads B in place,
transposed or not, but copies a transposed a, which costs more than it gains: dW has a kernel of ours.
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
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from conjoin.native.build import processor
from conjoin.native.place import cache_folder
from conjoin.torch.cpu import native

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A function of a, B and a bias that returns a B^T + bias."""
Name = Literal["y", "dx", "dw"]

_PROBE_ROWS, _PROBE_SIZES, _PROBE_ROUNDS = 512, (384, 768), 5
_LEAST_GAIN = 1.03
"""A product must be this many times faster than PyTorch's to replace it."""


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
        return cast(Any, _Linear).apply(x, weight, bias)
    return F.linear(x, weight, bias)


def onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return a B^T + bias, computed by oneDNN. The operator is private to PyTorch: call this only after trying it."""
    operator: Any = torch.ops.mkldnn._linear_pointwise
    return operator(a, b, bias, "none", [], "")


def has_onednn() -> bool:
    """True if PyTorch was built with oneDNN and has its operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True, slots=True)
class Products:
    """The products that replace MKL's where True: oneDNN's for y and dx, our kernel for dW."""

    y: bool = False
    dx: bool = False
    dw: bool = False

    def forward(
        self, x: Float[Tensor, "rows n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None
    ) -> Float[Tensor, "rows m"]:
        """Return x W^T + bias."""
        return _product(self.y)(x, weight, bias)

    def to_input(self, dy: Float[Tensor, "rows m"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "rows n"]:
        """Return dy W."""
        return _product(self.dx)(dy, weight.t(), None)

    def to_weight(self, dy: Float[Tensor, "rows m"], x: Float[Tensor, "rows n"]) -> Float[Tensor, "m n"]:
        """Return dy^T x."""
        return _dw_by_kernel(dy.t(), x.t(), None) if self.dw else F.linear(dy.t(), x.t())


def _product(by_onednn: bool) -> Product:
    return onednn if by_onednn else F.linear


def _dw_by_kernel(a: Float[Tensor, "m rows"], b: Float[Tensor, "n rows"], _: Tensor | None) -> Float[Tensor, "m n"]:
    """Return a B^T of two transposed views, computed by our kernel."""
    return native.weight_gradient(a.t().contiguous(), b.t().contiguous())


class _Linear(torch.autograd.Function):
    """F.linear. A gradient that will itself be differentiated is computed with PyTorch's own operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        ctx.shape = x.shape
        y = fastest_products().forward(x.reshape(-1, x.shape[-1]).contiguous(), weight, bias)
        return torch.ops.aten._unsafe_view(y, [*x.shape[:-1], len(weight)])  # a view could not be modified in place

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


_restored: "list[Products]" = []
"""The products of the checkpoint from which training resumed, in place of those measured here; empty otherwise."""


def use_products(products: Products | None) -> list[str]:
    """Use the products of another process, so that results are bitwise equal; None goes back to measured ones.

    Returns:
        The names of products that this machine cannot compute so; they go to MKL.
    """
    alternatives = _alternatives()
    wanted = [name for name, value in asdict(products or Products()).items() if value]
    _restored[:] = [] if products is None else [Products(**{name: True for name in wanted if name in alternatives})]
    fastest_products.cache_clear()
    return [name for name in wanted if name not in alternatives]


@lru_cache(maxsize=1)
def fastest_products() -> Products:
    """Return the products that are computed correctly and faster without MKL on this machine.

    They are measured once per machine and stored in the user's cache, since processes with different products round
    differently. Checkpoints store them too, so that resumed training is bitwise equal even if the cache is lost.
    """
    if _restored:
        return _restored[0]
    file = _cache_file()
    if file is None:
        return _measured()
    if not file.exists():
        _write_first(file, _measured())
    try:
        stored, here = asdict(as_products(json.loads(file.read_text()))), _alternatives()
        return Products(**{name: value and name in here for name, value in stored.items()})
    except (OSError, ValueError, RecursionError):
        return Products()


def as_products(values: Any) -> Products:
    """Return the products from the dict that `asdict` returns.

    Raises:
        ValueError: the dict is malformed.
    """
    if not isinstance(values, dict) or not all(isinstance(value, bool) for value in values.values()):  # pyright: ignore
        raise ValueError("expected true or false for each of y, dx and dw")
    try:
        return Products(**values)  # pyright: ignore
    except TypeError:
        raise ValueError("expected y, dx and dw") from None


def _cache_file() -> Path | None:
    """Return the file of the measured products, whose name depends on all that they depend on; None without a cache."""
    try:
        level = os.environ.get("CONJOIN_ISA", "")
        versions = (torch.__version__, str(torch.get_num_threads()), *_alternatives())
        facts = (processor(), level, *versions, *asdict(Products()))
        return cache_folder() / f"products-{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:16]}.json"
    except OSError:
        return None


def _write_first(file: Path, products: Products) -> None:
    """Write the measured products, unless another process has written them already."""
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(asdict(products)))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, file)
        scratch.unlink()
    except OSError:
        return


def _measured() -> Products:
    """Time MKL's products and the alternatives in turns, at the sizes of training."""
    alternatives = _alternatives()
    generator = torch.Generator().manual_seed(0)
    seconds = {name: [0.0, 0.0] for name in alternatives}
    for size in _PROBE_SIZES:
        x, dy = torch.randn(2, _PROBE_ROWS, size, generator=generator, dtype=torch.float32, device="cpu").unbind()
        weight = torch.randn(size, size, generator=generator, dtype=torch.float32, device="cpu")
        operands = {"y": (x, weight), "dx": (dy, weight.t()), "dw": (dy.t(), x.t())}
        for name, product in list(alternatives.items()):
            if not is_right(product, *operands[name]):
                del alternatives[name]
                continue
            for way, time_s in enumerate(_seconds(product, *operands[name])):
                seconds[name][way] += time_s
    return Products(**{name: seconds[name][0] > _LEAST_GAIN * seconds[name][1] for name in alternatives})


def _alternatives() -> dict[Name, Product]:
    """Return the alternatives to MKL that this machine has."""
    alternatives: dict[Name, Product] = {}
    if has_onednn():
        alternatives |= {"y": onednn, "dx": onednn}
    if native.has("float32"):
        alternatives["dw"] = _dw_by_kernel
    return alternatives


def is_right(product: Product, a: Tensor, b: Tensor, *, rtol: float = 1e-4, atol: float = 1e-3) -> bool:
    """True if a product runs on this machine and returns a B^T."""
    try:
        return torch.allclose(product(a, b, None).float(), F.linear(a.float(), b.float()), rtol=rtol, atol=atol)
    except (RuntimeError, TypeError):  # the operator of another PyTorch build has other parameters
        return False


def _seconds(alternative: Product, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the shortest time in seconds of PyTorch's product and of the alternative."""
    best = [float("inf"), float("inf")]
    for _ in range(_PROBE_ROUNDS):
        for way, product in enumerate((F.linear, alternative)):
            start = time.perf_counter()
            product(a, b, None)
            best[way] = min(best[way], time.perf_counter() - start)
    return best[0], best[1]
