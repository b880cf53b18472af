"""Blocks under new numbers: names of a checkpoint's tensors, and parameters in memory, once layers are dropped."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from conjoin.checkpoint import NameTable, Rule
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, JoinError
from conjoin.families import KeptLayers, Layers, PretrainedConfig, Role, family, keep_layers
from conjoin.join.names import names_of_all
from conjoin.join.pair import pair_spec

_BLOCK = re.compile(r"blocks\.(?:(\d+)|\{([a-z])\})\.")
"""The number of a block in a canonical name, or its placeholder in a rule."""


def renumbered(name: str, blocks: Mapping[int, int]) -> str | None:
    """Return a canonical name with its block's new number; None if the block is dropped."""
    match = _BLOCK.search(name)
    if match is None:
        return name
    new = blocks.get(int(match[1]))
    return None if new is None else f"{name[: match.start()]}blocks.{new}.{name[match.end() :]}"


def table_of_kept(table: NameTable, blocks: Mapping[int, int]) -> NameTable:
    """Return the table that reads only some blocks of a checkpoint, under their new numbers.

    Args:
        blocks: Number of a block in the checkpoint -> its new number.
    """
    return NameTable(tuple(rule for each in table.rules for rule in _rules_of_kept(each, blocks)), table.ignored)


def _rules_of_kept(rule: Rule, blocks: Mapping[int, int]) -> Iterator[Rule]:
    match = _BLOCK.search(rule.parts[0])
    if match is None:
        yield rule
        return
    placeholder = f"{{{match[2]}}}" if match[2] else None
    for old in blocks if placeholder else [int(match[1])]:
        literal = [part.replace(placeholder, str(old)) if placeholder else part for part in rule.parts]
        parts = [renumbered(part, blocks) for part in literal]
        if None not in parts:
            name = rule.checkpoint.replace(placeholder, str(old)) if placeholder else rule.checkpoint
            yield replace(rule, checkpoint=name, canonical=tuple(map(str, parts)), copies=())


def parameters_of_kept(parameters: Mapping[str, Any], blocks: Mapping[int, int]) -> dict[str, Any]:
    """Return parameters by canonical name, without dropped blocks and with new numbers."""
    new = ((renumbered(name, blocks), parameter) for name, parameter in parameters.items())
    return {name: parameter for name, parameter in new if name is not None}


def sources_of_kept(
    config: EncoderDecoderConfig, before: Sequence[int] | None, kept: Mapping[Role, KeptLayers]
) -> list[int] | None:
    """Return the encoder layer that each kept decoder layer reads with, where layers are read one by one.

    A layer that lost its encoder layer reads with the next one that is left, as near as possible to what the lost one
    would have got.

    Args:
        config: Of the pair that remains.
        before: The encoder layers with which all decoder layers read; None for those of their own numbers.

    Returns:
        None where nothing says which layers belong together.
    """
    layers: dict[Role, list[int]] = {}
    totals: dict[Role, int] = {}
    halves: dict[Role, PretrainedConfig] = {"encoder": config.encoder, "decoder": config.decoder}
    for role, half in halves.items():
        blocks = len(family(half.model_type).stack(half, role).blocks)
        one = kept.get(role)
        per_layer = blocks // len(one.layers) if one else 1
        totals[role] = one.total * per_layer if one else blocks
        chosen = one.layers if one else range(blocks)
        layers[role] = [layer * per_layer + inner for layer in chosen for inner in range(per_layer)]
    if before is None and totals["encoder"] != totals["decoder"]:
        return None
    read = range(totals["decoder"]) if before is None else before
    last = len(layers["encoder"]) - 1
    return [min(bisect_left(layers["encoder"], read[own]), last) for own in layers["decoder"]]


def require_same_layers(share: str, halves: Sequence[tuple[PretrainedConfig, Role, KeptLayers | None]]) -> None:
    """Raise if halves that share all parameters keep different layers of as many; None keeps all."""
    if share != "all" or all(layers is None for _, _, layers in halves):
        return
    totals, chosen = list[int](), list[list[int]]()
    for config, role, layers in halves:
        total = len(family(config.model_type).stack(config, role).blocks) if layers is None else layers.total
        totals.append(total)
        chosen.append(list(range(total) if layers is None else layers.layers))
    if totals[0] == totals[1] and chosen[0] != chosen[1]:
        raise JoinError(
            f'share="all": the encoder would keep layers {chosen[0]}, the decoder {chosen[1]}, but both have the same '
            "parameters.",
            hint="keep the same layers of both halves.",
        )


def keep_layers_of(
    config: PretrainedConfig, names: set[str], encoder: Layers | None, decoder: Layers | None
) -> tuple[PretrainedConfig, dict[str, KeptLayers]]:
    """Return the config of a model with fewer layers, and the layers that it keeps of each half.

    Args:
        config: Config of a pair, a whole seq2seq model or a single model.
        names: Names of the checkpoint's tensors, which say which half a file of a seq2seq family holds.

    Returns:
        The config, and prefix of a half's canonical names ("encoder.", "decoder.", or "" of a single model) -> layers.

    Raises:
        ConfigError, JoinError: there are no such layers, or the model's format cannot hold what would remain.
    """
    wanted: dict[Role, Layers | None] = {"encoder": encoder, "decoder": decoder}
    if all(layers is None for layers in wanted.values()):
        raise ConfigError("No layers are given.", hint="shrink(model, out, decoder_layers=3)")
    if isinstance(config, EncoderDecoderConfig):
        halves: dict[Role, PretrainedConfig] = {"encoder": config.encoder, "decoder": config.decoder}
        kept: dict[Role, KeptLayers] = {
            role: keep_layers(halves[role], role, layers) for role, layers in wanted.items() if layers is not None
        }
        require_same_layers(config.share, [(half, role, kept.get(role)) for role, half in halves.items()])
        _require_last_layer(config, kept)
        smaller = config.copy(**{role: half.config.to_dict() for role, half in kept.items()})
        _renumber_fresh(smaller, kept)
        if smaller.cross_attention_init == "layerwise":
            smaller.source_layers = sources_of_kept(smaller, config.source_layers, kept)
        pair_spec(smaller)
        return smaller, {f"{role}.": half for role, half in kept.items()}
    roles: list[Role] = ["decoder", "encoder"]
    held: list[Role] = [role for role in roles if any(f"{role}." in name for name in names)]
    if family(config.model_type).whole and len(held) == 2:
        return _keep_of_whole(config, wanted)
    return _keep_of_single(config, held, wanted)


def _require_last_layer(config: EncoderDecoderConfig, kept: Mapping[Role, KeptLayers]) -> None:
    """Raise if one stack that reads and writes layer by layer loses its last layer.

    That is the only one which the file has under the decoder's name: nothing reads what the encoder's would make.
    """
    half = kept.get("decoder")
    if config.share != "all" or config.cross_attention_init != "layerwise" or half is None:
        return
    if half.total - 1 not in half.layers:
        raise ConfigError(
            f"Layers {list(half.layers)} of {half.total} are to be kept, without the last one, which is the only layer "
            "that this pair's decoder does not share with its encoder.",
            hint=f"keep layer {half.total - 1} too.",
        )


def _keep_of_whole(
    config: PretrainedConfig, wanted: Mapping[Role, Layers | None]
) -> tuple[PretrainedConfig, dict[str, KeptLayers]]:
    """Keep layers of a whole seq2seq model: the decoder first, since T5's follows the encoder's number by default."""
    kept: dict[str, KeptLayers] = {}
    roles: tuple[Role, Role] = ("decoder", "encoder")
    for role in roles:
        layers = wanted[role]
        if layers is None:
            layers = len(family(config.model_type).stack(config, role).blocks)
        kept[f"{role}."] = half = keep_layers(config, role, layers)
        config = half.config
    return config, kept


def _keep_of_single(
    config: PretrainedConfig, held: list[Role], wanted: Mapping[Role, Layers | None]
) -> tuple[PretrainedConfig, dict[str, KeptLayers]]:
    given: list[Role] = [role for role, layers in wanted.items() if layers is not None]
    other = [role for role in given if family(config.model_type).whole and held and role not in held]
    if len(given) != 1 or other:
        has = f"only {' and '.join(held)}" if other else "one stack of layers"
        raise ConfigError(
            f"{' and '.join(f'{role}_layers' for role in given)} of a {config.model_type} checkpoint that has {has}.",
            hint="give the layers of the half that it is: --encoder-layers or --decoder-layers.",
        )
    layers = wanted[given[0]]
    assert layers is not None
    kept = keep_layers(config, given[0], layers)
    return kept.config, {"": kept}


def _renumber_fresh(config: EncoderDecoderConfig, kept: Mapping[Role, KeptLayers]) -> None:
    """Give the names of parameters that are recorded as fresh their new numbers."""
    names: list[str] = []
    for name in config.fresh:
        half = next((half for role, half in kept.items() if name.startswith(f"{role}.")), None)
        names.append(name if half is None else renumbered(name, half.blocks) or "")
    config.fresh = [name for name in names if name]


class LayerNames:
    """New names of the tensors of a checkpoint that loses layers.

    Args:
        before, after: Config of the checkpoint, and of what remains.
        kept: As `keep_layers_of` returns it.
        names: Names of the checkpoint's tensors.
    """

    def __init__(
        self, before: PretrainedConfig, after: PretrainedConfig, kept: Mapping[str, KeptLayers], names: set[str]
    ) -> None:
        self._table = names_of_all(before, names)[0]
        self._new_table = names_of_all(after, names)[0]
        self._kept = kept
        self._whole = None if isinstance(before, EncoderDecoderConfig) else family(before.model_type).whole

    def is_of_layer(self, name: str) -> bool:
        """True if a tensor belongs to a layer."""
        match = self._table.match(name)
        return match is not None and _BLOCK.search(match.canonical[0]) is not None

    def is_unknown(self, name: str) -> bool:
        """True if conjoin has no use for a tensor, which may yet hold weights."""
        return bool(self._table.canonical([name]).unknown)

    def new_name(self, name: str) -> str | None:
        """Return the new name of a tensor; None if it is dropped, or is no weight.

        A tensor that conjoin does not use keeps its name, unless a number in it may be that of a layer.
        """
        match = self._table.match(name)
        if match is None and self._whole is not None and self._whole.leaves_unread(name):
            return name
        if match is None:
            ignored = name in self._table.canonical([name]).ignored
            return None if ignored or re.search(r"\.\d+\.", name) else name
        half = next((half for prefix, half in self._kept.items() if match.canonical[0].startswith(prefix)), None)
        block = _BLOCK.search(match.canonical[0])
        if half is None or block is None:
            return name
        new = half.blocks.get(int(block[1]))
        if new is None:
            return None
        placeholder = _BLOCK.search(match.rule.parts[0])
        assert placeholder is not None
        if placeholder[2]:
            start = match.rule.checkpoint.index(f"{{{placeholder[2]}}}")
            return f"{name[:start]}{new}{name[start + len(block[1]) :]}"
        parts = tuple(str(renumbered(part, half.blocks)) for part in match.canonical)
        return next(rule.checkpoint for rule in self._new_table.rules if rule.parts == parts)
