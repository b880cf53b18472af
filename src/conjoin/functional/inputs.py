"""What a call's arrays must be, before they reach the bricks: sizes, ids, and how labels become decoder inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from conjoin import spec
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ShapeError, listing
from conjoin.families import PretrainedConfig
from conjoin.functional.cache import Cache
from conjoin.functional.loss import IGNORED, TargetRules
from conjoin.join import require_pad, require_start, special_tokens, starts_with_last_label

SOURCE = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "inputs_embeds", "segment_ids")
_SOURCES = ("encoder_outputs", "input_ids", "inputs_embeds")
_TARGETS = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
TARGET = (
    "decoder_input_ids",
    "decoder_attention_mask",
    "decoder_position_ids",
    "decoder_token_type_ids",
    "decoder_inputs_embeds",
    "decoder_segment_ids",
    "labels",
)


def target_rules(config: PretrainedConfig, given: Mapping[str, Any], *, ignored: bool) -> TargetRules | None:
    """How labels become decoder inputs; None where these are given.

    Args:
        ignored: Whether labels are known to hold -100.

    Raises:
        ShapeError: neither decoder inputs nor labels are given.
        ConfigError: the start id is not known, or the pad id where it is needed.
    """
    if given.get("decoder_input_ids") is not None or given.get("decoder_inputs_embeds") is not None:
        return None
    if given.get("labels") is None:
        raise ShapeError(
            "Neither decoder_input_ids nor labels is given.",
            hint="to train, give labels=; to generate, call model.generate(input_ids).\n"
            "A trainer that takes the labels out of the batch, as transformers' does for label smoothing, needs "
            "decoder_input_ids in it: model.prepare_decoder_input_ids_from_labels(labels).",
        )
    tokens, wraps = special_tokens(config), starts_with_last_label(config)
    pad = require_pad(config) if wraps or ignored else tokens.pad
    return TargetRules(
        start=None if wraps else require_start(config),
        pad=0 if pad is None else pad,
        pad_is_padding=tokens.pad is not None and not tokens.pad_is_ambiguous,
        masked=isinstance(config, EncoderDecoderConfig),
    )


def bucket(length: int, size: int, limit: int | None) -> int:
    """The length that is compiled: a multiple of `size`, no more than the limit, no less than the length."""
    padded = -(-length // size) * size
    return max(length, padded if limit is None else min(padded, limit))


def padding_filler(kind: spec.StackSpec) -> int:
    """What is written behind the end: where ids tell what positions count, the id that they do not count."""
    skipped = spec.skipped_pads(kind.embedding.position)
    return skipped.padding_id if skipped is not None and skipped.pads == "ids" else 0


def check_integers(name: str, shape: Sequence[int | None], dtype: Any) -> None:
    """Refuse ids and labels that are not whole numbers in rows.

    Raises:
        ShapeError: with what was given.
    """
    if (name.endswith("ids") or name == "labels") and (len(shape) != 2 or "int" not in dtype.name):
        raise ShapeError(
            f"{name} has shape {tuple(shape)} and dtype {dtype.name}. Expected integers of shape (batch, length).",
            hint="tokenizer(text, return_tensors='np').input_ids has that shape; add [None] to a single row.",
        )


def check_batch(batch: Mapping[str, Any], pair: spec.PairSpec, *, known: bool) -> tuple[int | None, int | None]:
    """Check a call's arrays, and return the lengths of source and target; None where there is no such array.

    Args:
        known: Whether the arrays have values yet; while a program is traced they have not.

    Raises:
        ShapeError: inputs that contradict each other, exceed a position table or a vocabulary.
    """
    check_segments(batch)
    check_shapes(batch, pair)
    source = target = None
    if "encoder_outputs" in batch:
        source = batch["encoder_outputs"].shape[1]
    elif "input_ids" in batch or "inputs_embeds" in batch or not any(name in batch for name in TARGET):
        source = length_of(batch, pair.encoder, "input_ids", "inputs_embeds")
        check_length(pair.encoder, source, batch.get("position_ids"), batch.get("segment_ids"))
    else:
        raise ShapeError("Neither input_ids, inputs_embeds nor encoder_outputs is given.")
    if any(name in batch for name in TARGET):
        target = target_length(batch, pair.decoder)
        check_length(pair.decoder, target, batch.get("decoder_position_ids"), batch.get("decoder_segment_ids"))
    check_companions(batch)
    if pair.encoder.states and "position_ids" in batch:
        raise ShapeError(
            f"{pair.encoder.family}: position_ids of sources that are read layer by layer: the decoder counts their "
            "positions itself.",
            hint="leave position_ids out; padding needs no positions.",
        )
    if known:
        check_ids(batch, pair)
        _check_table(batch, pair.decoder, source, target)
    return source, target


def _check_table(batch: Mapping[str, Any], decoder: spec.StackSpec, source: int | None, target: int | None) -> None:
    """Refuse targets that continue their sources beyond the position table."""
    if not decoder.continues_source or decoder.max_positions is None or source is None or target is None:
        return
    if source + target <= decoder.max_positions or "segment_ids" in batch:
        return
    lengths = [
        np.full(1, most) if mask is None else (np.asarray(mask) != 0).sum(1)
        for mask, most in ((batch.get("attention_mask"), source), (batch.get("decoder_attention_mask"), target))
    ]
    if "labels" in batch and "decoder_attention_mask" not in batch:
        lengths[1] = (np.asarray(batch["labels"]) != IGNORED).sum(1)
    check_length(decoder, int(max(lengths[0]) + max(lengths[1])), None)


def widened(
    batch: Mapping[str, Any], kind: spec.StackSpec, names: Sequence[str], length: int, size: int
) -> dict[str, Any]:
    """Numpy arrays of a batch, those of these names padded from `length` to a multiple of `size`."""
    extra = bucket(length, size, kind.max_positions) - length
    fillers = {"input_ids": padding_filler(kind), "decoder_input_ids": padding_filler(kind), "labels": IGNORED}

    def wide(name: str, x: Any) -> Any:
        room = [(0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)]
        return np.pad(np.asarray(x), room, constant_values=fillers.get(name, 0))

    if not extra:
        return dict(batch)
    if "attention_mask" in names:
        rows = batch["input_ids" if "input_ids" in batch else "inputs_embeds"].shape[0]
        batch = {"attention_mask": np.ones((rows, length), np.int32), **batch}
    return {name: wide(name, x) if name in names else x for name, x in batch.items()}


def length_of(batch: Mapping[str, Any], kind: spec.StackSpec, ids: str, embeds: str) -> int:
    """Positions of ids or of embeddings, whichever of the two is given."""
    if (ids in batch) == (embeds in batch):
        raise ShapeError(f"{kind.family}: expected exactly one of {ids} and {embeds}.")
    return batch[ids if ids in batch else embeds].shape[1]


def target_length(batch: Mapping[str, Any], decoder: spec.StackSpec) -> int:
    """Positions of the target."""
    if "decoder_input_ids" not in batch and "decoder_inputs_embeds" not in batch and "labels" in batch:
        return batch["labels"].shape[1]
    return length_of(batch, decoder, "decoder_input_ids", "decoder_inputs_embeds")


def check_length(kind: spec.StackSpec, length: int | None, position_ids: Any, segments: Any = None) -> None:
    """Refuse positions that the table does not have: compiled programs do not."""
    if length is not None and position_ids is None and segments is None:
        kind.require_length(length)


def check_ids(batch: Mapping[str, Any], pair: spec.PairSpec) -> None:
    """Refuse ids that a vocabulary does not have, and rows that no other table has: compiled programs do not."""
    sides = {"input_ids": pair.encoder, "decoder_input_ids": pair.decoder, "labels": pair.decoder}
    wrong = _rows_outside(batch, "", pair.encoder) + _rows_outside(batch, "decoder_", pair.decoder)
    for name, kind in sides.items():
        ids = np.asarray(batch.get(name, 0))
        ids = ids[(ids != IGNORED) | (name != "labels")]
        if ids.size and (ids.min() < 0 or ids.max() >= kind.vocab_size):
            wrong.append(f"{name}: {ids.min()} to {ids.max()}, but {kind.family}'s vocabulary has {kind.vocab_size}")
    if wrong:
        raise ShapeError(
            f"Ids outside of the vocabulary or of a table:\n{listing(wrong)}", hint="use each half's own tokenizer."
        )


def _rows_outside(batch: Mapping[str, Any], prefix: str, kind: spec.StackSpec) -> list[str]:
    """Positions and token types that this half's tables do not have."""
    embedding, first = kind.embedding, kind.embedding.first_row
    tables = {"position_ids": (-first, embedding.position_rows - first), "token_type_ids": (0, embedding.type_rows)}
    wrong: list[str] = []
    for name, (low, end) in tables.items():
        ids = np.asarray(batch.get(prefix + name, low))
        if end > low and ids.size and (ids.min() < low or ids.max() >= end):
            wrong.append(
                f"{prefix}{name}: {ids.min()} to {ids.max()}, but {kind.family}'s table has {low} to {end - 1}"
            )
    return wrong


def check_segments(batch: Mapping[str, Any]) -> None:
    """Refuse packed rows of one side only."""
    one_sided = ("segment_ids" in batch) != ("decoder_segment_ids" in batch)
    if one_sided:
        raise ShapeError(
            "segment ids are given for one side only.", hint="packed rows need segment_ids and decoder_segment_ids."
        )


def check_shapes(batch: Mapping[str, Any], pair: spec.PairSpec) -> None:
    """Refuse arrays that cannot be: empty ones, states of another encoder, labels that lie beside no input.

    Sizes that are not known while a program is traced are None, and are not looked at.

    Raises:
        ShapeError: with what was given and what was expected.
    """
    states, width = batch.get("encoder_outputs"), pair.encoder.output_size
    if states is not None and (len(states.shape) != 3 or states.shape[-1] != width or not _is_floating(states)):
        raise ShapeError(
            f"encoder_outputs has shape {tuple(states.shape)} and dtype {states.dtype}; "
            f"expected floating numbers of shape (batch, length, {width}), the encoder's width.",
            hint="give what model.encode(...) of this model returns.",
        )
    for name, kind in (("inputs_embeds", pair.encoder), ("decoder_inputs_embeds", pair.decoder)):
        x, width = batch.get(name), kind.embedding.size
        if x is not None and (len(x.shape) != 3 or x.shape[-1] != width):
            raise ShapeError(
                f"{name} has shape {tuple(x.shape)}; expected (batch, length, {width}), {kind.family}'s word vectors."
            )
    for name in ("input_ids", "inputs_embeds", "encoder_outputs", *TARGET):
        if name in batch and 0 in tuple(batch[name].shape)[:2]:
            raise ShapeError(
                f"{name} has shape {tuple(batch[name].shape)}; expected at least one row and one position."
            )
    target = next((batch[name] for name in ("decoder_input_ids", "decoder_inputs_embeds") if name in batch), None)
    labels = batch.get("labels")
    if labels is not None and target is not None and differ(labels.shape, target.shape[:2]):
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)}, the decoder's inputs {tuple(target.shape[:2])}; expected the "
            "same: labels[t] is what position t must predict."
        )
    written = labels if target is None else target
    source = next((batch[name] for name in ("encoder_outputs", "input_ids", "inputs_embeds") if name in batch), None)
    if source is None or written is None or None in (source.shape[0], written.shape[0]):
        return
    if written.shape[0] % source.shape[0]:
        raise ShapeError(
            f"{written.shape[0]} target rows for {source.shape[0]} sources; expected a multiple, shapes are "
            f"{tuple(written.shape)} and {tuple(source.shape)}."
        )


def check_companions(batch: Mapping[str, Any]) -> None:
    """Refuse masks, positions and the like that do not lie beside their ids: programs would stretch or cut them.

    Raises:
        ShapeError: other rows or columns; all of them in one error.
    """
    wrong: list[str] = []
    for mains, prefix in ((_SOURCES, ""), (_TARGETS, "decoder_")):
        main = next((batch[name] for name in mains if name in batch), None)
        if main is None:
            continue
        rows, length = main.shape[0], main.shape[1]
        for name in ("attention_mask", "segment_ids", "position_ids", "token_type_ids"):
            x = batch.get(prefix + name)
            shared = name in ("position_ids", "token_type_ids") and x is not None and tuple(x.shape) == (1, length)
            if x is not None and not shared and (len(x.shape) != 2 or differ(x.shape, (rows, length))):
                wrong.append(f"{prefix}{name} has shape {tuple(x.shape)}; expected ({rows}, {length})")
    if wrong:
        raise ShapeError(f"Inputs that do not lie beside their ids:\n{listing(wrong)}")


def check_mask(name: str, mask: Any) -> None:
    """Refuse a mask that says anything but 1 and 0; cut to whole numbers it would say something else.

    Raises:
        ShapeError: with the values that it has.
    """
    values = np.asarray(mask)
    if values.dtype != bool and not ((values == 0) | (values == 1)).all():
        raise ShapeError(
            f"{name} holds numbers from {values.min()} to {values.max()}; expected 1 at real tokens, 0 at padding.",
            hint="a mask of numbers that are added to scores becomes one by (mask == 0).",
        )


def check_cache(cache: Cache, kind: spec.StackSpec) -> None:
    """Refuse what another model kept.

    Raises:
        ShapeError: other layers, heads or sizes.
    """
    rows = cache.mask.shape[0]
    found = [(k.shape[0] // rows, k.shape[2]) for k in cache.keys]
    expected = [(each.num_kv_heads, each.head_size) for each in (block.self_attn.attention for block in kind.blocks)]
    crossing = kind.source_attention
    sources = [(k.shape[1], k.shape[3]) for k, _ in cache.cross]
    if found != expected or sources != [(each.num_kv_heads, each.head_size) for each in crossing]:
        raise ShapeError(
            f"{kind.family}: past_key_values holds (heads, size) {found} of its target and {sources} of its source; "
            f"expected {expected} of {len(crossing)} layers that read a source.",
            hint="give what init_cache or an earlier call of this very model returned.",
        )


def _is_floating(x: Any) -> bool:
    return "float" in str(x.dtype)


def differ(one: Any, other: Any) -> bool:
    """Whether two shapes of as many axes disagree where both are known."""
    return any(a is not None and b is not None and a != b for a, b in zip(tuple(one), tuple(other), strict=True))
