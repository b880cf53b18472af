"""Learning rates by step and part of the model: pure functions, so that checkpoints need not hold their state."""

import math
from collections.abc import Callable

from conjoin.join import part_of
from conjoin.training.settings.arguments import Schedule, TrainingArguments

Factor = Callable[[float], float]


def schedule(kind: Schedule, warmup: int, total: int) -> Factor:
    """Return a function from the step, which counts from 1, to the factor of the learning rate.

    All but "noam" are transformers' schedules of the same names. With a warmup, the factor of their first step is 0.
    "constant" honours its warmup, which transformers silently ignores. "noam" is
    min(step^-0.5, step * warmup^-1.5) (Vaswani et al. 2017, arXiv:1706.03762, 5.3; Liu & Lapata 2019).
    """
    if kind == "noam":
        return lambda step: min(step**-0.5, step * max(warmup, 1) ** -1.5)
    curves: dict[str, Factor] = {
        "constant": lambda done: 1.0,
        "constant_with_warmup": lambda done: 1.0,
        "linear": lambda done: max(0.0, (total - done) / max(1, total - warmup)),
        "cosine": lambda done: max(0.0, 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))),
        "inverse_sqrt": lambda done: _inverse_sqrt(done, warmup),
    }
    curve = curves[kind]
    return lambda step: (step - 1) / max(1, warmup) if step - 1 < warmup else curve(step - 1)


UNWARMED_TIMESCALE = 10_000
"""transformers' default timescale of "inverse_sqrt" without warmup."""


def _inverse_sqrt(done: float, warmup: int) -> float:
    timescale = warmup or UNWARMED_TIMESCALE
    return 1.0 / math.sqrt((done + timescale - warmup) / timescale)


def group_of(name: str) -> str:
    """Return the part of the model whose learning rate a parameter uses; shared parameters belong to the encoder."""
    part = part_of(name)
    return "cross_attention" if part == "decoder.cross_attention" else part.partition(".")[0]


def group_rate(arguments: TrainingArguments, group: str, total: int) -> Factor:
    """Return the learning rate of one part of the model at each step."""
    rate = arguments.of_group("learning_rate", group)
    warmup = arguments.of_group("warmup_steps", group)
    steps = math.ceil(total * warmup) if 0 < warmup < 1 else int(warmup)
    factor = schedule(arguments.lr_scheduler_type, steps, total)
    return lambda step: rate * factor(step)
