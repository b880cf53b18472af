"""Where beams find fewer results than were asked for."""

from collections.abc import Sequence

from conjoin.errors import warn

_SHOWN = 8


def tell_fewer(counts: Sequence[int] | None, asked: int) -> None:
    """Warn where sources have fewer results than `num_return_sequences`; beams return each hypothesis once.

    Args:
        counts: Results of each source; None where there are as many as were asked for in any case.
    """
    fewer = [(source, count) for source, count in enumerate(counts or ()) if count < asked]
    if not fewer:
        return
    shown = ", ".join(f"source {source} has {count}" for source, count in fewer[:_SHOWN])
    more = f", and {len(fewer) - _SHOWN} sources more" if len(fewer) > _SHOWN else ""
    warn(
        f"Fewer results than num_return_sequences = {asked}: {shown}{more}. The search found no other; rows of all "
        "sources follow one another. results_per_source, with return_dict_in_generate=True, says how many each has."
    )
