"""The doctor before the first step: a look at model and batch that hours of training would otherwise replace."""

from typing import TYPE_CHECKING, Any

from conjoin.errors import ConfigError, TrainingError
from conjoin.join.diagnosis import Diagnosis
from conjoin.training.data.arrays import batch_arrays
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.progress import show

if TYPE_CHECKING:
    from conjoin.training.loop.trainer import Trainer

ROWS = 8
"""Pairs that the doctor sees: its checks need few, and each costs a forward pass."""
FATAL = ("ids", "labels", "start", "future", "source")
"""Checks whose failure makes training useless; others are shown and may be meant."""


def refuse_quantized(quantization: object) -> None:
    """Refuse a model in 8 bits.

    Args:
        quantization: `quantization_config` of its config, if there is one.

    Raises:
        ConfigError: there is one.
    """
    if quantization:
        raise ConfigError(
            "The model is in 8 bits, which is for inference only: it cannot be trained.",
            hint="train the model that it was made of, then call model.quantize('int8').",
        )


def examine(trainer: "Trainer[Any]", examples: Examples, batch: Batch) -> Diagnosis:
    """Show where parameters come from and what the doctor says of the first batch.

    Raises:
        TrainingError: training is bound to fail; with the fixes.
    """
    rows: Batch = [[index] for row in batch for index in row][:ROWS]
    diagnosis = trainer.diagnose(batch_arrays(examples, rows, trainer.source_pad, trainer.target_pad))
    show(trainer.model.join_report, diagnosis)
    fatal = [finding for finding in diagnosis.failed if finding.check in FATAL]
    if fatal:
        lines = "\n".join(f"  {finding.check}: {finding.detail}\n    fix: {finding.fix}" for finding in fatal)
        raise TrainingError(
            f"The doctor found what makes this training useless:\n{lines}", hint="--no-doctor trains all the same."
        )
    return diagnosis
