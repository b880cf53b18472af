"""What a program generated, looked at outside of it: an error where a source could not go on, and the results."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from conjoin.functional.ops import Array, Ops
from conjoin.functional.requests import DecodeSettings
from conjoin.functional.sample import Written
from conjoin.generation import DeadEnd, dead_end_error, tell_fewer


class Results(NamedTuple):
    """Results of all sources, one after another.

    Args:
        sequences: [R, t].
        scores: [R], of beams: log-probability / length ** length_penalty.
        per_source: [B], how many results each source has; None where all have as many as were asked for.
    """

    sequences: Array
    scores: Array | None = None
    per_source: Array | None = None


def check_written(fault: Any, settings: DecodeSettings, prompt: int) -> None:
    """Raise where a source could not go on.

    Args:
        fault: Of every row, of beams of every source; see `fault_of`.
        prompt: Tokens that every row starts with.

    Raises:
        GenerationError: naming the sources, and the settings that forbid every token.
    """
    faults: Int[np.ndarray, " n"] = np.asarray(fault)
    if not faults.any():
        return
    rows = 1 if settings.beams is not None else settings.copies
    ends = {
        int(row) // rows: DeadEnd(int(row) // rows, abs(int(faults[row])), bool(faults[row] < 0))
        for row in faults.nonzero()[0]
    }
    raise dead_end_error([*ends.values()], settings.plan, prompt=prompt, custom=bool(settings.callers))


def cut_results(ops: Ops, written: Written, returned: int) -> Results:
    """Results cut to the longest; of beams the best `returned` of every source, or as many as there are."""
    if written.scores is None:
        return Results(written.ids[:, : int(written.lengths)])
    best = (written.filled, written.ids, written.lengths, written.scores)
    filled, ids, lengths, scores = (np.asarray(x)[:, :returned] for x in best)
    counts = filled.sum(1)
    tell_fewer(counts.tolist(), returned)
    return Results(
        ops.constant(ids[filled][:, : lengths[filled].max()]),
        ops.constant(scores[filled]),
        None if filled.all() else ops.constant(counts, "int32"),
    )


def traced_results(ops: Ops, written: Written, settings: DecodeSettings, returned: int) -> Results:
    """Results in shapes that do not depend on them, for programs of the user's that call generate.

    Where a row could not go on stands -1 from that place on; a place without a hypothesis holds pads, scored -inf.
    """
    fault = abs(written.fault)
    rank = 2 if written.scores is None else 3
    fault = ops.reshape(fault, (-1, *[1] * (rank - 1)))
    stuck = (fault > 0) & (ops.arange(settings.room) >= fault)
    ids = ops.where(stuck, -1, written.ids)
    if written.scores is None or written.filled is None:
        return Results(ids)
    filled = written.filled[:, :returned]
    ids = ops.where(filled[..., None] | (fault > 0), ids[:, :returned], settings.pad)
    return Results(
        ops.reshape(ids, (-1, settings.room)),
        ops.reshape(ops.where(filled, written.scores[:, :returned], -math.inf), (-1,)),
        ops.sum(ops.cast(filled, "int32"), 1),
    )
