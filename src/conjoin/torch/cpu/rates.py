"""The highest rates of this machine: reading memory, and matrix products by dtype, each the best of several ways."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.pages import weight_memory

Kind = Literal["fp32", "bf16", "int8"]
BYTES: dict[Kind, int] = {"fp32": 4, "bf16": 2, "int8": 1}

_COLUMNS = 4096
_ROWS, _INNER, _OUTER = 512, 1024, 4096
"""Sizes of a matrix product that reaches a machine's full rate."""
_RUNS, _SECONDS = 7, 1.0
"""Runs of each way, fewer where they take longer than this together."""
_MEGABYTES = 128
"""Read for a profile: more than most caches, and less than a small model takes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The fastest of several ways to read memory.

    Args:
        run: Reads the memory.
        size: Number of bytes read.
        gb_s: The best of several runs.
    """

    run: Callable[[], Any]
    size: int
    gb_s: float


@torch.inference_mode()
def read_memory(megabytes: int) -> Reading:
    """Time reading from the large pages that weights use, and from ordinary pages, on the current number of threads."""
    rows = megabytes * 2**20 // 4 // _COLUMNS
    big, x = weight_memory((rows, _COLUMNS), torch.float32).normal_(), torch.randn(1, _COLUMNS)
    small, half, y = big.clone(), big.to(torch.bfloat16), x.to(torch.bfloat16)
    ways = (
        (big.sum, big),
        (big.amax, big),
        (small.sum, small),
        (lambda: native.linear(x, big, None) if native.has("float32") else None, big),
        (_packed_linear(x, big), big),
        (_packed_linear(y, half), half),
    )
    sizes = {way: tensor.numel() * tensor.element_size() for way, tensor in ways if way and way() is not None}
    rates = {way: size / _best(way) / 1e9 for way, size in sizes.items()}
    best = max(rates, key=rates.__getitem__)
    return Reading(best, sizes[best], round(rates[best], 1))


@torch.inference_mode()
def product_gflops(kind: Kind) -> float | None:
    """Time a large matrix product on the current number of threads; None if this build of PyTorch has none."""
    seconds = [_best(way) for way in _products(kind)]
    return round(2 * _ROWS * _INNER * _OUTER / min(seconds) / 1e9, 1) if seconds else None


def read_gb_s() -> float:
    """Return the bandwidth for the current number of threads, measured once: some tenths of a second."""
    return _read_gb_s(torch.get_num_threads())


def gflops(kind: Kind) -> float:
    """Return the rate of matrix products, measured once per number of threads; int8 counts as bf16 where it is unknown.

    A product in more bits is a way to compute one in fewer.
    """
    wider: dict[Kind, tuple[Kind, ...]] = {
        "fp32": ("fp32",),
        "bf16": ("fp32", "bf16"),
        "int8": ("fp32", "bf16", "int8"),
    }
    return max(_gflops(each, torch.get_num_threads()) or 0.0 for each in wider[kind])


@lru_cache(maxsize=8)
def _read_gb_s(threads: int) -> float:
    return read_memory(_MEGABYTES).gb_s


@lru_cache(maxsize=24)
def _gflops(kind: Kind, threads: int) -> float | None:
    return product_gflops(kind)


def _products(kind: Kind) -> Iterator[Callable[[], Any]]:
    """Yield the ways to compute a product that work here."""
    x, w = torch.randn(_ROWS, _INNER), torch.randn(_OUTER, _INNER)
    if kind == "int8":
        x, w = ((t * 40).clamp(-127, 127).to(torch.int8) for t in (x, w))
        ways = (_plain_int8(x, w), _packed_int8(x, w))
    else:
        x, w = (t.to(torch.bfloat16 if kind == "bf16" else torch.float32) for t in (x, w))
        ways = (lambda: F.linear(x, w), _packed_linear(x, w))
    yield from (way for way in ways if way)


def _packed_linear(x: Tensor, w: Tensor) -> Callable[[], Any] | None:
    """Return oneDNN's product with a packed weight; None in a build without it."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
        run = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")  # noqa: E731
        run()
    except (AttributeError, RuntimeError):
        return None
    return run


def _plain_int8(x: Tensor, w: Tensor) -> Callable[[], Any] | None:
    transposed = w.T
    try:
        torch.ops.aten._int_mm(x, transposed)
    except (AttributeError, RuntimeError):
        return None
    return lambda: torch.ops.aten._int_mm(x, transposed)


def _packed_int8(x: Tensor, w: Tensor) -> Callable[[], Any] | None:
    """Return oneDNN's product of unsigned rows and a signed, packed matrix; None if it is missing or wrong."""
    rows, scale, zero = (x.to(torch.int16) + 128).to(torch.uint8), torch.ones(w.shape[0]), torch.zeros(w.shape[0])
    try:
        packed = torch.ops.onednn.qlinear_prepack(w, list(rows.shape))
        run = lambda: torch.ops.onednn.qlinear_pointwise(  # noqa: E731
            rows, 1.0, 128, packed, scale, zero.to(torch.int64), None, 1.0, 0, torch.float32, "none", [], ""
        )
        is_right = torch.allclose(run()[:4], x[:4].float() @ w.float().T)
    except (AttributeError, RuntimeError):
        return None
    return run if is_right else None


def _best(run: Callable[[], Any]) -> float:
    """Return the least seconds of several runs, not counting the first, unless that one took too long already."""
    seconds = [_time(run)]
    while len(seconds) <= _RUNS and sum(seconds) < _SECONDS:
        seconds.append(_time(run))
    return min(seconds[1:] or seconds)


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
