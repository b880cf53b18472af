"""Rows written to Parquet files: columns that came from Parquet keep their types, others are found by their values."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import time
from importlib import import_module
from itertools import islice
from typing import IO, Any

from conjoin.errors import MissingBackend, warn

Row = Mapping[str, Any]
_GROUP = 8192
"""Rows of a row group: what is held in memory."""


def require_pyarrow() -> Any:
    """Return pyarrow.

    Raises:
        MissingBackend: it is not installed.
    """
    try:
        pyarrow = import_module("pyarrow")
        import_module("pyarrow.parquet")
    except ImportError:
        raise MissingBackend("Parquet files need pyarrow: pip install 'conjoin[train]'") from None
    return pyarrow


def write_parquet(file: IO[bytes], rows: Iterable[Row], schema: Any) -> None:
    """Write rows with the columns and types of a schema.

    Values that do not fit their column's type are an error of pyarrow's; `schema_of` finds types that all fit.
    """
    arrow = require_pyarrow()
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            writer.write_table(arrow.Table.from_arrays([_array(group, field) for field in schema], schema=schema))


def schema_of(rows: Iterable[Row], columns: Sequence[str], known: Any = None, results: Any = None) -> Any:
    """Return an Arrow schema that holds all rows.

    Args:
        columns: Names of the columns, in order.
        known: Schema of the file that columns came from. One whose values fit no more becomes text.
        results: Types of other columns, by name.
    """
    arrow = require_pyarrow()
    types: dict[str, Any] = {name: None for name in columns}
    fixed: dict[str, Any] = {} if known is None else {field.name: field.type for field in known}
    fixed |= results or {}
    for group in _groups(rows):
        for name in columns:
            if types[name] is TEXT:
                continue
            values = [row.get(name) for row in group]
            if name in fixed:
                types[name] = fixed[name] if _fits(values, fixed[name]) else TEXT
            else:
                types[name] = _merged(types[name], _type_of(values))
    for name in columns:
        if types[name] is TEXT and name in fixed:
            warn(f"Column {name!r} is no longer {fixed[name]}, but text.")
        types[name] = fixed.get(name) if types[name] is None else types[name]
    return arrow.schema([(name, _final(types[name])) for name in columns])


TEXT = "text"
"""In place of a type: values of several kinds, of which those that are no strings are written as JSON."""


def _misfits() -> tuple[type[Exception], ...]:
    """Return the errors of values that have not the type of their column."""
    return require_pyarrow().ArrowException, OverflowError, TypeError, ValueError, KeyError, AttributeError


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    reader = iter(rows)
    while group := list(islice(reader, _GROUP)):
        yield group


def _type_of(values: Sequence[Any]) -> Any:
    arrow = require_pyarrow()
    try:
        return arrow.array(values).type
    except _misfits():
        return TEXT


def _merged(one: Any, other: Any) -> Any:
    """Return the type that holds the values of both types; TEXT if there is none."""
    arrow = require_pyarrow()
    if one is None or one is TEXT or other is TEXT:
        return other if one is None else TEXT
    schemas = [arrow.schema([("x", kind)]) for kind in (one, other)]
    try:
        return arrow.unify_schemas(schemas, promote_options="permissive").field("x").type
    except arrow.ArrowException:
        return TEXT


def _final(kind: Any) -> Any:
    arrow = require_pyarrow()
    return arrow.string() if kind is None or kind is TEXT or arrow.types.is_null(kind) else kind


def _fits(values: Sequence[Any], kind: Any) -> bool:
    try:
        _typed(values, kind)
    except _misfits():
        return False
    return True


def _array(rows: Sequence[Row], field: Any) -> Any:
    arrow = require_pyarrow()
    values = [row.get(field.name) for row in rows]
    try:
        return _typed(values, field.type)
    except _misfits():
        if not arrow.types.is_string(field.type):
            raise
        return arrow.array([_text(value) for value in values], field.type)


def _typed(values: Sequence[Any], kind: Any) -> Any:
    """Return an array of values that went through JSON: bytes as base64, dates, times and decimals as text."""
    arrow = require_pyarrow()
    types = arrow.types
    if types.is_nested(kind) or types.is_time(kind) or _is_bytes(kind):
        return arrow.array([_decoded(value, kind) for value in values], kind)
    try:
        return arrow.array(values, kind)
    except (arrow.ArrowException, TypeError):
        if not all(isinstance(value, str | None) for value in values):
            raise
        return arrow.array(values, arrow.string()).cast(kind)


def _decoded(value: Any, kind: Any) -> Any:
    """Return one value that went through JSON, as Arrow takes it."""
    arrow = require_pyarrow()
    types = arrow.types
    if value is None:
        return None
    if types.is_map(kind):
        return [(_decoded(key, kind.key_type), _decoded(inner, kind.item_type)) for key, inner in value]
    if types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type) for field in kind}
    if types.is_nested(kind):
        return [_decoded(inner, kind.value_type) for inner in value]
    if _is_bytes(kind):
        return base64.b64decode(value, validate=True)
    if types.is_time(kind):
        return time.fromisoformat(value)
    if isinstance(value, str) and not types.is_dictionary(kind):
        return arrow.scalar(value).cast(kind).as_py()
    return value


def _is_bytes(kind: Any) -> bool:
    types = require_pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)
