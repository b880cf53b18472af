"""Texts that a model generated for sources, as `conjoin generate` writes them: to be learnt, or to be ranked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from conjoin.errors import DataError, listing, lone_surrogate, quoted, warn
from conjoin.jsons import JsonError, parse_json_line
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.columns import WEIGHT, checked_weights, weight_of
from conjoin.texts.lines import Bad, problems_of
from conjoin.texts.pairs import MISSING, Columns, Pairs, inner
from conjoin.texts.tables import kind_of, parquet_rows, rows_of_file

ONE, SEVERAL = "prediction", "predictions"
_HINT = "conjoin generate MODEL --input pairs.jsonl --output FILE writes such a file."


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePairs(Pairs):
    """Pairs with texts that were generated for their sources, of which a model learns to prefer the better ones.

    Args:
        candidates: The generated texts of every pair.
    """

    candidates: list[list[str]] = field(default_factory=list[list[str]])


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    source: str
    target: str
    texts: list[str]
    weight: float


def pseudo_pairs(path: str | Path, columns: Columns, weight: float = 1.0) -> Pairs:
    """Read sources with generated texts as pairs to train on: sequence-level distillation (Kim & Rush 2016).

    Rows for which nothing was generated are left out, which a warning says.

    Args:
        columns: The column of the sources, and the prefix that they get. Their targets, if there are some, are not
            read.
        weight: How many times the generated texts of a source count in the loss, together; a row's own weight
            multiplies it.

    Raises:
        DataError: the file cannot be read, or has no generated texts.
    """
    rows = [*_usable(Path(path), columns, has_targets=False)]
    each = [(row, text) for row in rows for text in row.texts]
    return Pairs(
        str(path),
        [row.source for row, _ in each],
        [text for _, text in each],
        [row.line for row, _ in each],
        checked_weights([row.weight * weight / len(row.texts) for row, _ in each], str(path)),
    )


def candidate_pairs(path: str | Path, columns: Columns) -> CandidatePairs:
    """Read pairs with texts that were generated for their sources, in a column `predictions`.

    Raises:
        DataError: the file cannot be read, lacks targets, or has no source with several different texts.
    """
    rows = [*_usable(Path(path), columns, has_targets=True)]
    if all(len(set(row.texts)) < 2 for row in rows):
        raise DataError(
            f"{path}: no source has two different texts in a column {SEVERAL}; there is nothing to rank.",
            hint="conjoin generate MODEL -i train.jsonl -o candidates.jsonl --num-return-sequences 16 --num-beams 16 "
            "--set num_beam_groups=16 --set diversity_penalty=1.0",
        )
    return CandidatePairs(
        str(path),
        [row.source for row in rows],
        [row.target for row in rows],
        [row.line for row in rows],
        checked_weights([row.weight for row in rows], str(path)),
        candidates=[row.texts for row in rows],
    )


def joined_pairs(one: Pairs, other: Pairs) -> Pairs:
    """Return the pairs of both; lines in messages count on from the first to the second."""
    weights = [np.ones(len(pairs)) if pairs.weights is None else pairs.weights for pairs in (one, other)]
    last = max(one.lines, default=0)
    return Pairs(
        f"{one.name} with {other.name}",
        [*one.sources, *other.sources],
        [*one.targets, *other.targets],
        [*one.lines, *(last + line for line in other.lines)],
        None if one.weights is None and other.weights is None else np.concatenate(weights),
    )


def _usable(path: Path, columns: Columns, *, has_targets: bool) -> Iterator[_Row]:
    """Yield the rows that have generated texts; up to `DATA_PROBLEMS` problems go into one error."""
    problems: list[tuple[int, str]] = []
    wanted = (columns.source, columns.target) if has_targets else (columns.source,)
    is_table = kind_of(path) == "parquet" and path.is_file()
    rows = enumerate(parquet_rows(path, wanted, whole=True), 1) if is_table else rows_of_file(path, wanted)
    seen = without = 0
    for line, cells in rows:
        seen += 1
        row = str(cells) if isinstance(cells, Bad) else _row(line, cells, columns, has_targets=has_targets)
        if isinstance(row, str):
            problems.append((line, row))
            if len(problems) >= DATA_PROBLEMS:
                break
        elif not row.texts or not row.source.strip() or (has_targets and not row.target.strip()):
            without += 1
        elif not problems:
            yield row
    if problems:
        raise DataError(f"{path} cannot be used:\n{listing(problems_of(problems, 'line'))}", hint=_HINT)
    if without == seen:
        raise DataError(f"{path} has no source with generated texts.", hint=_HINT)
    if without:
        warn(f"{path}: {without:,} of {seen:,} rows are left out: source, target or generated text is empty.")


def _row(line: int, cells: Any, columns: Columns, *, has_targets: bool) -> _Row | str:
    """Return a row, or its problem."""
    if not isinstance(cells, Mapping):
        return f"is a {type(cells).__name__}, expected an object with {columns.source} and {ONE} or {SEVERAL}."
    row = cast("Mapping[str, Any]", cells)
    texts: list[str] = []
    for name in (columns.source, *([columns.target] if has_targets else [])):
        text = inner(row, name)
        if text is MISSING:
            return f"has no column {name!r}; it has {quoted(row) or 'none'}."
        if not isinstance(text, str | None):
            return f"{name} is a {type(text).__name__}, expected text."
        texts.append(text or "")
    weight, generated = weight_of(row.get(WEIGHT), text=True), _generated(row)
    for found in (weight, generated):
        if isinstance(found, str):
            return found
    problem = next((found for text in (*texts, *generated) if (found := lone_surrogate(text))), None)
    if problem is not None:
        return f"a text {problem}"
    kept = [text for text in cast("list[str]", generated) if text.strip()]
    count = 1.0 if weight is None else cast(float, weight)
    return _Row(line, columns.prefix + texts[0] if texts[0].strip() else "", texts[-1], kept, count)


def _generated(row: Mapping[str, Any]) -> list[str] | str:
    """Return the generated texts of a row, none if it failed, or what is wrong with them."""
    several: Any = row.get(SEVERAL)
    if several is not None:
        if isinstance(several, str):  # in tables, lists are JSON
            try:
                several = parse_json_line(several) if several else []
            except JsonError:
                several = None
        if not isinstance(several, list) or not all(isinstance(text, str) for text in cast("list[Any]", several)):
            return f"{SEVERAL} is no list of texts."
        return cast("list[str]", several)
    if ONE not in row and SEVERAL not in row and not row.get("error"):
        return f"has neither {ONE} nor {SEVERAL}; it has {quoted(row)}."
    text = row.get(ONE) or ""
    return [text] if isinstance(text, str) else f"{ONE} is a {type(text).__name__}, expected text."
