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
from conjoin.training.sweep.trials import OWN, Launch, Outcome, run_until
from conjoin.training.terminal import say

Engine = Literal["halving", "optuna"]
BEST = "best.yaml"
PROBE = 8
"""Steps by which the time of a step is measured; the first one, which prepares things, is not counted."""
TIMELESS = (
    *("learning_rate", "encoder_learning_rate", "decoder_learning_rate", "cross_attention_learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "encoder_warmup_steps", "decoder_warmup_steps"),
    *("cross_attention_warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "seed"),
)
"""Settings that do not change how long a step takes."""
PROBING = 0.1
"""Share of the time after which no other kind of trial is measured."""
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


def _told(trial: Trial) -> str:
    return ", ".join(f"{name}={value}" for name, value in trial.values.items())


def _measure(trial: Trial, outcome: Outcome) -> None:
    """Note how long the steps of a trial took, if any were measured."""
    if outcome.count:
        trial.step_s = max(outcome.steps_s / outcome.count, 1e-6)
        trial.start_s = max(outcome.all_s - outcome.steps_s, 0.0)


def _mean_times(trials: Sequence[Trial]) -> tuple[float, float]:
    """Return the mean seconds of a step, and of what is around the steps of a rung, of those that were measured."""
    measured = [trial for trial in trials if trial.step_s]
    if not measured:
        return 1e-6, 0.0
    return sum(t.step_s for t in measured) / len(measured), sum(t.start_s for t in measured) / len(measured)


class Sweep:
    """Trains a recipe with several combinations of settings, one after the other, within a time.

    Every trial of a rung is trained to the same step, evaluated, and saved; the best third goes on from there, with the
    schedule that it began: that of a whole run of the last trial. A trial that cannot be trained, such as one whose
    loss is not finite or that needs too much memory, ends alone.

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
        if own := [name for name in space if name in OWN]:
            raise ConfigError(
                f"--over {', '.join(own)}: a sweep decides itself how long trials train, and when they are evaluated "
                "and saved.",
                hint="vary other settings; train the best recipe (best.yaml) as long as you like.",
            )
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
            ConjoinError: data that cannot be used, a file that cannot be written; or all trials failed.
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
        """Measure a step of every kind of trial, in runs that are thrown away; a trial that cannot be trained fails.

        Optuna chooses other values than those that are listed here: one kind is measured for it.
        """
        kinds: dict[str, list[Trial]] = {}
        for trial in self.journal.trials:
            differing = sorted((name, value) for name, value in trial.values.items() if name not in TIMELESS)
            kinds.setdefault("" if self.engine == "optuna" else repr(differing), []).append(trial)
        for alike in kinds.values():
            if any(trial.step_s for trial in self.journal.trials) and self._spent() > PROBING * self.seconds:
                break
            measured = next((trial for trial in alike if self._probe(trial)), None)
            if measured is not None:
                for trial in alike:
                    trial.step_s, trial.start_s = measured.step_s, measured.start_s
        left = [trial for trial in self.journal.trials if trial.status != "failed"]
        if not left:
            raise ConfigError(f"No trial can be trained; the first: {self.journal.trials[0].problem}.")
        step_s, start_s = _mean_times(left)
        starts = ladder(len(left), FEWEST * len(left) * 100).starts
        return ladder(len(left), (MARGIN * (self.seconds - self._spent()) - starts * start_s) / step_s)

    def _probe(self, trial: Trial) -> bool:
        """Measure a step of a trial; False, and the trial has failed, if it cannot be trained."""
        if trial.status == "failed":
            return False
        probe = self.out / "probe"
        shutil.rmtree(probe, ignore_errors=True)
        outcome = run_until(self.settings, trial.values, probe, step=PROBE, total=PROBE, launch=self._launch)
        shutil.rmtree(probe, ignore_errors=True)
        if outcome.problem:
            trial.status, trial.problem = "failed", outcome.problem
            say(f"trial {trial.number} ({_told(trial)}): {trial.problem}")
            return False
        _measure(trial, outcome)
        return True

    def _say_plan(self, plan: Ladder) -> None:
        rungs = ", ".join(f"{n} to step {step:,}" for n, step in zip(plan.trials, plan.steps, strict=True))
        step_s, _ = _mean_times(self.journal.trials)
        say(f"{len(self.journal.trials)} trials, a step takes {1000 * step_s:,.0f} ms: {rungs}.")

    def _halve(self, plan: Ladder) -> None:
        alive = list(self.journal.trials)
        for rung, count in enumerate(plan.trials):
            alive = [trial for trial in alive if trial.status != "failed"][:count]
            begun = any(len(trial.scores) > rung for trial in alive)
            if rung and not begun and self.out_of_time():
                say(f"The time is over: the trials are compared at step {plan.steps[rung - 1]:,}.")
                return
            if not begun:
                plan = self._fitted(plan, rung, alive)
            alive = self._rung(alive, rung, plan.steps[rung])
            for trial in alive[plan.trials[rung + 1] :] if rung + 1 < len(plan.trials) else []:
                trial.status = "stopped"
            self._write()

    def _rung(self, trials: Sequence[Trial], rung: int, step: int) -> list[Trial]:
        """Train trials to the end of a rung, as far as the time lasts; return those that got there, the best first."""
        for trial in trials:
            if len(trial.scores) <= rung and any(len(each.scores) > rung for each in trials) and self.out_of_time():
                trial.status, trial.problem = "stopped", "the time was over before it"
                say(f"trial {trial.number} ({_told(trial)}), step {step:,}: {trial.problem}")
                continue
            self.advance(trial, rung, step)
        return self.ranked([trial for trial in trials if trial.status != "failed" and len(trial.scores) > rung])

    def _fitted(self, plan: Ladder, rung: int, alive: Sequence[Trial]) -> Ladder:
        """Shorten the rungs that are left if the machine has become slower than it was measured to be."""
        steps, starts = plan.from_rung(rung)
        step_s, start_s = _mean_times(alive)
        left = self.seconds - self._spent() - starts * start_s
        needed = steps * step_s
        if rung == 0 or needed <= left:
            return plan
        self.journal.ladder = shorter = plan.shortened(rung, max(left / needed, 0.0))
        say(f"A step takes {1000 * step_s:,.0f} ms now: trials end at step {shorter.total:,}.")
        self._write()
        return shorter

    def advance(self, trial: Trial, rung: int, step: int) -> float | None:
        """Train a trial to the end of a rung, unless it is there; return its score."""
        assert self.journal.ladder is not None
        if len(trial.scores) > rung or trial.status == "failed":
            return _last(trial)
        trial.status, trial.problem = "running", ""
        self._write()
        try:
            outcome = run_until(
                self.settings,
                trial.values,
                self.out / trial.folder,
                step=step,
                total=self.journal.ladder.total,
                launch=self._launch,
            )
        except BaseException:
            self._write()  # the time that it took
            raise
        self._note(trial, outcome, step)
        return outcome.score

    def _note(self, trial: Trial, outcome: Outcome, step: int) -> None:
        assert self.journal.ladder is not None
        trial.steps = step
        _measure(trial, outcome)
        if outcome.score is None:
            trial.status, trial.problem = "failed", outcome.problem
        else:
            trial.scores.append(outcome.score)
            trial.status = "finished" if step == self.journal.ladder.total else "waiting"
        self._write()
        told = trial.problem or f"{self.args.metric_for_best_model} {outcome.score:.4f}"
        say(f"trial {trial.number} ({_told(trial)}), step {step:,}: {told}")

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
        trial = Trial(max((each.number for each in self.journal.trials), default=0) + 1, values)
        self.journal.trials.append(trial)
        self._write()
        return trial
