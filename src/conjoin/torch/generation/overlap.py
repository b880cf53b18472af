"""Generation for batch after batch, where the next one joins while the last sources of those before it still run.

Results have lengths of their own, so that a batch that runs alone ends with a few rows, which cost almost as much as
many. The kernels compute a row in the same way, bit by bit, in any batch, so results do not depend on the neighbours.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from conjoin.generation import BeamSearch, Greedy
from conjoin.torch.cpu.clock import running as running_clock
from conjoin.torch.cpu.native.decode import DONE, RUNNING, Requests, run
from conjoin.torch.cpu.native.steps import Steps
from conjoin.torch.generation.generate import Callers, Run
from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.native import result_of
from conjoin.torch.generation.timing import count_requests

K = TypeVar("K")
_JOINS_AT = 0.5
"""Share of a batch that may still run when the next one joins."""
_MOST_OPEN = 4
"""Batches that have begun and are not done, at most: each holds its caches until its last source is done."""


@dataclass(slots=True, eq=False)
class _Open(Generic[K]):
    """A batch that has begun."""

    key: K
    run: Run
    control: Control
    requests: Requests

    @property
    def live(self) -> list[int]:
        """Addresses of the sources that still run; none if one of them cannot go on, since the batch fails."""
        states = self.requests.entries["state"]
        if (states > DONE).any():
            return []
        return np.array(self.requests.addresses)[states == RUNNING].tolist()

    def result(self) -> Decoded:
        """Return the results of a batch of which nothing runs any more.

        Raises:
            GenerationError: a source had no token left, or its scores are no numbers.
        """
        count_requests(self.run.readers[-1], self.requests, 1)
        return self.run.told(result_of(self.requests, self.control, self.run.request.num_return_sequences))


def generate_batches(
    model: Any, batches: Iterable[tuple[K, dict[str, Any]]]
) -> Iterator[tuple[K, Decoded | Exception]]:
    """Yield what `generate_results` returns or raises for each batch, as soon as it is done.

    Batches overlap in greedy and beam search by compiled kernels; others run one after another.

    Args:
        batches: Names, and arguments of `generate_results`; read when there is room. If reading them fails, those that
            were read are generated first.
    """
    unread, failure = iter(batches), None
    is_more, begun = True, list[_Open[K]]()
    while is_more or begun:
        while is_more and _has_room(begun):
            try:
                key, arguments = next(unread)
            except StopIteration:
                is_more = False
                break
            except Exception as error:
                is_more, failure = False, error
                break
            started = _begin(model, key, arguments)
            if isinstance(started, _Open):
                begun.append(started)
            else:
                yield key, started
        if begun:
            _advance(begun)
            done = [batch for batch in begun if not batch.live]
            begun = [batch for batch in begun if batch.live]
            for batch in done:
                yield batch.key, _finish(batch)
    if failure is not None:
        raise failure


def _has_room(begun: list[_Open[Any]]) -> bool:
    if not begun:
        return True
    running = sum(len(batch.live) for batch in begun)
    return len(begun) < _MOST_OPEN and running <= _JOINS_AT * len(begun[-1].requests.entries)


def _begin(model: Any, key: K, arguments: dict[str, Any]) -> _Open[K] | Decoded | Exception:
    """Encode the sources of a batch; where its steps cannot be shared, return its results, or what went wrong."""
    keywords = dict(arguments)
    tokenizer, generators = (keywords.pop(name, None) for name in ("tokenizer", "generator"))
    callers = Callers(None, None, None, None, tokenizer, None, generators)
    try:
        with torch.inference_mode():
            call = Run.of(model, None, keywords.pop("generation_config", None), callers, keywords)
            if not isinstance(call.request.mode, Greedy | BeamSearch) or call.limits.max_length == call.limits.prompt:
                return call.decoded()
            call.encode()
            control = call.control()
            requests = call.native_requests(control)
            return call.told(call.decode()) if requests is None else _Open(key, call, control, requests)
    except Exception as error:
        return error


def _advance(begun: list[_Open[Any]]) -> None:
    """Run until a source is done; of caches in several dtypes, one of each, since a pass reads one of them."""
    clock = running_clock()
    for dtype in {_steps(batch).dtype for batch in begun}:
        alike = [batch for batch in begun if _steps(batch).dtype == dtype]
        addresses = [address for batch in alike for address in batch.live]
        rows = len(addresses) * max(int(batch.requests.entries["hypotheses"][0]) for batch in alike)
        with torch.inference_mode(), nullcontext() if clock is None else clock.phase("blocks"):
            count = run(_steps(alike[0]).stack, dtype, addresses, rows, until_all=False)
        if clock is not None:
            clock.work.steps += count


def _steps(batch: _Open[Any]) -> Steps:
    steps = batch.run.readers[-1].steps
    assert steps is not None
    return steps


def _finish(batch: _Open[Any]) -> Decoded | Exception:
    try:
        with torch.inference_mode():
            return batch.result()
    except Exception as error:
        return error
