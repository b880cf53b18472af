"""Optuna as the engine of a sweep: it chooses the values of each trial by earlier ones, and stops those that lag."""

from typing import Any, Protocol

from conjoin.errors import MissingBackend
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.sweep.journal import Journal, Trial
from conjoin.training.sweep.ladder import KEPT
from conjoin.training.sweep.space import Choices, Interval, Space, Values


class Trains(Protocol):
    """What a sweep does for its engine."""

    journal: Journal
    args: TrainingArguments
    space: Space
    count: int

    def advance(self, trial: Trial, rung: int, step: int) -> float | None:
        """Train a trial to the end of a rung; return its score, None if it failed."""
        ...

    def new_trial(self, values: Values) -> Trial:
        """Add a trial."""
        ...

    def out_of_time(self) -> bool:
        """True if no other trial may begin."""
        ...


def run_trials(sweep: Trains) -> None:
    """Run as many trials as the sweep has, each chosen by Optuna's TPE and stopped by its successive halving.

    The journal of the sweep is the storage: a study is made of it anew when the sweep goes on.

    Raises:
        MissingBackend: optuna is not installed.
    """
    optuna = import_optuna()
    plan = sweep.journal.ladder
    assert plan is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if sweep.args.better_when_greater else "minimize",
        sampler=optuna.samplers.TPESampler(seed=sweep.args.seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=KEPT),
    )
    space = distributions(optuna, sweep.space)
    begun = [trial for trial in sweep.journal.trials if trial.status != "waiting" or trial.scores]
    sweep.journal.trials[:] = begun
    for trial in begun:
        if trial.status in ("finished", "stopped", "failed"):
            study.add_trial(_told(optuna, trial, space))
    running = [trial for trial in begun if trial.status in ("running", "waiting")]
    for index in range(sweep.count - len(begun) + len(running)):
        if sweep.out_of_time() and sweep.journal.trials:
            break
        if index < len(running):
            trial = running[index]
            study.enqueue_trial(trial.values)
            asked = study.ask(space)
        else:
            asked = study.ask(space)
            trial = sweep.new_trial(dict(asked.params))
        _run(optuna, study, asked, sweep, trial)


def _run(optuna: Any, study: Any, asked: Any, sweep: Trains, trial: Trial) -> None:
    """Train a trial rung by rung, until Optuna stops it."""
    plan = sweep.journal.ladder
    assert plan is not None
    states = optuna.trial.TrialState
    for rung, step in enumerate(plan.steps):
        score = sweep.advance(trial, rung, step)
        if score is None:
            study.tell(asked, state=states.FAIL)
            return
        asked.report(trial.scores[rung], rung + 1)
        if step != plan.total and asked.should_prune():
            trial.status = "stopped"
            study.tell(asked, state=states.PRUNED)
            return
    study.tell(asked, trial.scores[-1])


def distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """Return a space as Optuna has it."""
    made: dict[str, Any] = {}
    for name, each in space.items():
        match each:
            case Choices(values):
                made[name] = optuna.distributions.CategoricalDistribution(values)
            case Interval(low, high, whole=True):
                made[name] = optuna.distributions.IntDistribution(int(low), int(high), log=True)
            case Interval(low, high):
                made[name] = optuna.distributions.FloatDistribution(low, high, log=True)
    return made


def _told(optuna: Any, trial: Trial, space: dict[str, Any]) -> Any:
    """Return a trial of the journal as one of a study."""
    states = optuna.trial.TrialState
    state = {"finished": states.COMPLETE, "stopped": states.PRUNED}.get(trial.status, states.FAIL)
    return optuna.trial.create_trial(
        params=trial.values,
        distributions=space,
        state=state,
        value=trial.scores[-1] if state == states.COMPLETE else None,
        intermediate_values={rung + 1: score for rung, score in enumerate(trial.scores)},
    )


def import_optuna() -> Any:
    """Import optuna.

    Raises:
        MissingBackend: it is not installed.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingBackend("--engine optuna needs optuna: pip install 'conjoin[sweep]'") from None
    return optuna
