"""Pad rows of ids, as data collators need it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from conjoin.errors import TokenizerError
from conjoin.tokenizer.limits import Limits

_FILL = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}


def as_columns(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Turn a list of rows into a dict of columns; arrays become lists.

    Raises:
        TokenizerError: there are no input_ids, or the rows have different keys.
    """
    if isinstance(encoded, Mapping):
        columns = dict(encoded)
    else:
        keys = list(encoded[0]) if encoded else []
        odd = [index for index, row in enumerate(encoded) if set(row) != set(keys)]
        if odd:
            raise TokenizerError(f"row {odd[0]} has the keys {sorted(encoded[odd[0]])}, row 0 has {sorted(keys)}.")
        columns = {key: [row[key] for row in encoded] for key in keys}
    if "input_ids" not in columns:
        raise TokenizerError(f"nothing to pad: expected input_ids, got {sorted(columns) or 'no rows'}.")
    return {key: as_lists(value) for key, value in columns.items()}


def as_lists(value: Any) -> Any:
    """Turn a tensor or array of any framework, or a list of them, into plain lists of numbers."""
    if isinstance(value, list | tuple):
        items = cast(Sequence[Any], value)
        return list(items) if all(type(item) is int for item in items) else [as_lists(item) for item in items]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.numpy().tolist() if hasattr(value, "numpy") else value


def array_kind(encoded: Any) -> str | None:
    """Return the `return_tensors` value for the arrays in `encoded`; None if it holds lists."""
    value = encoded
    while isinstance(value, list | tuple | Mapping) and value:
        value = cast(Any, value).get("input_ids") if isinstance(value, Mapping) else cast(Any, value)[0]
    library = type(cast(object, value)).__module__.split(".")[0]
    return {"torch": "pt", "numpy": "np", "jaxlib": "jax", "tensorflow": "tf"}.get(library)


def pad_columns(columns: dict[str, Any], limits: Limits, pad_id: int, *, attention_mask: bool) -> dict[str, Any]:
    """Pad every known column to the length in `limits`; other columns are not changed."""
    is_batch = bool(columns["input_ids"]) and isinstance(columns["input_ids"][0], list)
    rows: list[list[int]] = columns["input_ids"] if is_batch else [columns["input_ids"]]
    out = dict(columns)
    if attention_mask and "attention_mask" not in out:
        ones = [[1] * len(row) for row in rows]
        out["attention_mask"] = ones if is_batch else ones[0]
    if not limits.pads:
        return out
    size = target_size([len(row) for row in rows], limits)
    for key, fill in {"input_ids": pad_id, **_FILL}.items():
        if key in out:
            padded = [fill_row(row, size, fill, limits.padding_side) for row in (out[key] if is_batch else [out[key]])]
            out[key] = padded if is_batch else padded[0]
    return out


def target_size(lengths: list[int], limits: Limits) -> int:
    """Return the common length of padded rows."""
    size = max(lengths, default=0)
    if limits.padding == "max_length" and limits.max_length is not None:
        size = limits.max_length
    multiple = limits.pad_to_multiple_of
    return -(-size // multiple) * multiple if multiple else size


def fill_row(row: list[int], size: int, fill: int, side: str) -> list[int]:
    """Pad one row to `size`; a longer one is not changed."""
    missing = [fill] * (size - len(row))
    return row + missing if side == "right" else missing + row
