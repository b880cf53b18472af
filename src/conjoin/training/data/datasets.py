"""From a user's data to examples: files, rows of text, rows of ids."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import numpy as np

from conjoin.errors import ConfigError, DataError, warn
from conjoin.spec import LearnedSkippingPads, PairSpec, StackSpec
from conjoin.texts.pairs import Columns, Pairs, read_pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.examples import IGNORED, Examples, Room, Rows, tokenize_pairs
from conjoin.training.data.tokenized import from_ids
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.terminal import track

MANY_CUT = 0.05
"""Fraction of truncated pairs above which there is a warning."""


def columns_of(arguments: TrainingArguments) -> Columns:
    """Return the columns that the arguments name."""
    return Columns(
        source=arguments.source_column,
        target=arguments.target_column,
        prefix=arguments.source_prefix,
        drop_empty=arguments.drop_empty,
    )


def room_of(arguments: TrainingArguments, pair: PairSpec) -> Room:
    """Return the longest source and target: the arguments' limits, within the model's position tables."""
    return Room(
        _least(arguments.max_source_length, pair.encoder.max_positions),
        _least(arguments.max_target_length, pair.decoder.max_positions),
    )


def _told(room: Room) -> str:
    """Describe the limits."""
    sides = ((room.source, "source"), (room.target, "target"))
    return " and ".join(f"{limit} {side}" for limit, side in sides if limit is not None) + " tokens"


def _least(*limits: int | None) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def to_examples(
    data: Any,
    name: str,
    arguments: TrainingArguments,
    pair: PairSpec,
    tokenizer: Tokenizer | TokenizerPair | None,
    *,
    shown: bool = True,
) -> Examples:
    """Read and tokenize a user's data.

    Args:
        data: Examples, Pairs, a path, or rows: mappings with texts, or with `input_ids` and `labels`.

    Raises:
        DataError: data that cannot be used, or ids outside the model's vocabularies.
        ConfigError: texts without a tokenizer.
    """
    examples = _read(data, name, arguments, pair, tokenizer, shown)
    _check_vocabulary(examples, pair)
    _check_columns(examples, pair)
    if examples.cut > MANY_CUT * len(examples):
        room = room_of(arguments, pair)
        warn(f"{examples.name}: {examples.cut} of {len(examples)} pairs fill or exceed {_told(room)} and may be cut.")
    return examples


def _read(
    data: Any,
    name: str,
    arguments: TrainingArguments,
    pair: PairSpec,
    tokenizer: Tokenizer | TokenizerPair | None,
    shown: bool,
) -> Examples:
    if isinstance(data, Examples):
        return data
    if isinstance(data, Iterator):
        data = list(cast("Iterator[Any]", data))
    if not isinstance(data, str | Pairs) and _are_ids(data):
        return from_ids(data, name)
    if tokenizer is None:
        raise ConfigError(
            f"{name} holds texts, and there is no tokenizer.",
            hint="Seq2SeqTrainer(model, tokenizer, ...), or put the tokenizers' files beside config.json.",
        )
    pairs = read_pairs(data, columns_of(arguments), name)
    tracked = partial(track, description="tokenizing", shown=shown)
    return tokenize_pairs(pairs, tokenizer, room_of(arguments, pair), tracked)


def _are_ids(rows: Any) -> bool:
    first: Any = next(iter(rows), None) if hasattr(rows, "__iter__") else None
    return hasattr(first, "keys") and "input_ids" in first.keys()  # noqa: SIM118


def _check_vocabulary(examples: Examples, pair: PairSpec) -> None:
    sides: list[tuple[str, Rows, StackSpec]] = [
        ("source ids", examples.sources, pair.encoder),
        ("target ids", examples.labels, pair.decoder),
    ]
    if "decoder_input_ids" in examples.columns:
        sides.append(("decoder_input_ids", examples.columns["decoder_input_ids"], pair.decoder))
    for what, rows, kind in sides:
        ids = rows.ids[rows.ids != IGNORED] if what == "target ids" else rows.ids
        highest, lowest = int(ids.max(initial=0)), int(ids.min(initial=0))
        if highest >= kind.vocab_size or lowest < 0:
            stack = "encoder" if kind is pair.encoder else "decoder"
            where = examples.where(_rows_outside(rows, kind.vocab_size, ignored=what == "target ids"))
            raise DataError(
                f"{where}: {what} go from {lowest} to {highest}, but the {stack}'s vocabulary has {kind.vocab_size}.",
                hint=f"use the {stack}'s own tokenizer; after adding tokens to it, "
                f"model.resize_token_embeddings({stack}=len(tokenizer)) and save_pretrained make room in Python.",
            )


def _rows_outside(rows: Rows, size: int, *, ignored: bool) -> list[int]:
    wrong = (rows.ids >= size) | ((rows.ids < 0) & ~(ignored & (rows.ids == IGNORED)))
    return sorted({int(row) for row in np.searchsorted(rows.starts, np.flatnonzero(wrong), "right") - 1})


def _check_columns(examples: Examples, pair: PairSpec) -> None:
    """Refuse token types and positions that the model does not have.

    Raises:
        DataError: with the column, and what the model has.
    """
    for stem, kind in (("", pair.encoder), ("decoder_", pair.decoder)):
        types, positions = (examples.columns.get(f"{stem}{name}") for name in ("token_type_ids", "position_ids"))
        limit = kind.vocab_size if kind.embedding.token_types == "words" else kind.embedding.token_types
        table = kind.embedding.position_rows if _counts_as_its_table(kind) else kind.max_positions
        for name, rows, known in (("token_type_ids", types, limit), ("position_ids", positions, table)):
            if rows is not None and known is not None and (rows.ids.max() >= known or rows.ids.min() < 0):
                raise DataError(
                    f"{examples.name}: {stem}{name} go up to {int(rows.ids.max())}, "
                    f"but the {'decoder' if stem else 'encoder'} ({kind.family}) has {known or 'none'}.",
                    hint="leave the column out, or give the ids of the model's own tokenizer.",
                )


def _counts_as_its_table(kind: StackSpec) -> bool:
    """True if position ids are rows of the position table, as RoBERTa's, and do not count from 0."""
    position = kind.embedding.position
    return isinstance(position, LearnedSkippingPads) and position.pads == "ids"
