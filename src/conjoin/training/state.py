"""Where a run stands: plain numbers that travel in a checkpoint as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from conjoin.errors import TrainingError


class DamagedCheckpoint(TrainingError):
    """A checkpoint's files are missing or cannot be read."""


@dataclass(kw_only=True)
class TrainerState:
    """Progress of a run.

    Args:
        global_step: Optimizer steps taken.
        epoch: Index of the running pass over the data.
        batches_seen: Batches of that pass which are done, counted over all processes.
        tokens_seen: Source and target tokens trained on, without padding.
        seconds: Time spent training, over all interruptions.
        loss_sum, loss_steps: Loss since the last log.
        best_metric, best_step: Of the best evaluation so far.
        evaluations_without_progress: For early stopping.
        fresh: Names of the parameters that no checkpoint had when the run began.
        plan: What the order of batches depends on; a resumed run must have the same.
        batches_per_step: Over all processes; kept when their number changes.
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

    def to_dict(self) -> dict[str, Any]:
        """What the checkpoint's JSON holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            DamagedCheckpoint: it is something else.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise DamagedCheckpoint(f"This is not the state of a run: {error}.") from None
