"""The row of what a step and a call cost."""

from typing import Any

from _harness import Timing, ratio, spread
from _peers import Cast, Work
from _profile import phase_shares
from _rows import NEW_TOKENS, Step
from _speed import AGAIN, quiet_race, sources

OURS, ONE = "conjoin fp32", ", one token"


def measure(row: Step, cast: Cast, rounds: int) -> dict[str, Any]:
    """Measure a step by the difference of 32 tokens and one, per round.

    Raises:
        Absent: a contender cannot run here.
    """
    ids = sources(cast.model(OURS).encoder.spec.vocab_size, 1, 64)
    lengths = {"": NEW_TOKENS, ONE: 1}
    runs = {
        name + suffix: cast.run(name, Work(ids, count))
        for name in (OURS, row.against)
        for suffix, count in lengths.items()
    }
    expected = cast.run("transformers fp32", Work(ids, NEW_TOKENS))()
    equal = {name: float(runs[name]() == expected) for name in (OURS, row.against)}
    timings = quiet_race(runs | {AGAIN: runs[OURS]}, OURS, rounds)
    steps = {name: _steps(timings[name], timings[name + ONE]) for name in (OURS, row.against)}
    return {
        "best_peer": row.against,
        **ratio(steps[row.against], steps[OURS]),
        "spread": spread(timings[OURS], timings[AGAIN]),
        "step_us": {name: round(step.median * 1e6, 1) for name, step in steps.items()},
        "call_ms": {name: round(timings[name + ONE].median * 1e3, 3) for name in steps},
        "ms_per_step": {name: round(step.median * 1e3, 4) for name, step in steps.items()},
        "seconds": {name: [round(s, 6) for s in t.seconds] for name, t in timings.items()},
        "profile": phase_shares(cast.model(OURS), runs[OURS]),
        "tokens": {"equal": equal, "right": equal[OURS] == 1},
    }


def _steps(whole: Timing, one: Timing) -> Timing:
    pairs = zip(whole.seconds, one.seconds, strict=True)
    return Timing(whole.name, [(long - short) / (NEW_TOKENS - 1) for long, short in pairs])
