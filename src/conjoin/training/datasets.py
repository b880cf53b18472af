"""From whatever a user has to examples: files, rows of text, rows of ids."""

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from conjoin.errors import ConfigError, ConjoinWarning, DataError
from conjoin.spec import PairSpec
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.arguments import TrainingArguments
from conjoin.training.examples import Examples, Room, from_ids, tokenize_pairs
from conjoin.training.progress import track
from conjoin.training.reading import Columns, Pairs, read_pairs

MANY_CUT = 0.05
"""Share of shortened pairs from which on a warning says so."""


def columns_of(arguments: TrainingArguments) -> Columns:
    """Which columns the arguments name."""
    return Columns(
        source=arguments.source_column,
        target=arguments.target_column,
        prefix=arguments.source_prefix,
        drop_empty=arguments.drop_empty,
    )


def room_of(arguments: TrainingArguments, pair: PairSpec) -> Room:
    """Longest source and target: what the arguments say, at most what the model's position tables hold."""
    return Room(
        _least(arguments.max_source_length, pair.encoder.max_positions),
        _least(arguments.max_target_length, pair.decoder.max_positions),
    )


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
    """Read and tokenize what a user gave.

    Args:
        data: Examples, Pairs, a path, or rows: mappings with texts, or with `input_ids` and `labels`.

    Raises:
        DataError: data that cannot be used, or ids outside the model's vocabularies.
        ConfigError: texts without a tokenizer.
    """
    examples = _read(data, name, arguments, pair, tokenizer, shown)
    _check_vocabulary(examples, pair)
    if examples.cut > MANY_CUT * len(examples):
        room = room_of(arguments, pair)
        warnings.warn(
            f"{examples.name}: {examples.cut} of {len(examples)} pairs fill or exceed "
            f"{room.source} source and {room.target} target tokens and may be cut.",
            ConjoinWarning,
            stacklevel=4,
        )
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
            f"{name} holds texts, and there is no tokenizer.", hint="Seq2SeqTrainer(model, tokenizer, ...)"
        )
    pairs = read_pairs(data, columns_of(arguments), name)
    return tokenize_pairs(pairs, tokenizer, room_of(arguments, pair), lambda it: track(it, "tokenizing", shown=shown))


def _are_ids(rows: Any) -> bool:
    first = next(islice(iter(rows), 1), None) if hasattr(rows, "__iter__") else None
    return hasattr(first, "keys") and {"input_ids", "labels"} <= set(first.keys())  # pyright: ignore


def _check_vocabulary(examples: Examples, pair: PairSpec) -> None:
    for side, rows, size in (
        ("source", examples.sources, pair.encoder.vocab_size),
        ("target", examples.labels, pair.decoder.vocab_size),
    ):
        highest, lowest = int(rows.ids.max(initial=0)), int(rows.ids.min(initial=0))
        if highest >= size or lowest < 0:
            stack = "encoder" if side == "source" else "decoder"
            raise DataError(
                f"{examples.name}: {side} ids go from {lowest} to {highest}, but the {stack}'s vocabulary has {size}.",
                hint=f"use the {stack}'s own tokenizer; after adding tokens to it, "
                f"model.resize_token_embeddings({stack}=len(tokenizer)).",
            )
