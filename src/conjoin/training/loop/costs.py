"""What the parts of a run cost in seconds, measured as they happen and estimated before, so that a budget has room."""

from collections.abc import Generator
from contextlib import contextmanager

from conjoin.training.folder.state import TrainerState
from conjoin.training.loop import budget
from conjoin.training.loop.start import Task

DISK_BYTES_PER_S = 100e6
"""What a slow disk takes; saves are measured soon."""
FORWARD_SHARE = 0.4
"""A forward pass, of the time of a training step: a third of its products, and what does not shrink."""
GENERATION = 6.0
"""Times that generating a target takes longer than its loss, before it is measured."""
REPORT_S = 2.0
"""Report, and the end of the process."""
MARGIN = 1.25
"""For what was measured on a machine that is never quite even."""
MOST_EVALUATING = 0.1
"""Part of a budget that evaluations on its way may take, all together."""


class Costs:
    """Seconds of evaluations and saves.

    Args:
        task: The run; its model's size and its validation data tell what to expect.
        state: Keeps what was measured, so that a resumed run knows it.
    """

    def __init__(self, task: Task, state: TrainerState) -> None:
        self._task, self._state = task, state
        self._numbers = sum(count for *_, count in task.model.join_report.rows())

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Measure an evaluation."""
        began = budget.monotonic()
        yield
        self._state.evaluation_s = max(0.0, budget.monotonic() - began)

    @contextmanager
    def saving(self) -> Generator[None]:
        """Measure a save."""
        began = budget.monotonic()
        yield
        self._state.save_s = max(0.0, budget.monotonic() - began)

    def at_end(self) -> float:
        """Return the seconds that evaluating and saving at the end of the run will take."""
        final = 4 * self._numbers / DISK_BYTES_PER_S
        save = self._state.save_s or 3 * final
        saves = save if self._task.args.save_strategy != "no" else 0.0
        evaluations = 2 if self._task.args.average_checkpoints else 1  # a mean of weights is evaluated too
        evaluates = evaluations * self.evaluation() if self._task.evaluates else 0.0
        averages = 2 * min(final, save) + evaluates if self._task.args.average_checkpoints else 0.0
        return MARGIN * (saves + min(final, save) + evaluates + averages) + REPORT_S

    def evaluation(self) -> float:
        """Return the seconds of an evaluation: those of the last one, or an estimate from the speed of training."""
        state, examples = self._state, self._task.eval_examples
        if state.evaluation_s or examples is None or not state.tokens_seen:
            return state.evaluation_s
        per_token = FORWARD_SHARE * state.seconds / state.tokens_seen
        if self._task.args.predict_with_generate:
            per_token *= GENERATION
        return per_token * float(examples.lengths.sum())

    def may_evaluate(self) -> bool:
        """True if an evaluation before the end is cheap enough."""
        minutes, tokens = self._task.args.max_minutes, self._task.args.max_tokens
        if minutes is not None:
            return self.evaluation() * 3 <= MOST_EVALUATING * 60 * minutes
        assert tokens is not None and self._task.eval_examples is not None
        return FORWARD_SHARE * 3 * float(self._task.eval_examples.lengths.sum()) <= MOST_EVALUATING * tokens
