"""A model with everything that a run trains it with; the names of its trained parameters."""

from collections import defaultdict

from conjoin.errors import warn
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.training import parameter_table
from conjoin.join import part_of, parts_named
from conjoin.training.jax.adamw import Arrays, zero_moments
from conjoin.training.settings.arguments import TrainingArguments


class TrainedModel:
    """What steps change, evaluations use and checkpoints keep.

    Attributes:
        parameters: Names of the parameters that are trained.
        updates: How many updates each of them had.
        moments: AdamW's moments of them.
        average: Their moving average, or None.
    """

    def __init__(self, model: FlaxEncoderDecoderModel, arguments: TrainingArguments) -> None:
        self.model, self.arguments = model, arguments
        self.parameters = trained_names(model, arguments)
        self.updates: dict[str, int] = {}
        self.moments = zero_moments({})
        self.average: Arrays | None = None


def trained_names(model: FlaxEncoderDecoderModel, arguments: TrainingArguments) -> list[str]:
    """Return the names of all trainable parameters outside the frozen parts; a shared parameter is in two parts.

    Raises:
        ConfigError: no such part.
    """
    parts = _parts(model)
    names = [name.strip() for name in arguments.freeze.split(",")] if arguments.freeze else []
    frozen = parts_named(names, {part for of_one in parts.values() for part in of_one}) if names else set[str]()
    halves = {part for of_one in parts.values() if of_one & frozen for part in of_one} - frozen
    if halves:
        warn(f"The halves share parameters: those of {', '.join(sorted(halves))} are frozen too.")
    table = parameter_table(model)
    return [name for name, kind in table.items() if kind.trained and not parts[name] & frozen]


def _parts(model: FlaxEncoderDecoderModel) -> dict[str, set[str]]:
    """Return the parts of the model that each parameter is in."""
    parts: dict[str, set[str]] = defaultdict(set)
    for name, same in (*((name, name) for name in model.flat_params), *model.key.ties):
        parts[same].add(part_of(name))
    return dict(parts)
