"""Where the time of `generate` goes, and how near that is to what the machine allows."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from conjoin.spec.work import stack_work
from conjoin.torch.cpu import rates
from conjoin.torch.cpu.clock import Clock, Phase, as_running, running

STEP_PHASES: tuple[Phase, ...] = ("products", "attention", "norms", "blocks", "head", "selection", "waiting")
_NAMES = {"norms": "norms and activations", "blocks": "blocks, not divided", "rest": "rest of the calls"}


@dataclass(frozen=True, slots=True)
class Floor:
    """The least seconds of each phase on this machine: bytes read / bandwidth, or operations / rate of products.

    Args:
        read_gb_s, gflops: Measured bandwidth, and rate of products in the weights' dtype.
    """

    encode: float
    first_step: float
    steps: float
    read_gb_s: float
    gflops: float


@dataclass(slots=True)
class Profile:
    """Seconds of `generate` by phase, while `model.profile()` is open. Printing it shows a table.

    Args:
        model: The EncoderDecoderModel.
        clock: Times the phases.
    """

    model: Any
    clock: Clock = field(repr=False)

    @property
    def calls(self) -> int:
        """Number of calls of `generate`."""
        return self.clock.calls

    @property
    def steps(self) -> int:
        """Number of decoding steps after the first of each call."""
        return self.clock.work.steps

    @property
    def seconds(self) -> float:
        """Seconds of all calls."""
        return sum(self.clock.seconds.values())

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, which add up to `seconds`: encode, first step, steps, rest."""
        spent = self.clock.seconds
        named = {name: spent.get(name, 0.0) for name in ("encode", "first step", "rest")}
        steps = sum(self.step_phases.values())
        return {"encode": named["encode"], "first step": named["first step"], "steps": steps, "rest": named["rest"]}

    @property
    def step_phases(self) -> dict[str, float]:
        """Seconds of the steps by phase, which add up to those of `steps`.

        products, attention, norms (and activations) and waiting (of threads for one another) are timed by the kernels,
        on their first thread; "blocks" is embedding and blocks as far as they do not. head: the logits. selection:
        processors, choice of tokens, order of beams, stopping criteria and streamers, those of the first step too.
        """
        return {name: self.clock.seconds.get(name, 0.0) for name in STEP_PHASES}

    def floor(self) -> Floor | None:
        """Return the least seconds of the phases; None if the model is not on a CPU. It takes a second once.

        Exact for the decoder's own passes. Those of an assistant are not counted.
        """
        if self.model.device.type != "cpu":
            return None
        work, spec = self.clock.work, self.model.spec
        encoder, decoder = stack_work(spec.encoder), stack_work(spec.decoder)
        kind = _kind(self.model.decoder)
        read, rate = rates.read_gb_s() * 1e9, rates.gflops(kind) * 1e9
        weights = decoder.weights * rates.BYTES[kind]
        encode = work.source_tokens * encoder.products + work.source_pairs * encoder.self_scores
        first = work.source_tokens * decoder.source_products + work.first_tokens * decoder.products
        keys = work.self_keys * decoder.self_kept + work.cross_keys * decoder.cross_kept
        scores = work.self_keys * decoder.self_scores + work.cross_scored * decoder.cross_scores
        return Floor(
            encode=2 * encode / rate,
            first_step=max(2 * first / rate, self.calls * weights / read),
            steps=max(
                (work.steps * weights + keys * work.cache_bytes) / read,
                2 * (work.step_tokens * decoder.products + scores) / rate,
            ),
            read_gb_s=read / 1e9,
            gflops=rate / 1e9,
        )

    def __str__(self) -> str:
        """Return a table of phases: milliseconds, share of the calls, milliseconds per step and share of the floor."""
        floor = self.floor()
        least = {} if floor is None else {"encode": floor.encode, "first step": floor.first_step, "steps": floor.steps}
        lines: list[tuple[str, ...]] = [("phase", "ms", "share", "ms/step", "of its floor")]
        for name, seconds in self.phases.items():
            lines.append(self._line(name, seconds, least.get(name)))
            if name == "steps":
                lines += [self._line(f"  {part}", spent) for part, spent in self.step_phases.items() if spent]
        columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join((line[0].ljust(columns[0]), *map(str.rjust, line[1:], columns[1:]))).rstrip() for line in lines
        ]
        return "\n".join((self._head(), *table, *([] if floor is None else [_foot(floor)])))

    def _head(self) -> str:
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        count = torch.get_num_threads()
        threads = "" if self.model.device.type != "cpu" else ", 1 thread" if count == 1 else f", {count} threads"
        return f"{calls} of generate, {self.steps} steps, {self.seconds * 1e3:.1f} ms{threads}"

    def _line(self, name: str, seconds: float, floor: float | None = None) -> tuple[str, ...]:
        label = name.strip()
        is_step = label in STEP_PHASES or label == "steps"
        return (
            name.replace(label, _NAMES.get(label, label)),
            f"{seconds * 1e3:.1f}",
            f"{seconds / self.seconds:.0%}" if self.seconds else "",
            f"{seconds * 1e3 / self.steps:.3f}" if is_step and self.steps else "",
            f"{floor / seconds:.0%}" if floor is not None and seconds else "",
        )


def _foot(floor: Floor) -> str:
    return (
        f"floor: {floor.read_gb_s:.0f} GB/s read, {floor.gflops:.0f} GFLOP/s of products, as measured on this machine"
    )


def _kind(decoder: Any) -> rates.Kind:
    """Return the dtype of most weights."""
    kinds: dict[torch.dtype, rates.Kind] = {torch.bfloat16: "bf16", torch.float16: "bf16", torch.int8: "int8"}
    return kinds.get(decoder.blocks[0].mlp.up.weight.dtype, "fp32")


def open_profile(model: Any) -> Profile:
    """Return a new profile of a model."""
    waits = model.device.type == "cuda"
    return Profile(model, Clock(model.decoder, _cuda_time if waits else time.perf_counter))


@contextmanager
def profiled_call(model: Any) -> Generator[None]:
    """Time a call of `generate` where the model's profile is open, or is to be printed (CONJOIN_PROFILE=1)."""
    clock = running()
    if clock is not None:
        belongs = clock.decoder is model.decoder or clock.is_in_call
        with clock.call() if belongs else as_running(None):
            yield
    elif os.environ.get("CONJOIN_PROFILE", "0") in ("", "0"):
        yield
    else:
        profile = open_profile(model)
        with profile.clock.call():
            yield
        print(profile, file=sys.stderr)


def _cuda_time() -> float:
    """Return the time after all work in the queue of the GPU."""
    torch.cuda.synchronize()
    return time.perf_counter()
