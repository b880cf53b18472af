"""What a run asks of a framework; `torch/engine.py` and `jax/engine.py` implement it.

A run decides when something happens, an engine how. Batches are passed as rows of examples; weights are never passed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from conjoin import spec
from conjoin.checkpoint import Staging
from conjoin.errors import TrainingError
from conjoin.families import PretrainedConfig
from conjoin.generation.config import GenerationConfig
from conjoin.join import JoinReport
from conjoin.join.diagnosis import Diagnosis
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.state import TrainerState
from conjoin.training.settings.arguments import TrainingArguments


class Trainable(Protocol):
    """A model of any framework, as a run uses it."""

    config: PretrainedConfig
    join_report: JoinReport
    tokenizer: Any
    reads_ids: ClassVar[bool]
    """False where the encoder is a module of the caller's, which reads arrays."""

    @property
    def spec(self) -> spec.PairSpec:
        """The structure of the model."""
        ...

    @property
    def generation_config(self) -> GenerationConfig:
        """The settings with which it generates."""
        ...

    def doctor(self, batch: Mapping[str, Any]) -> Diagnosis:
        """Check that the model can learn from a batch."""
        ...


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of the steps since they were last read.

    Args:
        total: Their sum, over all processes.
        steps: Number of steps.
        grad_norm: Gradient norm of the last step, before clipping.
        finite: True if they are finite; in float16 some may overflow.
    """

    total: float
    steps: int
    grad_norm: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms the coming steps are taken.

    Args:
        position: Where they are in the schedule of learning rates, counted from 1; None for the step's own number.
        rate_scale: Factor of all learning rates.
        dropout: False leaves dropout out.
    """

    position: float | None = None
    rate_scale: float = 1.0
    dropout: bool = True

    def rates(self, rates: Mapping[str, Callable[[float], float]], step: int) -> dict[str, float]:
        """Return the learning rate of every part of the model."""
        at = step if self.position is None else self.position
        return {part: rate(at) * self.rate_scale for part, rate in rates.items()}


class Engine(Protocol):
    """A model and what trains it.

    Attributes:
        terms: Those of the coming steps, which a run sets.
    """

    terms: Terms

    def begin(self, step: int) -> None:
        """Prepare a step, 1 for the first: which parameters it trains, and its learning rates.

        Raises:
            TrainingError: every parameter is frozen.
        """
        ...

    def step(self, number: int, examples: Examples, batches: list[Batch], counted: float) -> bool:
        """Take one step.

        Args:
            number: 1 for the first.
            batches: Those of the whole step, over all processes.
            counted: Number of labels in them, weighted by pair; the step's loss is their mean.

        Returns:
            False if loss or gradient is known not to be finite; devices that would have to wait are not asked before
            `losses`.

        Raises:
            TrainingError: out of memory, with what to change.
        """
        ...

    def losses(self) -> Losses:
        """Read the losses of the steps since the last call; every process must call it."""
        ...

    def rates_at(self, step: int) -> dict[str, float]:
        """Return the learning rate of every part of the model."""
        ...

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """Disable dropout and use averaged weights, if there are some, as in saved models.

        Random numbers drawn in between change nothing for the run.
        """
        ...

    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Restore every random generator afterwards, whatever a user's metrics and callbacks drew."""
        ...

    def mean_loss(self, examples: Examples) -> float:
        """Return the loss per label, weighted by pair, without label smoothing."""
        ...

    def predict(self, examples: Examples, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for every example, in order, without start id and padding; all processes together."""
        ...

    def generate(self, examples: Examples, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for one batch in this process."""
        ...

    def cross_attention(self, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Return the cross-attention weights of every layer: [B, H, T, S]."""
        ...

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write the checkpoint of a step: whole, or not at all.

        Raises:
            ConjoinError: the folder cannot be written.
        """
        ...

    def restore(self, folder: Path, step: int) -> None:
        """Go on from a checkpoint, whichever framework wrote it.

        Raises:
            TrainingError: it does not fit, or cannot be read.
        """
        ...

    def snapshot(self) -> Any:
        """Copy what steps change into main memory, random states left out; None if a weight is not finite."""
        ...

    def return_to(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        ...

    def start_again(self, arguments: TrainingArguments, first: Any) -> None:
        """Go back to the first weights, without moments, and train by other arguments from there.

        Args:
            first: A snapshot.
        """
        ...

    def load_weights(self, folder: Path) -> None:
        """Give the model the weights of a saved model, and change nothing else.

        Raises:
            TrainingError: it is another model.
        """
        ...

    def use_final_weights(self) -> None:
        """Give the model its final weights for good."""
        ...

    def gather_weights(self) -> Callable[[Staging], None]:
        """Gather the weights, in every process; return a function that writes model and tokenizers."""
        ...


OUT_OF_MEMORY = (
    "lower --tokens-per-batch (or --per-device-train-batch-size) and raise --gradient-accumulation-steps by as much; "
    "or --gradient-checkpointing, or --bf16. --resume goes on from the last checkpoint."
)


def out_of_memory(step: int, sources: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]]) -> TrainingError:
    """Return the error of a step that was too large.

    Args:
        sources, targets: Shapes of its batches.
    """
    return TrainingError(
        f"Out of memory at step {step}, with sources of {max(sources)} and targets of {max(targets)} (rows, tokens).",
        hint=OUT_OF_MEMORY,
    )
