"""Workers that die at any time: every source gets its result once, or its failure; errors end a run in good order."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from conjoin.bulk.pool import Pool, WorkerDied
from conjoin.errors import ConjoinError, ConjoinWarning, DataError, GenerationError
from conjoin.evaluation.texts import Failed, Generated, Outcome

Texts = Sequence[tuple[int, str]]
TEXTS = [(index, f"text {index}" + " x" * (index % 7)) for index in range(200)]


class Upper:
    """A worker that writes sources in capitals, after asking what to do."""

    def __init__(self, before: Callable[[Texts], object] = lambda texts: None) -> None:
        self.before, self.is_closed = before, False

    def generate(self, texts: Texts) -> tuple[list[Outcome], list[str]]:
        if self.is_closed:
            raise WorkerDied("closed")
        self.before(texts)
        return [Generated(index, [text.upper()], False) for index, text in texts], []

    def close(self) -> None:
        self.is_closed = True


def outcomes(pool: Pool, texts: Any = TEXTS) -> dict[int, str]:
    """The results by index; every index comes once."""
    found = [outcome for batch in pool.run(texts) for outcome in batch]
    assert len({outcome.index for outcome in found}) == len(found)
    return {each.index: each.error if isinstance(each, Failed) else each.texts[0] for each in found}


WANTED = {index: text.upper() for index, text in TEXTS}


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_source_is_generated_once(size: int, batch_size: int) -> None:
    assert outcomes(Pool(lambda number: Upper(), size, batch_size)) == WANTED


def test_a_few_sources_are_divided_among_all_workers() -> None:
    sizes: list[int] = []
    meeting = threading.Barrier(4)

    def note(texts: Texts) -> None:
        sizes.append(len(texts))
        meeting.wait(10)

    assert len(outcomes(Pool(lambda number: Upper(note), 4, 32), TEXTS[:10])) == 10
    assert sorted(sizes) == [1, 3, 3, 3]


def test_sources_go_out_longest_first() -> None:
    lengths: list[int] = []
    outcomes(Pool(lambda number: Upper(lambda texts: lengths.extend(len(text) for _, text in texts)), 1, 10))
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_workers_that_die_now_and_then_lose_and_repeat_nothing(seed: int) -> None:
    dice, deaths = random.Random(seed), []

    def maybe_die(texts: Texts) -> None:
        time.sleep(0.0005)
        if dice.random() < 0.2:
            deaths.append(texts)
            raise WorkerDied("killed")

    found = outcomes(Pool(lambda number: Upper(maybe_die), 3, 4))
    assert deaths
    lost = {index for index, text in found.items() if text != WANTED[index]}
    assert all(found[index] == "WorkerDied: killed" for index in lost)  # it ended two workers alone: 4 times of 100
    assert found.keys() == WANTED.keys() and len(lost) < 40


def test_a_source_that_kills_its_workers_is_found_and_the_others_are_generated() -> None:
    started: list[int] = []

    def die(texts: Texts) -> None:
        if any(index == 77 for index, _ in texts):
            raise WorkerDied("A worker process was ended by signal 11 (SIGSEGV).")

    def start(number: int) -> Upper:
        started.append(number)
        return Upper(die)

    found = outcomes(Pool(start, 2, 16))
    assert found == {**WANTED, 77: "WorkerDied: A worker process was ended by signal 11 (SIGSEGV)."}
    assert len(started) <= 2 + 4


def test_an_error_ends_the_run_after_what_was_begun() -> None:
    def fail(texts: Texts) -> None:
        if texts[0][0] == 0:
            raise GenerationError("num_beams = 0; expected 1 or more.")

    found: list[int] = []
    with pytest.raises(GenerationError, match="num_beams = 0"):
        for batch in Pool(lambda number: Upper(fail), 2, 1).run((index, "same") for index in range(1000)):
            found += [outcome.index for outcome in batch]
    assert found == sorted({*found}) and 0 not in found
    assert len(found) < 8


def test_what_was_read_before_an_error_is_generated_first() -> None:
    def reader() -> Iterator[tuple[int, str]]:
        yield from TEXTS[:30]
        raise DataError("line 31: not JSON")

    found: list[int] = []
    with pytest.raises(DataError, match="line 31"):
        for batch in Pool(lambda number: Upper(), 2, 4).run(reader()):
            found += [outcome.index for outcome in batch]
    assert sorted(found) == list(range(30))


def test_workers_that_never_start_end_the_run() -> None:
    started: list[int] = []

    def start(number: int) -> Upper:
        started.append(number)
        raise WorkerDied("A worker process was ended by signal 9 (SIGKILL).")

    with pytest.raises(ConjoinError, match=r"3 workers in a row ended before they were ready.*SIGKILL"):
        outcomes(Pool(start, 2, 8))
    assert 3 <= len(started) <= 4


def test_a_worker_that_dies_while_it_starts_is_replaced() -> None:
    started: list[int] = []

    def start(number: int) -> Upper:
        started.append(number)
        if len(started) == 1:
            raise WorkerDied("killed")
        return Upper()

    assert outcomes(Pool(start, 2, 8)) == WANTED


def test_an_error_of_starting_is_the_runs_error() -> None:
    def start(number: int) -> Upper:
        raise ConjoinError("no such model")

    with pytest.raises(ConjoinError, match="no such model"):
        outcomes(Pool(start, 3, 8))


def test_a_run_that_is_given_up_ends_its_workers() -> None:
    workers: list[Upper] = []

    def start(number: int) -> Upper:
        workers.append(Upper())
        return workers[-1]

    stream = Pool(start, 2, 2).run(TEXTS)
    next(stream)
    stream.close()
    assert workers and all(worker.is_closed for worker in workers)
    assert not [thread for thread in threading.enumerate() if "_serve" in thread.name]


def test_warnings_of_workers_are_told() -> None:
    class Warning_(Upper):
        def generate(self, texts: Texts) -> tuple[list[Outcome], list[str]]:
            return super().generate(texts)[0], ["Fewer results than requested."]

    with pytest.warns(ConjoinWarning, match="Fewer results"):
        outcomes(Pool(lambda number: Warning_(), 1, 1000))
