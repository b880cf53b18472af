"""From a user's data to examples: files, rows of text, rows of ids."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from conjoin.errors import ConfigError, DataError, warn
from conjoin.spec import PairSpec, StackSpec, skips_padding_ids
from conjoin.texts.documents import Documents
from conjoin.texts.pairs import Columns, PairReader, Pairs, is_dataset, read_pairs, rows_of_dataset
from conjoin.texts.predictions import CandidatePairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.cache import DataCache, data_digest, key_of, tokenizer_digest
from conjoin.training.data.candidates import with_candidates
from conjoin.training.data.corpus import (
    Corpus,
    Ratios,
    RawText,
    Segments,
    characters_of,
    cut_segments,
    measure,
    objective_of,
    read_segments,
    segments_in_memory,
    write_segments,
)
from conjoin.training.data.examples import IGNORED, Examples, Rows
from conjoin.training.data.lengths import BLOCK, blocks
from conjoin.training.data.store import Parts, in_memory, read_folder, warn_of, write_folder
from conjoin.training.data.tokenized import TokenizedRows, from_ids
from conjoin.training.data.tokenizing import PairsInMemory, Room, TokenizedPairs
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.terminal import counting, say

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
    target = _least(arguments.max_target_length, pair.decoder.max_positions)
    source = _least(arguments.max_source_length, pair.longest_source(target or 0))
    if pair.decoder.continues_source and pair.decoder.max_positions is not None:
        target = _least(target, pair.decoder.max_positions - (source or 0))
    return Room(source, target)


def _told(room: Room) -> str:
    """Describe the limits."""
    sides = ((room.source, "source"), (room.target, "target"))
    return " and ".join(f"{limit} {side}" for limit, side in sides if limit is not None) + " tokens"


def _least(*limits: int | None) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


@dataclass(frozen=True, slots=True)
class Named:
    """Data with the name that messages give them."""

    data: Any
    name: str


@dataclass(frozen=True, slots=True)
class Making:
    """How data become examples.

    Args:
        shown: True to show progress.
        keeps_texts: True if the texts will be read again, as those of validation data are.
    """

    arguments: TrainingArguments
    pair: PairSpec
    tokenizer: Tokenizer | TokenizerPair | None
    shown: bool = True
    keeps_texts: bool = True


def to_examples(data: Any, name: str, making: Making) -> Examples:
    """Read and tokenize a user's data.

    Files and `datasets.Dataset`s are tokenized into a cache on the disk, of which memory maps are read; other rows into
    memory.

    Args:
        data: Examples, Pairs, a path, or rows: mappings with texts, or with `input_ids` and `labels`; or any of them
            with a name, as `Named`.

    Raises:
        DataError: data that cannot be used, or ids outside the model's vocabularies.
        ConfigError: texts without a tokenizer.
        FileError: the cache cannot be written.
    """
    if isinstance(data, Named):
        data, name = data.data, data.name
    examples = _read(data, name, making)
    if isinstance(data, CandidatePairs):
        limit, utility = room_of(making.arguments, making.pair).target, making.arguments.ranking_utility
        examples = with_candidates(examples, data, making.tokenizer, utility, limit, shown=making.shown)
    check_vocabulary(examples, making.pair)
    _check_columns(examples, making.pair)
    if examples.cut > MANY_CUT * len(examples):
        room = room_of(making.arguments, making.pair)
        warn(f"{examples.name}: {examples.cut} of {len(examples)} pairs fill or exceed {_told(room)} and may be cut.")
    return examples


SAMPLED = 2000
"""Pairs, at least, of which the limits of lengths are chosen: their 99th percentile is known to a few tokens."""
SAMPLED_PARTS = 100
"""Parts of a file from which the sample is drawn: a file may begin with its shortest pairs, or with another corpus."""
STREAMED_PARTS = 2
"""The same of rows without a number, which may come over a network."""


def sample_of(data: Any, name: str, arguments: TrainingArguments, *, parts: int = SAMPLED_PARTS) -> Pairs | None:
    """Return pairs from all over the data; None if the data are ids already.

    Args:
        data: As `to_examples` takes it, but no iterator.
        parts: Number of parts, of `PART` pairs each, that are read of data that are not in memory.

    Raises:
        DataError: data that cannot be used.
    """
    if isinstance(data, Named):
        data, name = data.data, data.name
    if isinstance(data, Examples) or not (isinstance(data, str | Path | Pairs) or not _are_ids(data)):
        return None
    if isinstance(data, Pairs):
        rows = [int(row) for row in np.linspace(0, len(data) - 1, min(len(data), SAMPLED))]
        sources, targets = ([texts[row] for row in rows] for texts in (data.sources, data.targets))
        return Pairs(data.name, sources, targets, rows)
    if not (isinstance(data, str | Path) or hasattr(data, "__len__")):
        parts = min(parts, STREAMED_PARTS)
    return _spread(islice(PairReader(data, columns_of(arguments), name), parts))


def _spread(parts: Iterable[Pairs]) -> Pairs:
    """Return pairs at equal distances from all over the parts: all of few, at most twice `SAMPLED` of many."""
    rows: list[tuple[str, str]] = []
    name, distance, seen = "", 1, 0
    for part in parts:
        first = -seen % distance
        rows += zip(part.sources[first::distance], part.targets[first::distance], strict=True)
        name, seen = part.name, seen + len(part)
        while len(rows) > 2 * SAMPLED:
            rows, distance = rows[::2], 2 * distance
    sources, targets = [source for source, _ in rows], [target for _, target in rows]
    return Pairs(name, sources, targets, range(1, seen + 1, distance))


def to_corpus(raw: RawText, name: str, making: Making) -> Corpus:
    """Cut raw text into segments, of which pairs are made later.

    Raises:
        DataError: text that cannot be used.
        ConfigError: there is no tokenizer.
        FileError: the cache cannot be written.
    """
    texts: Any = raw.data
    if isinstance(texts, Iterator):  # they are read more than once
        raw = replace(raw, data=[*cast("Iterator[Any]", texts)])
    documents = raw.documents
    if (paths := documents.paths) is not None:
        name = ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    require_tokenizer(name, making)
    assert making.tokenizer is not None
    room = room_of(making.arguments, making.pair)
    ratios = measure((paragraph.text for paragraph in documents), making.tokenizer)
    objective = objective_of(raw, making.tokenizer, ratios)
    size = characters_of(objective, room, ratios)
    found = _segments(raw, documents, size, ratios, making)
    if making.shown:
        say(f"{name}: {len(found.texts):,} segments of up to {size:,} characters. {objective.describe()}")
    return Corpus(found, objective, making.tokenizer, room, seed=making.arguments.seed, name=name)


def _segments(raw: RawText, documents: Documents, size: int, ratios: Ratios, making: Making) -> Segments:
    """Return the segments of raw text: in files of the cache, unless they are in memory already."""
    files = [*documents.paths] if documents.paths is not None else [documents.data]
    is_large = documents.paths is not None or _is_of_datasets(documents.data)
    if not is_large or not making.arguments.data_cache:
        return segments_in_memory(cut_segments(documents, size), ratios)
    digests = [data_digest(each) for each in files]
    contents = {"data": digests, "column": raw.column, "size": size, "ratios": asdict(ratios)}

    def write(folder: Path) -> None:
        with counting("reading the text", shown=making.shown) as advance:
            write_segments(cut_segments(documents, size), ratios, folder, advance)

    key = None if None in digests else key_of(contents)
    return DataCache.of(making.arguments.data_cache_dir).get(key, write, read_segments, shown=making.shown)


def _read(data: Any, name: str, making: Making) -> Examples:
    if isinstance(data, Examples):
        return data
    if isinstance(data, RawText):
        corpus = to_corpus(data, name, making)
        data = corpus.pairs(0, range(len(corpus)))
    is_file = isinstance(data, str | Path)
    if (is_file or _is_of_datasets(data)) and making.arguments.data_cache:
        return _stored(data, name, making)
    if isinstance(data, Iterator):
        data = list(cast("Iterator[Any]", data))
    if not is_file and not isinstance(data, Pairs) and _are_ids(data):
        return from_ids(cast("Iterable[Any]", data), name)
    require_tokenizer(name, making)
    pairs = read_pairs(data, columns_of(making.arguments), name)
    return in_memory(_tokenized(PairsInMemory(pairs), making), texts=pairs)


def _stored(data: Any, name: str, making: Making) -> Examples:
    """Return examples of a file, or of a data set, in files of the cache."""
    cache, columns = DataCache.of(making.arguments.data_cache_dir), columns_of(making.arguments)
    if not isinstance(data, str | Path) and _are_ids(data):
        parts = TokenizedRows(rows_of_dataset(data) if is_dataset(data) else data, name)
        return _of_cache(cache, parts, {"ids": True, "data": data_digest(data)}, making)
    require_tokenizer(name, making)
    reader = PairReader(data, columns, name)
    reader.check_start()  # the digest needs a file that can be read
    contents = {
        "data": data_digest(data),
        "columns": asdict(columns),
        "room": asdict(room_of(making.arguments, making.pair)),
        "tokenizer": tokenizer_digest(making.tokenizer),
        "texts": making.keeps_texts,
    }
    return _of_cache(cache, _tokenized(reader, making), contents, making)


def _of_cache(cache: DataCache, parts: Parts[Examples], contents: dict[str, Any], making: Making) -> Examples:
    key = None if contents["data"] is None else key_of(contents)
    examples, summary = cache.get(
        key,
        lambda folder: write_folder(parts, folder, keeps_texts=making.keeps_texts),
        lambda folder: read_folder(folder, parts.name),
        shown=making.shown,
    )
    warn_of(summary, examples.name)
    return examples


def _tokenized(reader: Parts[Pairs], making: Making) -> TokenizedPairs:
    assert making.tokenizer is not None
    return TokenizedPairs(
        reader,
        making.tokenizer,
        room_of(making.arguments, making.pair),
        workers=making.arguments.preprocessing_num_workers,
        progress=partial(counting, shown=making.shown),
    )


def require_tokenizer(name: str, making: Making) -> None:
    """Refuse texts without a tokenizer.

    Raises:
        ConfigError: there is none.
    """
    if making.tokenizer is None:
        raise ConfigError(
            f"{name} holds texts, and there is no tokenizer.",
            hint="Seq2SeqTrainer(model, tokenizer, ...), or put the tokenizers' files beside config.json.",
        )


def _is_of_datasets(data: Any) -> bool:
    """True for data sets of the library `datasets`, streamed ones too."""
    return any(base.__module__.partition(".")[0] == "datasets" for base in type(data).__mro__)


def _are_ids(rows: Any) -> bool:
    first: Any = next(iter(rows), None) if hasattr(rows, "__iter__") else None
    return hasattr(first, "keys") and "input_ids" in first.keys()  # noqa: SIM118


def check_vocabulary(examples: Examples, pair: PairSpec) -> None:
    """Refuse ids that the model has no embedding of.

    Raises:
        DataError: with the rows that hold them.
    """
    sides: list[tuple[str, Rows, StackSpec]] = [
        ("source ids", examples.sources, pair.encoder),
        ("target ids", examples.labels, pair.decoder),
    ]
    sides = sides if examples.read is None else sides[1:]
    if "decoder_input_ids" in examples.columns:
        sides.append(("decoder_input_ids", examples.columns["decoder_input_ids"], pair.decoder))
    for what, rows, kind in sides:
        lowest, highest = rows.range(labels=what == "target ids")
        lowest, highest = min(lowest, 0), max(highest, 0)
        if highest >= kind.vocab_size or lowest < 0:
            stack = "encoder" if kind is pair.encoder else "decoder"
            where = examples.where(_rows_outside(rows, kind.vocab_size, ignored=what == "target ids"))
            raise DataError(
                f"{where}: {what} go from {lowest} to {highest}, but the {stack}'s vocabulary has {kind.vocab_size}.",
                hint=f"use the {stack}'s own tokenizer; after adding tokens to it, "
                f"model.resize_token_embeddings({stack}=len(tokenizer)) and save_pretrained make room in Python.",
            )


def _rows_outside(rows: Rows, size: int, *, ignored: bool) -> list[int]:
    found: set[int] = set()
    for start, ids in zip(range(0, len(rows.ids), BLOCK), blocks(rows.ids), strict=True):
        wrong = (ids >= size) | ((ids < 0) & ~(ignored & (ids == IGNORED)))
        found |= {int(row) for row in np.searchsorted(rows.starts, start + np.flatnonzero(wrong), "right") - 1}
    return sorted(found)


def _check_columns(examples: Examples, pair: PairSpec) -> None:
    """Refuse token types and positions that the model does not have.

    Raises:
        DataError: with the column, and what the model has.
    """
    for stem, kind in (("", pair.encoder), ("decoder_", pair.decoder)):
        types, positions = (examples.columns.get(f"{stem}{name}") for name in ("token_type_ids", "position_ids"))
        limit = kind.vocab_size if kind.embedding.token_types == "words" else kind.embedding.token_types
        as_table = skips_padding_ids(kind.embedding.position)  # position ids count from 0 elsewhere
        table = kind.embedding.position_rows if as_table else kind.max_positions
        for name, rows, known in (("token_type_ids", types, limit), ("position_ids", positions, table)):
            lowest, highest = (0, -1) if rows is None else rows.range()
            if known is not None and (highest >= known or lowest < 0):
                raise DataError(
                    f"{examples.name}: {stem}{name} go up to {highest}, "
                    f"but the {'decoder' if stem else 'encoder'} ({kind.family}) has {known or 'none'}.",
                    hint="leave the column out, or give the ids of the model's own tokenizer.",
                )
