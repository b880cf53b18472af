"""Fewer layers of a checkpoint: which ones are kept, and the config of what remains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conjoin import spec
from conjoin.errors import ConfigError, shown
from conjoin.families.config import PretrainedConfig
from conjoin.families.layer_types import LAYER_TYPES
from conjoin.families.record import Role
from conjoin.families.registry import family

Layers = int | Sequence[int]
"""Number of layers to keep, spread evenly, or their indices, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLayers:
    """Layers of one half that are kept.

    Args:
        layers: Their indices in the checkpoint, ascending.
        total: Number of layers of the checkpoint.
        before, config: Config of the checkpoint, and of what remains.
        blocks: Index of a block's weights in the checkpoint -> its new index. Layers of ALBERT share blocks.
    """

    layers: tuple[int, ...]
    total: int
    before: PretrainedConfig
    config: PretrainedConfig
    blocks: Mapping[int, int]


def parse_layers(value: str | Layers | None) -> Layers | None:
    """Return what an option or a recipe says: "6" and 6 are a number of layers, "0,2,5" or "0," are indices.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    numbers = parts[:-1] if len(parts) > 1 and not parts[-1] else parts
    if not all(part.isascii() and part.isdigit() for part in numbers):
        raise ConfigError(
            f"layers = {shown(value)}; expected a number of layers such as 6, or indices from 0 such as 0,2,5."
        )
    return int(value) if len(parts) == 1 else [int(part) for part in numbers]


def parse_indices(value: str | Layers | None) -> Sequence[int] | None:
    """Return a list of layers as an option or a recipe says it: "0,2,5", or a single number.

    Raises:
        ConfigError: it is something else.
    """
    layers = parse_layers(value)
    return [layers] if isinstance(layers, int) else layers


def spread(total: int, count: int) -> tuple[int, ...]:
    """Return the indices of `count` of `total` layers, spread evenly: the first, the last, and equal steps between.

    Layer i of n is the one at i * (total - 1) / (n - 1), halves rounded up; a single layer is the first. For 12 layers
    this is the choice of Shleifer & Rush 2020 (arXiv:2010.13002, 3.1) for 3, 6 and 9, for 4 all but one.
    """
    if count == 1:
        return (0,)
    return tuple((2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def keep_layers(config: PretrainedConfig, role: Role, layers: Layers) -> KeptLayers:
    """Return which layers of one half remain, and the config that describes them.

    Args:
        config: Config of a single model or of a whole seq2seq model, of which only this half changes.

    Raises:
        ConfigError: there are no such layers, or no config of this family describes what would remain.
    """
    kind = family(config.model_type)
    before = kind.stack(config, role)
    field, half = kind.num_layers[role], kind.half(config, role)
    total = getattr(half, field) or len(before.blocks)
    kept = _indices(layers, total, f"{role}_layers")
    per_layer = len(before.blocks) // total
    order = [layer * per_layer + inner for layer in kept for inner in range(per_layer)]
    changes = _changes(half, field, kept, before, order)
    changed = kind.with_half(config, role, **changes)
    after = kind.stack(changed, role)
    if "layer_types" not in changes and after.blocks != tuple(before.blocks[i] for i in order):
        types = _layer_types(config, role, before)
        typed = {"layer_types": [types[i] for i in kept]} if types else {}
        changed = kind.with_half(config, role, **changes, **typed)
        after = kind.stack(changed, role)
    _require_same(config, role, kept, [before.blocks[i] for i in order], before, after)
    blocks = _renumbered(config, [before.weights_of[i] for i in order], after.weights_of)
    return KeptLayers(layers=kept, total=total, before=config, config=changed, blocks=blocks)


def _indices(layers: Layers, total: int, name: str) -> tuple[int, ...]:
    """Return the indices of layers to keep.

    Raises:
        ConfigError: a number or an index is out of range, or indices are not ascending.
    """
    if isinstance(layers, int) and not isinstance(layers, bool):
        if not 1 <= layers <= total:
            raise ConfigError(f"{name} = {layers}; expected 1 to {total}, the number of layers of the checkpoint.")
        return spread(total, layers)
    kept: list[Any] = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    are_indices = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < total for i in kept)
    if not kept or not are_indices or sorted(set(kept)) != kept:
        raise ConfigError(
            f"{name} = {shown(layers)}; expected a number of layers from 1 to {total}, or ascending indices from 0 to "
            f"{total - 1}."
        )
    return tuple(kept)


def _changes(
    config: PretrainedConfig, field: str, kept: Sequence[int], before: spec.StackSpec, order: Sequence[int]
) -> dict[str, Any]:
    """Return the changes of the config that follow from the indices and from what the kept layers compute.

    Args:
        order: Indices of the blocks of the kept layers.
    """
    changes: dict[str, Any] = {field: len(kept)}
    for name in ("layer_types", "attention_layers"):
        if (types := getattr(config, name, None)) is not None:
            changes[name] = [types[i] for i in kept]
    if (inner := getattr(config, "inner_group_num", None)) is not None:
        changes["num_hidden_groups"] = len({before.weights_of[i] // inner for i in order})
    readings = [before.blocks[i].self_attn for i in order]
    if hasattr(config, "no_rope_layers"):
        changes["no_rope_layers"] = [int(each.rotary is not None) for each in readings]
    if hasattr(config, "attention_types"):
        changes["attention_types"] = [[["local" if each.window else "global" for each in readings], 1]]
    return changes


def _layer_types(config: PretrainedConfig, role: Role, before: spec.StackSpec) -> list[str] | None:
    """Return the type of every layer of a config that has a pattern instead of `layer_types`; None if it has neither.

    The pattern counts layers, so it would mean other layers once some are dropped.
    """
    known = family(config.model_type)
    if not hasattr(known.half(config, role), "layer_types"):
        return None
    count = len(before.blocks)
    stacks = {
        kind: known.stack(known.with_half(config, role, layer_types=[kind] * count), role) for kind in LAYER_TYPES
    }
    return [next((t for t in LAYER_TYPES if stacks[t].blocks[i] == block), "") for i, block in enumerate(before.blocks)]


def _require_same(
    config: PretrainedConfig,
    role: Role,
    kept: Sequence[int],
    blocks: Sequence[spec.Block],
    before: spec.StackSpec,
    after: spec.StackSpec,
) -> None:
    """Raise if the stack of the new config computes anything else than the kept layers of the old one."""
    expected = replace(before, blocks=tuple(blocks), weights_of=after.weights_of)
    if after == expected:
        return
    wrong = [kept[i * len(kept) // len(blocks)] for i, block in enumerate(blocks) if after.blocks[i] != block]
    raise ConfigError(
        f"{config.model_type}: a config with {len(kept)} layers cannot describe layers {_some(wrong)} of this {role}: "
        "what they compute depends on their place.",
        hint="keep layer 0 where the first layer differs from the others (ModernBERT); GPT-2's "
        "scale_attn_by_inverse_layer_idx cannot lose layers.",
    )


def _renumbered(config: PretrainedConfig, old: Sequence[int], new: Sequence[int]) -> dict[int, int]:
    """Return old index of a block's weights -> new index.

    Raises:
        ConfigError: the new config lets other layers share weights than the checkpoint does.
    """
    blocks: dict[int, int] = {}
    for before, after in zip(old, new, strict=True):
        if blocks.setdefault(before, after) != after:
            break
    else:
        if len(set(blocks.values())) == len(blocks):
            return blocks
    raise ConfigError(
        f"{config.model_type}: the kept layers use the weights of groups {_some(old)}, and a config of "
        f"{len(new)} layers would use {_some(new)}: it splits its layers into groups of equal size.",
        hint="keep as many layers of every group.",
    )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (" ..." if len(numbers) > 12 else "")
