"""The mean of the weights at the last evaluations, often better than the last weights (Vaswani et al. 2017, 6.1)."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.checkpoint import replacing_folder
from conjoin.surgery import average_checkpoints
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop.checks import best_model_metric
from conjoin.training.loop.engine import Engine
from conjoin.training.loop.metric_numbers import plain_numbers
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.terminal import say
from conjoin.training.world import World

Evaluate = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Weights of the last evaluations of a run, or of its last checkpoints if it does not evaluate.

    Args:
        count: Number of snapshots that are kept; None keeps none.
    """

    folder: RunFolder
    engine: Engine
    world: World
    count: int | None

    @property
    def _path(self) -> Path:
        return self.folder.path / "averaging"

    def steps(self) -> list[int]:
        """Return the steps of all snapshots, in order."""
        names = (path.name for path in self._path.glob("step-*"))
        return sorted(int(number) for name in names if (number := name.removeprefix("step-")).isdigit())

    def begin(self, step: int) -> None:
        """Forget the snapshots of later steps than the one that the run goes on from, and of earlier runs."""
        self.world.on_first(lambda: self._drop([each for each in self.steps() if each > step or step == 0]))

    def forget(self) -> None:
        """Forget all snapshots: the run has started again."""
        self.begin(0)

    def keep(self, step: int) -> None:
        """Keep the weights of a step, and forget those of the oldest one."""
        if self.count is None:
            return
        self._write(f"step-{step}")
        self.world.on_first(lambda: self._drop(self.steps()[: -(self.count or 0)]))

    def _write(self, name: str) -> None:
        write_pair = self.engine.gather_weights()

        def write() -> None:
            with replacing_folder(self._path / name) as staging:
                write_pair(staging)

        self.world.on_first(write)

    def _drop(self, steps: list[int]) -> None:
        for step in steps:
            shutil.rmtree(self._path / f"step-{step}", ignore_errors=True)

    def average(self, args: TrainingArguments, evaluate: Evaluate | None, known: float | None) -> dict[str, float]:
        """Give the model the mean of the snapshots, unless it is worse on the validation data than the final weights.

        Args:
            evaluate: Computes the metrics of the validation data; None without such data.
            known: Value of `metric_for_best_model` of the final weights; None if they were not evaluated.

        Returns:
            The metrics of the mean, if the model has it now.
        """
        steps = self.steps()
        if self.count is None or len(steps) < 2:
            return {}
        name = args.metric_for_best_model
        before = None if evaluate is None else best_model_metric(_metrics(evaluate), name) if known is None else known
        self._write("final")
        folders = [self._path / f"step-{step}" for step in steps]
        self.world.on_first(lambda: average_checkpoints(folders, self._path / "mean"))
        self.engine.load_weights(self._path / "mean")
        mean = {} if evaluate is None else _metrics(evaluate)
        told = "there are no validation data to compare it on"
        is_better = True
        if before is not None:
            after = best_model_metric(mean, name)
            is_better = after > before if args.better_when_greater else after < before
            told = f"{name} {after:.4f} instead of {before:.4f}"
        if not is_better:
            self.engine.load_weights(self._path / "final")
        if self.world.first:
            kept = "is the final model" if is_better else "is not better, and the final weights stay"
            say(f"The mean of the weights of steps {', '.join(map(str, steps))} {kept}: {told}.")
        self.world.on_first(lambda: shutil.rmtree(self._path, ignore_errors=True))
        return mean if is_better else {}


def _metrics(evaluate: Evaluate) -> dict[str, float]:
    return plain_numbers(evaluate(), "An evaluation")
