"""A bulk run: sources in, results out, in a file that survives being interrupted, or in order as they come."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from conjoin.bulk.journal import Journal, Write
from conjoin.bulk.rows import Finished, Intake
from conjoin.errors import GenerationError
from conjoin.evaluation.texts import Failed, Outcome

Generate = Callable[[Iterable[tuple[int, str]]], Iterable[Sequence[Outcome]]]
"""Generates for sources by index, read as needed; results come batch by batch, in any order."""
Progress = Callable[[int], object]
"""Called with the number of sources that are just done."""
ALL_FAILED = 100
"""First sources of a run that may all fail for the same reason before the run stops: it is none of theirs then."""


class Run:
    """Generates for the sources of an input.

    Attributes:
        num_failed: Number of sources that failed in this run.

    Args:
        intake: The input.
        generate: Generates for its sources.
        progress: Is told how many are done.
    """

    def __init__(self, intake: Intake, generate: Generate, progress: Progress = lambda done: None) -> None:
        self._intake, self._generate, self._progress = intake, generate, progress
        self.num_failed = 0
        self._watch = _Watch()

    def to_journal(self, journal: Journal, write: Write) -> None:
        """Generate what a journal lacks, and finish it.

        Raises:
            ConjoinError: a source failed, unless errors are kept; reading, generating or writing fails. What is done is
                kept in the journal.
        """
        self._progress(len(journal.done))
        for batch in self._results(journal.rest(self._forgetting(journal))):
            journal.add(
                [each.entry() for each in batch if not each.failed], [each.entry() for each in batch if each.failed]
            )
        self.num_failed = len(journal.failed)
        journal.finish(write, journal.shard.size(self._intake.total))

    def in_order(self) -> Iterator[Finished]:
        """Yield results in the order of their sources, each as soon as all before it are there.

        Raises:
            ConjoinError: as `to_journal`.
        """
        waiting: list[tuple[int, Finished]] = []
        following = 0
        for batch in self._results(self._intake.texts()):
            for each in batch:
                heapq.heappush(waiting, (each.index, each))
            while waiting and waiting[0][0] == following:
                yield heapq.heappop(waiting)[1]
                following += 1

    def _forgetting(self, journal: Journal) -> Iterator[tuple[int, str]]:
        for index, text in self._intake.texts():
            if index in journal.done:
                self._intake.forget(index)
            yield index, text

    def _results(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Finished]]:
        for outcomes in self._generate(texts):
            batch = [*self._intake.unusable(), *map(self._intake.finished, outcomes)]
            failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            if failures and not self._intake.keep_errors:
                yield [each for each in batch if not each.failed]
                raise GenerationError(
                    f"source {failures[0].index + 1}: {failures[0].error}",
                    hint="--on-error keep records such an error, and goes on.",
                )
            yield self._noted(batch)
            self._watch.see(outcomes)
        if rest := self._intake.unusable():
            yield self._noted(rest)

    def _noted(self, batch: list[Finished]) -> list[Finished]:
        self.num_failed += sum(each.failed for each in batch)
        self._progress(len(batch))
        return batch


class _Watch:
    """Notices that every source fails for the same reason, as with settings that cannot be honoured."""

    def __init__(self) -> None:
        self._errors: dict[str, int] | None = {}

    def see(self, outcomes: Sequence[Outcome]) -> None:
        """Look at outcomes.

        Raises:
            GenerationError: all so far are one error.
        """
        if self._errors is None or not outcomes:
            return
        errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        if len(errors) < len(outcomes) or len({*self._errors, *errors}) > 1:
            self._errors = None
            return
        self._errors[errors[0]] = self._errors.get(errors[0], 0) + len(errors)
        if self._errors[errors[0]] >= ALL_FAILED:
            raise GenerationError(f"The first {self._errors[errors[0]]:,} sources all failed: {errors[0]}")
