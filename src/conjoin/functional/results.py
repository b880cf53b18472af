"""What a program wrote, looked at outside of it: an error where a source could not go on, results that there are."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from conjoin.functional.requests import Writing
from conjoin.generation import DeadEnd, dead_end_error, tell_fewer


def check_written(fault: Any, writing: Writing, prompt: int) -> None:
    """Raise where a source could not go on.

    Args:
        fault: Of every row, of beams of every source; see `fault_of`.
        prompt: Tokens that every row starts with.

    Raises:
        GenerationError: naming the sources, and the settings that forbid every token.
    """
    told: Int[np.ndarray, " n"] = np.asarray(fault)
    if not told.any():
        return
    rows = 1 if writing.beams is not None else writing.copies
    ends = {
        int(row) // rows: DeadEnd(int(row) // rows, abs(int(told[row])), bool(told[row] < 0))
        for row in told.nonzero()[0]
    }
    raise dead_end_error([*ends.values()], writing.plan, prompt=prompt, custom=bool(writing.callers))


def fewer_results(filled: Any, returned: int) -> tuple[Bool[np.ndarray, "B r"], Int[np.ndarray, " B"] | None]:
    """Which of the best places hold a hypothesis, and how many of each source; None where all of them do."""
    held = np.asarray(filled)[:, :returned]
    counts = held.sum(1)
    tell_fewer(counts.tolist(), returned)
    return held, None if held.all() else counts
