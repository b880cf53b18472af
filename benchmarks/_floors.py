"""Limits of the machine: measured bandwidth and matrix rates, and the least time that a model can take."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from conjoin.spec import StackSpec
from conjoin.spec.parameters import stack_parameters
from conjoin.torch.cpu import native
from conjoin.torch.cpu.pages import weight_memory

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
MEGABYTES = 256
"""Megabytes read per measurement: many times any cache."""

ROWS, INNER, OUTER = 1024, 1024, 4096
"""Sizes of a matrix product that reaches a machine's full rate."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The fastest of several ways to read memory.

    Args:
        run: Reads the memory; raced with the contenders, since the bandwidth of a shared machine may halve in a minute.
        size: Number of bytes read.
        gb_s: The best of several runs at the start.
    """

    run: Callable[[], Any]
    size: int
    gb_s: float


@dataclass(frozen=True, slots=True)
class Floors:
    """The highest rates on this machine, each the best of several implementations.

    Args:
        gflops: Rate of a matrix product by dtype; None if this build does not support it.
    """

    reading: Reading
    gflops: dict[str, float | None]

    def record(self) -> dict[str, Any]:
        """Return the rates for a line of JSON."""
        return {"read_gb_s": self.reading.gb_s, "gflops": self.gflops}


def measure_floors() -> Floors:
    """Time every implementation, on the current number of threads."""
    with torch.inference_mode():
        rates = {"fp32": _fp32_rate(), "bf16": _bf16_rate(), "int8": _int8_rate()}
        return Floors(_reading(), {kind: rate and round(rate, 1) for kind, rate in rates.items()})


def _reading() -> Reading:
    """Time reading from the large pages that weights use, and from ordinary pages."""
    rows = MEGABYTES * 2**20 // 4 // 4096
    big, x = weight_memory((rows, 4096), torch.float32).normal_(), torch.randn(1, 4096)
    small, half, y = torch.randn(rows, 4096), big.to(torch.bfloat16), x.to(torch.bfloat16)
    ways = (
        (big.sum, big),
        (big.amax, big),
        (small.sum, small),
        (lambda: native.linear(x, big, None), big) if native.has("float32") else (None, big),
        (_packed_linear(x, big), big),
        (_packed_linear(y, half), half),
    )
    sizes = {way: tensor.numel() * tensor.element_size() for way, tensor in ways if way}
    rates = {way: size / _best(way, 7) / 1e9 for way, size in sizes.items()}
    best = max(rates, key=rates.__getitem__)
    return Reading(best, sizes[best], round(rates[best], 1))


def _fp32_rate() -> float:
    x, w = torch.randn(ROWS, INNER), torch.randn(OUTER, INNER)
    return _rate(lambda: F.linear(x, w), _packed_linear(x, w))


def _bf16_rate() -> float:
    x, w = torch.randn(ROWS, INNER).to(torch.bfloat16), torch.randn(OUTER, INNER).to(torch.bfloat16)
    return _rate(lambda: F.linear(x, w), _packed_linear(x, w))


def _int8_rate() -> float | None:
    w = torch.randint(-127, 128, (OUTER, INNER), dtype=torch.int8)
    x = torch.randint(-127, 128, (ROWS, INNER), dtype=torch.int8)
    ways = [way for way in (_plain_int8(x, w), _packed_int8(x, w)) if way]
    return _rate(*ways) if ways else None


def _packed_linear(x: torch.Tensor, w: torch.Tensor) -> Callable[[], Any] | None:
    """Return oneDNN's product with a packed weight; None in a build without it."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
        run = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")  # noqa: E731
        run()
    except (AttributeError, RuntimeError):
        return None
    return run


def _plain_int8(x: torch.Tensor, w: torch.Tensor) -> Callable[[], Any] | None:
    other = w.T
    try:
        torch.ops.aten._int_mm(x, other)
    except (AttributeError, RuntimeError):
        return None
    return lambda: torch.ops.aten._int_mm(x, other)


def _packed_int8(x: torch.Tensor, w: torch.Tensor) -> Callable[[], Any] | None:
    """Return oneDNN's product of unsigned rows and a signed, packed matrix; None if it is missing or wrong."""
    rows, scale, zero = (x.to(torch.int16) + 128).to(torch.uint8), torch.ones(w.shape[0]), torch.zeros(w.shape[0])
    try:
        packed = torch.ops.onednn.qlinear_prepack(w, list(rows.shape))
        run = lambda: torch.ops.onednn.qlinear_pointwise(  # noqa: E731
            rows, 1.0, 128, packed, scale, zero.to(torch.int64), None, 1.0, 0, torch.float32, "none", [], ""
        )
        right = torch.allclose(run()[:4], x[:4].float() @ w.float().T)
    except (AttributeError, RuntimeError):
        return None
    return run if right else None


def _rate(*ways: Callable[[], Any] | None) -> float:
    return 2 * ROWS * INNER * OUTER / min(_best(way, 7) for way in ways if way) / 1e9


def _best(run: Callable[[], Any], times: int) -> float:
    """Return the least seconds of several runs, not counting the first."""
    run()
    seconds: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True, slots=True)
class Least:
    """The least work of one source, in bytes read and operations.

    Args:
        encode_flop: Operations of the encoder, and of keys and values of all cross-attention.
        step_bytes: Bytes read per generated token: all matrices of the decoder, and both caches at half of the target.
        step_flop: Operations per generated token.
    """

    encode_flop: float
    step_bytes: float
    step_flop: float

    def encode_s(self, floors: Floors, kind: str) -> float:
        """Return the seconds of encoding; int8 counts as bf16 if its rate is unknown."""
        rate = floors.gflops[kind] or floors.gflops["bf16"] or 0.0
        return self.encode_flop / rate / 1e9

    def step_s(self, floors: Floors, kind: str, read_gb_s: float) -> float:
        """Return the seconds per token: reading or computing, whichever takes longer."""
        rate = floors.gflops[kind] or floors.gflops["bf16"] or 0.0
        return max(self.step_bytes / read_gb_s, self.step_flop / rate) / 1e9


def least_work(encoder: StackSpec, decoder: StackSpec, kind: str, source: int, new_tokens: int) -> Least:
    """Count the work of one source (batch 1, greedy), with caches in the weights' dtype, the smallest in use."""
    width = BYTES[kind]
    once = _matrices(encoder, every=True)
    cross = sum(size for name, size in _named(decoder) if _is_cross_source(name))
    attention = sum(4 * source * source * _queries(block.self_attn.attention) for block in encoder.blocks)
    read = _matrices(decoder, every=False)
    cached = sum((new_tokens / 2 if cache == "self" else source) * 2 * size for cache, size in _cache_sizes(decoder))
    return Least(
        encode_flop=2.0 * (once + cross) * source + attention,
        step_bytes=(read + cached) * width,
        step_flop=2.0 * (read + cached),
    )


def _named(stack: StackSpec) -> list[tuple[str, int]]:
    """Return the matrices of linear layers and their sizes; a tied head is the token embedding."""
    sizes = [
        (name, p.shape[0] * p.shape[1])
        for name, p in stack_parameters(stack).items()
        if p.kind == "linear" and not name.startswith("relative_bias")
    ]
    if stack.head and stack.head.tied:
        sizes.append(("head.vocab.weight", stack.head.vocab_size * stack.head.size))
    return sizes


def _matrices(stack: StackSpec, *, every: bool) -> int:
    return sum(size for name, size in _named(stack) if every or not _is_cross_source(name))


def _is_cross_source(name: str) -> bool:
    return name.endswith(("cross_attn.k.weight", "cross_attn.v.weight"))


def _queries(attention: Any) -> int:
    return attention.num_heads * attention.head_size


def _cache_sizes(stack: StackSpec) -> list[tuple[str, int]]:
    sizes: list[tuple[str, int]] = []
    for block in stack.blocks:
        own = block.self_attn.attention
        sizes.append(("self", own.num_kv_heads * own.head_size))
        if block.cross_attn:
            other = block.cross_attn.attention
            sizes.append(("cross", other.num_kv_heads * other.head_size))
    return sizes
