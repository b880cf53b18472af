"""What a run does when it goes wrong: it goes back to the last good step, or starts again once with a safer recipe.

Everything that decides is in the run's state, so a resumed run decides as the uninterrupted one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.folder.state import TrainerState
from conjoin.training.loop.engine import Engine
from conjoin.training.settings.arguments import TrainingArguments

WINDOW = 20
"""Steps whose mean loss is compared with that of the windows before."""
KEPT, LEAST = 8, 5
"""Windows that are remembered, and how many there must be before one can be a spike."""
SPIKE_NATS, SPIKE_SHARE, SPIKE_SPREADS = 0.5, 0.3, 8.0
"""A spike is above the median of the windows by all of these: nats, a share of it, and median deviations."""
SNAPSHOT_STEPS = 100
MOST_RETURNS = 3
SLOWER = 0.5
"""Factor of all learning rates after each return."""
UNREAD = 0.02
"""Source gain, in nats per label, of a model that ignores its sources. Those that learn to read pass it within 100
steps, and reach one or two."""
UNREAD_STEPS = 200
"""Steps before which no model need read its sources yet."""
READINGS = 10
"""How often, within a run, it is measured whether the model reads its sources."""
LATEST_RESTART = 0.5
"""Part of the budget after which too little of it is left to start again."""
MOST_NUMBERS = 1 << 30
"""Parameters of the largest model of which steps are kept in memory: 12 GiB with moments. Larger ones go back to their
newest checkpoint."""


class Recovery:
    """Watches a run's losses and its reading.

    Args:
        first: The first weights, as a snapshot; None if the run has started again already, or they are not kept.
        safer: Arguments to start again with.
        numbers: Parameters of the model.
        tell: Prints and records a line.
    """

    def __init__(
        self,
        engine: Engine,
        state: TrainerState,
        folder: RunFolder,
        *,
        first: Any,
        safer: TrainingArguments,
        numbers: int,
        tell: Callable[[str], None],
    ) -> None:
        self._engine, self._state, self._folder = engine, state, folder
        self._first, self._safer, self._tell = first, safer, tell
        self._fits = numbers <= MOST_NUMBERS
        self._good: Any = None if state.global_step else first
        self._good_step = state.global_step
        if self._good is None:
            self.keep()

    def keep(self) -> None:
        """Keep this step, if all of its weights are finite."""
        snapshot = self._engine.snapshot() if self._fits else None
        if snapshot is not None:
            self._good, self._good_step = snapshot, self._state.global_step

    def add(self, total: float, steps: int) -> None:
        """Add losses to the running window."""
        self._state.window_sum += total
        self._state.window_steps += steps

    def end_window(self) -> None:
        """Compare the window that ends with this step; go back if it is a spike, keep the step now and then if not."""
        state = self._state
        loss = state.window_sum / max(1, state.window_steps)
        state.window_sum, state.window_steps = 0.0, 0
        if is_spike(state.windows, loss) and self.go_back(f"The loss rose to {loss:.3f} by step {state.global_step}"):
            return
        state.windows = [*state.windows, loss][-KEPT:]
        if state.global_step % SNAPSHOT_STEPS == 0:
            self.keep()

    def go_back(self, what: str) -> bool:
        """Return to the last good step, with lower rates; the data go on behind the step that went wrong.

        Args:
            what: What has happened, for the log.

        Returns:
            False if there is nothing to return to, or the run has returned too often.
        """
        state = self._state
        checkpoint = None if self._good is not None else self._folder.newest(state.global_step)
        if state.returns >= MOST_RETURNS or (self._good is None and checkpoint is None):
            return False
        if checkpoint is None:
            self._engine.return_to(self._good)
        else:
            self._engine.restore(checkpoint.folder, checkpoint.step)
            self._good_step = checkpoint.step
        state.returns += 1
        state.rate_scale *= SLOWER
        state.window_sum, state.window_steps = 0.0, 0
        self._tell(
            f"{what}: back to the weights of step {self._good_step} (return {state.returns} of {MOST_RETURNS}). The "
            f"pairs since then are left out of this pass, and learning rates are {state.rate_scale:g} times as high."
        )
        return True

    @property
    def window_ends(self) -> bool:
        """True if a window ends with this step."""
        return self._state.global_step % WINDOW == 0

    def reading_due(self, before: float, share: float) -> bool:
        """True if the step passed a tenth of the budget, and the model may have learnt to read by now.

        Args:
            before, share: Parts of the budget that were used before the step and after it.
        """
        return int(before * READINGS) != int(share * READINGS) and self._state.global_step >= UNREAD_STEPS

    def judge_reading(self, gain: float, share: float) -> bool:
        """Start again with a safer recipe if the model does not read its sources.

        Args:
            gain: The source gain, in nats per label; NaN says nothing.
            share: The part of the budget that is used.

        Returns:
            True if the run starts again; what was the best so far is no longer to be beaten.
        """
        state = self._state
        if not gain < UNREAD or state.global_step < UNREAD_STEPS or state.restarts or self._first is None:
            return False
        if share > LATEST_RESTART:
            self._first = None
            return False
        safer = self._safer
        self._engine.start_again(safer, self._first)
        self._first = None
        state.restarts, state.restarted_at = 1, share
        state.windows, state.window_sum, state.window_steps, state.rate_scale = [], 0.0, 0, 1.0
        state.best_metric, state.best_step, state.evaluations_without_progress = None, None, 0
        self._tell(
            f"After {state.global_step} steps the model does not read its sources: with the sources of other pairs its "
            f"loss is the same (source gain {gain:.4f}). It starts again from its first weights, with what is left of "
            f"the budget: learning_rate = {safer.learning_rate:g}, encoder_learning_rate = "
            f"{safer.encoder_learning_rate:g}, warmup_steps = {safer.warmup_steps:g}. --no-recover trains on instead."
        )
        self.keep()
        return True


def is_spike(windows: Sequence[float], loss: float) -> bool:
    """Return True if the mean loss of a window stands out from those of the windows before it."""
    if len(windows) < LEAST:
        return False
    median = float(np.median(windows))
    spread = float(np.median(np.abs(np.array(windows) - median)))
    return loss > median + max(SPIKE_NATS, SPIKE_SHARE * median, SPIKE_SPREADS * spread)
