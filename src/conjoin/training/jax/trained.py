"""Which parameters of a model are trained; in PyTorch a parameter knows by itself."""

from collections import defaultdict

from conjoin.errors import warn
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.training import parameter_table
from conjoin.join import part_of, parts_named
from conjoin.training.settings.arguments import TrainingArguments


def trained_names(model: FlaxEncoderDecoderModel, arguments: TrainingArguments) -> list[str]:
    """All that can be, but for the parts that the arguments freeze; a shared parameter is in two parts.

    Raises:
        ConfigError: no such part.
    """
    parts = _parts(model)
    words = [word.strip() for word in arguments.freeze.split(",")] if arguments.freeze else []
    there = {part for found in parts.values() for part in found}
    frozen = parts_named(words, there) if words else set[str]()
    halves = {part for found in parts.values() if found & frozen for part in found} - frozen
    if halves:
        warn(f"The halves share parameters: those of {', '.join(sorted(halves))} are frozen too.")
    table = parameter_table(model)
    return [name for name, kind in table.items() if kind.trained and not parts[name] & frozen]


def _parts(model: FlaxEncoderDecoderModel) -> dict[str, set[str]]:
    """Name -> the parts that have the parameter."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, same in (*((name, name) for name in model.flat_params), *model.net.ties):
        found[same].add(part_of(name))
    return dict(found)
