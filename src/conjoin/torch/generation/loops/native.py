"""Greedy search, beam search and sampling by our kernels: many steps in one call."""

from contextlib import nullcontext

from jaxtyping import Int
from torch import Tensor

from conjoin.generation import DeadEnd
from conjoin.torch.cpu.clock import running
from conjoin.torch.cpu.native.decode import NO_NUMBERS, NO_TOKEN, Requests, Search, run
from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.reader import Reader
from conjoin.torch.generation.timing import count_requests


def begin(reader: Reader, prompt: Int[Tensor, "B P"], search: Search) -> Requests | None:
    """Return a request for each source of a reader; None if the kernels cannot run the decoder."""
    steps = reader.begin_search(prompt, search.rows, search.limit)
    return None if steps is None else Requests.of(steps.sources, prompt, search, reader.decoder.spec.vocab_size)


def finish(reader: Reader, requests: Requests) -> None:
    """Run requests until all are done."""
    steps, clock, taken = reader.steps, running(), 0
    assert steps is not None
    if clock is not None:
        with clock.phase("first step"):
            taken = run(steps.stack, steps.dtype, requests.addresses, requests.rows, steps=1)
    with nullcontext() if clock is None else clock.phase("blocks"):
        taken += run(steps.stack, steps.dtype, requests.addresses, requests.rows)
    count_requests(reader, requests, taken)


def result_of(requests: Requests, control: Control, returned: int) -> Decoded:
    """Return the results of requests that have stopped.

    Args:
        returned: Number of hypotheses to return per source.

    Raises:
        GenerationError: a request had no token left, or its scores are no numbers.
    """
    states = requests.entries["state"]
    if (states >= NO_TOKEN).any():
        lengths = requests.lengths.tolist()
        stuck = [index for index, state in enumerate(states.tolist()) if state >= NO_TOKEN]
        raise control.watch.tell([DeadEnd(i, lengths[i], bool(states[i] == NO_NUMBERS)) for i in stuck])
    if not requests.has_beams:
        return Decoded(sequences=requests.tokens[:, 0, : int(requests.lengths.max())])
    filled = requests.is_finished[:, :returned]
    longest = int(requests.finished_lengths[:, :returned][filled].max())
    return Decoded(
        sequences=requests.finished[:, :returned][filled][:, :longest],
        scores=requests.finished_scores[:, :returned][filled],
        counts=filled.sum(1).tolist(),
    )
