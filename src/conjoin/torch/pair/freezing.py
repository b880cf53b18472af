"""Choose which parts of a joined model are trained.

Parts are those of the join report: `encoder.embedding`, `encoder.layers`, `decoder.embedding`, `decoder.layers`,
`decoder.cross_attention` (with the width projection) and `decoder.head`. A single name selects all parts
that contain it: "encoder", "decoder", "embeddings", "layers", "cross_attention", "head".
"""

from collections.abc import Iterator

from torch import nn

from conjoin import spec
from conjoin.errors import warn
from conjoin.join import part_of, parts_named


def set_trained(model: nn.Module, pair: spec.PairSpec, chosen: set[str], trained: bool) -> None:
    """Train these parts of a model, or stop training them. Tables that are never trained stay so."""
    fixed = {name for name, parameter in spec.pair_parameters(pair).items() if not parameter.trained}
    selected = {id(parameter) for name, part, parameter in _named(model) if part in chosen and name not in fixed}
    also: set[str] = set()
    for _, part, parameter in _named(model):
        if id(parameter) in selected:
            parameter.requires_grad_(trained)
            also |= {part} - chosen
    if also:
        warn(
            f"The halves share parameters: those of {', '.join(sorted(also))} are "
            f"{'trained' if trained else 'frozen'} too."
        )


def select(model: nn.Module, names: tuple[str, ...]) -> set[str]:
    """Return the parts of a model that names select.

    Raises:
        ConfigError: there is no such part, or no name; the message lists all parts.
    """
    return parts_named(names, parts(model))


def parts(model: nn.Module) -> set[str]:
    """Return the names of all parts."""
    return {part for _, part, _ in _named(model)}


def frozen_parts(model: nn.Module) -> list[str]:
    """Return the parts that have no trained parameter."""
    return sorted(parts(model) - {part for _, part, parameter in _named(model) if parameter.requires_grad})


def _named(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (name, part, parameter), shared parameters under every name."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, part_of(name), parameter
