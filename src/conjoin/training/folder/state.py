"""The progress of a run, as plain values that a checkpoint stores as JSON."""

import sys
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, cast, get_args, get_type_hints

from conjoin.errors import TrainingError, listing, shown
from conjoin.limits import STEPS


class DamagedCheckpoint(TrainingError):
    """A checkpoint's files are missing or cannot be read."""


@dataclass(kw_only=True)
class TrainerState:
    """Progress of a run.

    Args:
        global_step: Optimizer steps taken.
        max_steps: Steps of the whole run; 0 where minutes or tokens end it.
        epoch: Index of the current pass over the data.
        batches_seen: Number of batches of this pass that are done, over all processes.
        tokens_seen: Source and target tokens trained on, without padding.
        seconds: Training time, summed over all resumptions.
        loss_sum, loss_steps: Sum of losses and number of steps since the last log.
        best_metric, best_step: Metric and step of the best evaluation so far.
        evaluations_without_progress: Number of evaluations in a row without progress, for early stopping.
        fresh: Names of the parameters that were newly initialised when the run began.
        plan: Everything that determines the order of batches; a resumed run must have the same.
        batches_per_step: Batches per step over all processes; it does not change with the number of processes.
        validation: Fingerprint of the validation data.
        words: Settings of the run; a resumed run names those that differ.
        evaluation_due: True if the checkpoint was saved before the evaluation of its step.
        share, clock: Part of the budget that is used; and with minutes, the seconds since the command began, summed
            over all resumptions.
        minutes: Minutes of the budget of which `share` is a part; 0 for one of steps or tokens.
        step_s, save_s, evaluation_s: Seconds that a step, a save and an evaluation took lately; 0 if none was measured.
        restarts, restarted_at: How often the run began again from its first weights, and the part of its budget that
            was used by then.
        returns, rate_scale: How often it went back to an earlier step, and the factor of learning rates since then.
        windows: Mean losses of the last windows of steps, by which a spike is known.
        window_sum, window_steps: Sum of losses and number of steps of the running window.
    """

    global_step: int = 0
    max_steps: int = 0
    epoch: int = 0
    batches_seen: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    total_loss: float = 0.0
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_without_progress: int = 0
    fresh: list[str] = field(default_factory=list[str])
    plan: dict[str, Any] = field(default_factory=dict[str, Any])
    batches_per_step: int = 1
    evaluation_due: bool = False
    validation: str | None = None
    words: dict[str, Any] = field(default_factory=dict[str, Any])
    share: float = 0.0
    clock: float = 0.0
    minutes: float = 0.0
    step_s: float = 0.0
    save_s: float = 0.0
    evaluation_s: float = 0.0
    restarts: int = 0
    restarted_at: float = 0.0
    returns: int = 0
    rate_scale: float = 1.0
    window_sum: float = 0.0
    window_steps: int = 0
    windows: list[float] = field(default_factory=list[float])

    def forget_evaluation(self, before: "TrainerState") -> None:
        """Restore the fields that an evaluation has changed."""
        self.best_metric, self.best_step = before.best_metric, before.best_step
        self.evaluations_without_progress = before.evaluations_without_progress

    @property
    def of_all(self) -> str:
        """The number of all steps, for messages; nothing where minutes or tokens end the run."""
        return f" of {self.max_steps}" if self.max_steps else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for the checkpoint's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a state from the values of `to_dict`.

        Raises:
            DamagedCheckpoint: the values are not the state of a run.
        """
        try:
            state = cls(**values)
        except TypeError as error:
            raise DamagedCheckpoint(f"This is not the state of a run: {shown(str(error))}.") from None
        if problems := state._problems():
            raise DamagedCheckpoint(f"This is not the state of a run:\n{listing(problems)}")
        return state

    def _problems(self) -> list[str]:
        """Return a message for every value that no run can have written."""
        kinds = get_type_hints(type(self))
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = [
            f"{name} = {shown(value)}; expected {_EXPECTED[kinds[name]]}."
            for name, value in values.items()
            if not _has_type(value, kinds[name])
        ]
        if not problems and not (self.batches_per_step >= 1 and self.epoch <= self.global_step):
            problems.append(
                f"batches_per_step = {self.batches_per_step} and epoch = {self.epoch} of step {self.global_step}; "
                "expected 1 or more batches, and a step for every epoch."
            )
        return problems


_EXPECTED: dict[Any, str] = {
    int: "a whole number, 0 or more",
    int | None: "a whole number, 0 or more, or null",
    float: "a finite number",
    float | None: "a finite number or null",
    bool: "true or false",
    str | None: "text or null",
    list[str]: "a list of texts",
    list[float]: "a list of finite numbers",
    dict[str, Any]: "an object",
}


def _has_type(value: Any, kind: Any) -> bool:
    """True if a JSON value has the type of a field."""
    if kind in (bool, dict[str, Any]):
        return isinstance(value, bool if kind is bool else dict)
    if kind == list[float]:
        return isinstance(value, list) and all(_has_type(each, float) for each in cast("list[Any]", value))
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value))
    if value is None or isinstance(value, str):
        return type(value) in get_args(kind)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if int in (kind, *get_args(kind)):
        return isinstance(value, int) and 0 <= value < STEPS
    return float in (kind, *get_args(kind)) and abs(value) <= sys.float_info.max
