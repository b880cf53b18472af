"""What a framework does in a run: the seam under `run.py`. `torch/engine.py` and `jax/engine.py` are the two there are.

A run knows when something happens, an engine how. Batches cross the seam as rows of examples, weights never do.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conjoin import spec
from conjoin.checkpoint import Staging
from conjoin.errors import TrainingError
from conjoin.families import PretrainedConfig
from conjoin.join import JoinReport
from conjoin.join.diagnosis import Diagnosis
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.state import TrainerState


class Trainable(Protocol):
    """What a run asks of any framework's model."""

    config: PretrainedConfig
    join_report: JoinReport
    tokenizer: Any

    @property
    def spec(self) -> spec.PairSpec:
        """What the model is."""
        ...

    def doctor(self, batch: Mapping[str, Any]) -> Diagnosis:
        """Check that the model can learn from a batch."""
        ...


class World(Protocol):
    """This process among all of a run."""

    @property
    def rank(self) -> int:
        """Its number."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        ...

    @property
    def many(self) -> bool:
        """Whether there are others."""
        ...

    def on_first(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait; its failure is everybody's."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The world of a run of one process."""

    rank: int = 0
    size: int = 1
    first: bool = True
    many: bool = False

    def on_first(self, work: Callable[[], object]) -> None:
        """Do it."""
        work()


@dataclass(frozen=True, slots=True)
class Losses:
    """What the steps since the last reading came to.

    Args:
        total: Sum of their losses, over all processes.
        steps: How many they were.
        grad_norm: Of the last step, before clipping.
        sound: Whether they are numbers, as far as the number format allows.
    """

    total: float
    steps: int
    grad_norm: float
    sound: bool


class Engine(Protocol):
    """A model and what trains it."""

    def begin(self, step: int) -> None:
        """Get ready for the step, 1 for the first: which parameters it trains, and its learning rates.

        Raises:
            TrainingError: every parameter is frozen.
        """
        ...

    def step(self, number: int, examples: Examples, batches: list[Batch], counted: float) -> bool:
        """Take one step.

        Args:
            number: 1 for the first.
            batches: Of the whole step, over all processes.
            counted: Labels in them, each as often as its pair's weight says; the step's loss is their mean.

        Returns:
            False where loss or gradient is known to be no number already; devices that would have to wait are not
            asked before `losses`.

        Raises:
            TrainingError: out of memory, with what to change.
        """
        ...

    def losses(self) -> Losses:
        """Read the losses of the steps since the last call; every process must ask."""
        ...

    def rates_at(self, step: int) -> dict[str, float]:
        """Learning rate by part of the model."""
        ...

    def evaluated(self) -> AbstractContextManager[None]:
        """Let the model be as evaluations and saved models have it: no dropout, averaged weights where there are some.

        What is drawn in between changes nothing for the run.
        """
        ...

    def undisturbed(self) -> AbstractContextManager[None]:
        """Put every random generator back afterwards, whatever a user's metrics and callbacks drew."""
        ...

    def mean_loss(self, examples: Examples) -> float:
        """Loss per counted label, by the weights of pairs, without label smoothing."""
        ...

    def predict(self, examples: Examples, settings: dict[str, Any]) -> list[list[int]]:
        """Generated ids of every example, in their order, without start id and padding; all processes together."""
        ...

    def write(self, examples: Examples, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
        """Generated ids of one batch, by this process."""
        ...

    def cross_attention(self, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """What the decoder reads, layer by layer: [B, H, T, S]."""
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

    def settle(self) -> None:
        """Let the model have its final weights for good."""
        ...

    def gathered(self) -> Callable[[Staging], None]:
        """Gather the model's weights, every process; what is returned writes model and tokenizers."""
        ...


OUT_OF_MEMORY = (
    "lower --tokens-per-batch (or --per-device-train-batch-size) and raise --gradient-accumulation-steps by as much; "
    "or --gradient-checkpointing, or --bf16. --resume goes on from the last checkpoint."
)


def out_of_memory(step: int, sources: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]]) -> TrainingError:
    """The error of a step that was too large.

    Args:
        sources, targets: Shapes of its batches.
    """
    return TrainingError(
        f"Out of memory at step {step}, with sources of {max(sources)} and targets of {max(targets)} (rows, tokens).",
        hint=OUT_OF_MEMORY,
    )
