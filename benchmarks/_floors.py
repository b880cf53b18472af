"""Limits of the machine: its measured rates (conjoin.torch.cpu.rates), and the least time that a model can take."""

from dataclasses import dataclass
from typing import Any

from conjoin.spec import StackSpec
from conjoin.spec.work import stack_work
from conjoin.torch.cpu.rates import BYTES, Kind, Reading, product_gflops, read_memory

MEGABYTES = 256
"""Megabytes read per measurement: many times any cache."""


@dataclass(frozen=True, slots=True)
class Floors:
    """The highest rates on this machine, each the best of several implementations.

    Args:
        reading: Raced with the contenders, since the bandwidth of a shared machine may halve in a minute.
        gflops: Rate of a matrix product by dtype; None if this build does not support it.
    """

    reading: Reading
    gflops: dict[Kind, float | None]

    def record(self) -> dict[str, Any]:
        """Return the rates for a line of JSON."""
        return {"read_gb_s": self.reading.gb_s, "gflops": self.gflops}


def measure_floors() -> Floors:
    """Time every implementation, on the current number of threads."""
    return Floors(read_memory(MEGABYTES), {kind: product_gflops(kind) for kind in BYTES})


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

    def encode_s(self, floors: Floors, kind: Kind) -> float:
        """Return the seconds of encoding; int8 counts as bf16 if its rate is unknown."""
        rate = floors.gflops[kind] or floors.gflops["bf16"] or 0.0
        return self.encode_flop / rate / 1e9

    def step_s(self, floors: Floors, kind: Kind, read_gb_s: float) -> float:
        """Return the seconds per token: reading or computing, whichever takes longer."""
        rate = floors.gflops[kind] or floors.gflops["bf16"] or 0.0
        return max(self.step_bytes / read_gb_s, self.step_flop / rate) / 1e9


def least_work(encoder: StackSpec, decoder: StackSpec, kind: Kind, source: int, new_tokens: int) -> Least:
    """Count the work of one source (batch 1, greedy), with caches in the weights' dtype, the smallest in use."""
    encode, write = stack_work(encoder), stack_work(decoder)
    once = (encode.products + write.source_products) * source + encode.self_scores * source * source
    target = new_tokens / 2
    scores = target * write.self_scores + source * write.cross_scores
    return Least(
        encode_flop=2.0 * once,
        step_bytes=(write.weights + target * write.self_kept + source * write.cross_kept) * BYTES[kind],
        step_flop=2.0 * (write.products + scores),
    )
