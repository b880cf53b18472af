"""One trial of a sweep: a training run that is stopped at the end of a rung, and goes on from there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.errors import ConfigError, ConjoinError, JoinError, ShapeError, TrainingError
from conjoin.training.folder.metrics_log import is_number, read_log
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.folder.state import TrainerState
from conjoin.training.loop.callbacks import TrainerCallback, TrainerControl
from conjoin.training.loop.interrupts import Stopped
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.recipe import Recipe

Launch = Callable[..., str]
FIXED: dict[str, Any] = {
    "overwrite_output_dir": False,
    "resume_from_checkpoint": "latest",
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "save_total_limit": 1,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "average_checkpoints": None,
    "max_minutes": None,
    "max_tokens": None,
    "recover": False,
}
"""Settings that a sweep needs for itself; the best recipe has the user's again."""
OWN = (*FIXED, "output_dir", "max_steps", "num_train_epochs", "eval_steps", "save_steps")
"""Settings that cannot be varied: the sweep decides how long trials train, and when they are evaluated and saved."""


class StopAt(TrainerCallback):
    """Evaluates, saves and stops a run after a step; measures the steps, but the first, which prepares things."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._ends: list[float] = []

    @property
    def steps_s(self) -> float:
        """Seconds from the end of the first step to the end of the last one."""
        return self._ends[-1] - self._ends[0] if self._ends else 0.0

    @property
    def count(self) -> int:
        """Number of measured steps."""
        return max(len(self._ends) - 1, 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the time, and ask the run to stop."""
        self._ends.append(time.monotonic())
        if state.global_step >= self.step:
            control.should_training_stop = control.should_evaluate = control.should_save = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rung of a trial gave.

    Args:
        score: The metric that decides; None if the run failed.
        count: Number of steps that were measured.
        steps_s: Seconds in these steps.
        all_s: Seconds in all, loading and evaluating included.
    """

    score: float | None
    problem: str
    count: int
    steps_s: float
    all_s: float


def run_until(
    settings: dict[str, Any], values: dict[str, Any], folder: Path, *, step: int, total: int, launch: Launch
) -> Outcome:
    """Train a trial until a step, from where it is.

    Args:
        settings: The recipe of the sweep. `values` are the trial's.
        total: Steps of the whole schedule.

    Raises:
        Stopped: a signal ended the run; it is saved.
        ConjoinError: what no trial is to blame for: data, files, packages. What a trial's values are to blame for, such
            as a loss that is not finite, memory, or halves that do not go together, is its problem.
    """
    begin = time.monotonic()
    recipe = Recipe.of(
        {**settings, **values, **FIXED, "output_dir": str(folder), "max_steps": total, "eval_steps": total}
    )
    newest = RunFolder(folder).newest()
    stop = StopAt(step)
    problem = ""
    if newest is None or newest.step < step or _score(folder, step, recipe.arguments) is None:
        try:
            launch(recipe, callbacks=[stop])
        except Stopped:
            raise
        except (TrainingError, ConfigError, JoinError, ShapeError) as error:
            problem = str(error).partition("\n")[0]
    score = None if problem else _score(folder, step, recipe.arguments)
    if not problem and score is None:
        problem = f"{recipe.arguments.metric_for_best_model} of step {step} is no finite number"
    return Outcome(score, problem, stop.count, stop.steps_s, time.monotonic() - begin)


def _score(folder: Path, step: int, args: TrainingArguments) -> float | None:
    """Return the score that a run's log has for a step."""
    name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    try:
        lines = [line for line in read_log(folder) if line["kind"] == "eval" and line["step"] == step]
    except ConjoinError:
        return None
    value = lines[-1].get(name) if lines else None
    return float(value) if value is not None and is_number(value) else None
