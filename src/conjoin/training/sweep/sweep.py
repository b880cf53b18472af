"""A sweep: measure a step, share the time among rungs, train every trial of a rung, keep the best third."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conjoin.checkpoint import replacing_file
from conjoin.errors import ConfigError, DataError
from conjoin.training.launch import launch
from conjoin.training.settings.recipe import Recipe, normalised
from conjoin.training.sweep.journal import FILE, Journal, Trial
from conjoin.training.sweep.ladder import FEWEST, Ladder, ladder
from conjoin.training.sweep.space import Space, Values, combinations
from conjoin.training.sweep.trials import Launch, Outcome, run_until
from conjoin.training.terminal import say

Engine = Literal["halving", "optuna"]
BEST = "best.yaml"
PROBE = 8
"""Steps by which the time of a step is measured; the first one, which prepares things, is not counted."""
MARGIN = 0.9
"""Share of the time that is planned with; evaluations and long batches take the rest."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The outcome of a sweep.

    Args:
        trials: All trials, the best first; those that went further before others.
        metric: What the scores are.
        best: The best trial.
        folder: Folder of the sweep, with `best.yaml` and a folder per trial.
    """

    trials: Sequence[Trial]
    metric: str
    folder: Path

    @property
    def best(self) -> Trial:
        """The trial with the best score among those that went furthest."""
        return self.trials[0]

    def to_dict(self) -> dict[str, Any]:
        """Return what `conjoin sweep --json` prints."""
        rows = [
            {"trial": t.number, "settings": t.values, "steps": t.steps, "score": _last(t), "status": t.status}
            for t in self.trials
        ]
        names = {"metric": self.metric, "recipe": str(self.folder / BEST), "model": str(self.folder / self.best.folder)}
        return {**names, "trials": rows}


def _last(trial: Trial) -> float | None:
    return trial.scores[-1] if trial.scores else None


class Sweep:
    """Trains a recipe with several combinations of settings, one after the other, within a time.

    Every trial of a rung is trained to the same step, evaluated, and saved; the best third goes on from there, with the
    schedule that it began: that of a whole run of the last trial. Trials whose loss is not finite end.

    Args:
        settings: The recipe, by names.
        space: What is varied; see `parse_over`.
        minutes: Time in all, earlier parts of a resumed sweep included.
        out: Folder of the sweep.
        trials: Number of combinations to draw; by default all of listed values.
        engine: "halving"; "optuna" lets Optuna choose values by earlier trials, and stop trials.
        launch: Trains a recipe; a test's own.

    Attributes:
        count: Number of trials.

    Raises:
        ConfigError: the recipe cannot be swept, or the folder holds another sweep.

    Example:
        Sweep(read_recipe("recipe.yaml"), parse_over(["learning_rate=1e-4,3e-4"]), minutes=10, out="sweep").run()
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        space: Space,
        *,
        minutes: float,
        out: str | Path,
        trials: int | None = None,
        engine: Engine = "halving",
        resume: bool = False,
        launch: Launch = launch,
    ) -> None:
        self.settings = normalised(settings)
        self.space, self.seconds, self.out, self.engine = space, 60 * minutes, Path(out), engine
        self._launch = launch
        self._began = time.monotonic()
        if not self.seconds > 0:
            raise ConfigError(f"minutes = {minutes}; expected a number above 0.")
        recipe = Recipe.of({**self.settings, "output_dir": str(out)})
        recipe.sources.require()
        if recipe.sources.validation is None and recipe.sources.validation_split is None:
            raise DataError(
                "A sweep needs validation data: trials are compared by them.", hint="validation: file.jsonl"
            )
        self.args = recipe.arguments
        listed = combinations(space, trials, self.args.seed)
        self.count = len(listed)
        asked = {
            "settings": {name: value for name, value in self.settings.items() if name != "output_dir"},
            "space": {name: repr(each) for name, each in space.items()},
            "engine": engine,
            "trials": trials,
        }
        self.journal = self._open(asked, listed, resume=resume)
        for trial in self.journal.trials:
            Recipe.of({**self.settings, **trial.values})  # refuses values before anything is trained

    def _open(self, asked: dict[str, Any], listed: list[Values], *, resume: bool) -> Journal:
        journal = Journal.read(self.out)
        if journal is None:
            return Journal(asked, [Trial(number, values) for number, values in enumerate(listed, 1)])
        if not resume:
            raise ConfigError(f"{self.out} holds a sweep already.", hint="--resume goes on with it; or another --out.")
        if journal.asked != asked:
            apart = [name for name in asked if journal.asked.get(name) != asked[name]]
            raise ConfigError(
                f"{self.out / FILE} is of another sweep: {', '.join(apart)} differ.",
                hint="resume with the same recipe, --over, --trials and --engine; --minutes may be more.",
            )
        return journal

    def run(self) -> SweepResult:
        """Run the sweep to its end.

        Returns:
            All trials; the best recipe is in `best.yaml`, the best model in the folder of its trial.

        Raises:
            ConfigError: the time is too short for the trials.
            TrainingError: a trial cannot be trained at all, or all trials failed.
        """
        if self.journal.ladder is None:
            self.journal.ladder = self._plan()
            self._write()
        self._say_plan(self.journal.ladder)
        if self.engine == "optuna":
            from conjoin.training.sweep.optuna_engine import run_trials

            run_trials(self)
        else:
            self._halve(self.journal.ladder)
        result = self.result()
        self._write_best(result.best)
        return result

    def _plan(self) -> Ladder:
        """Measure a step with the first trial's settings, in a run that is thrown away."""
        probe = self.out / "probe"
        shutil.rmtree(probe, ignore_errors=True)
        first = self.journal.trials[0]
        outcome = run_until(self.settings, first.values, probe, step=PROBE, total=PROBE, launch=self._launch)
        shutil.rmtree(probe, ignore_errors=True)
        if outcome.problem:
            raise ConfigError(f"The first trial cannot be trained: {outcome.problem}.")
        self.journal.step_s = max(outcome.steps_s / max(outcome.count, 1), 1e-6)
        self.journal.start_s = max(outcome.all_s - outcome.steps_s, 0.0)
        trials = len(self.journal.trials)
        starts = ladder(trials, FEWEST * trials * 100).starts
        left = MARGIN * (self.seconds - self._spent()) - starts * self.journal.start_s
        return ladder(trials, left / self.journal.step_s)

    def _say_plan(self, plan: Ladder) -> None:
        rungs = ", ".join(f"{n} to step {step:,}" for n, step in zip(plan.trials, plan.steps, strict=True))
        say(f"{len(self.journal.trials)} trials, a step takes {1000 * self.journal.step_s:,.0f} ms: {rungs}.")

    def _halve(self, plan: Ladder) -> None:
        alive = list(self.journal.trials)
        for rung, count in enumerate(plan.trials):
            alive = [trial for trial in alive if trial.status != "failed"][:count]
            if not any(len(trial.scores) > rung for trial in alive):
                plan = self._fitted(plan, rung)
            for trial in alive:
                self.advance(trial, rung, plan.steps[rung])
            alive = self.ranked([trial for trial in alive if trial.status != "failed"])
            for trial in alive[plan.trials[rung + 1] :] if rung + 1 < len(plan.trials) else []:
                trial.status = "stopped"
            self._write()

    def _fitted(self, plan: Ladder, rung: int) -> Ladder:
        """Shorten the rungs that are left if the machine has become slower than it was measured to be."""
        steps, starts = plan.from_rung(rung)
        left = self.seconds - self._spent() - starts * self.journal.start_s
        needed = steps * self.journal.step_s
        if rung == 0 or needed <= left:
            return plan
        self.journal.ladder = shorter = plan.shortened(rung, max(left / needed, 0.0))
        say(f"A step takes {1000 * self.journal.step_s:,.0f} ms now: trials end at step {shorter.total:,}.")
        self._write()
        return shorter

    def advance(self, trial: Trial, rung: int, step: int) -> float | None:
        """Train a trial to the end of a rung, unless it is there; return its score."""
        assert self.journal.ladder is not None
        if len(trial.scores) > rung or trial.status == "failed":
            return _last(trial)
        trial.status = "running"
        self._write()
        outcome = run_until(
            self.settings,
            trial.values,
            self.out / trial.folder,
            step=step,
            total=self.journal.ladder.total,
            launch=self._launch,
        )
        self._note(trial, outcome, step)
        return outcome.score

    def _note(self, trial: Trial, outcome: Outcome, step: int) -> None:
        assert self.journal.ladder is not None
        trial.steps = step
        if outcome.count:
            self.journal.step_s = outcome.steps_s / outcome.count
            self.journal.start_s = outcome.all_s - outcome.steps_s
        if outcome.score is None:
            trial.status, trial.problem = "failed", outcome.problem
        else:
            trial.scores.append(outcome.score)
            trial.status = "finished" if step == self.journal.ladder.total else "waiting"
        self._write()
        told = trial.problem or f"{self.args.metric_for_best_model} {outcome.score:.4f}"
        values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        say(f"trial {trial.number} ({values}), step {step:,}: {told}")

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials, the best first: those that went further, then by score; failed ones last."""
        sign = -1.0 if self.args.better_when_greater else 1.0
        return sorted(trials, key=lambda t: (t.status == "failed", -len(t.scores), sign * (t.scores or [0.0])[-1]))

    def result(self) -> SweepResult:
        """Return the trials so far.

        Raises:
            ConfigError: all of them failed.
        """
        trials = self.ranked(self.journal.trials)
        if trials[0].status == "failed" or not trials[0].scores:
            raise ConfigError(f"No trial could be trained; the first ended with: {trials[0].problem}.")
        return SweepResult(trials, self.args.metric_for_best_model, self.out)

    def _write_best(self, best: Trial) -> None:
        recipe = Recipe.of({**self.settings, **best.values}).lasting()
        with replacing_file(self.out / BEST) as file:
            file.write(recipe.to_yaml())

    def out_of_time(self) -> bool:
        """True if no other trial may begin."""
        return self._spent() >= self.seconds

    def _spent(self) -> float:
        return self.journal.spent_s + time.monotonic() - self._began

    def _write(self) -> None:
        now = time.monotonic()
        self.journal.spent_s += now - self._began
        self._began = now
        self.journal.write(self.out)

    def new_trial(self, values: Values) -> Trial:
        """Add a trial."""
        trial = Trial(len(self.journal.trials) + 1, values)
        self.journal.trials.append(trial)
        self._write()
        return trial
