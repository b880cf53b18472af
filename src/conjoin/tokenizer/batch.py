"""`BatchEncoding`: the result of a tokenizer call."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, cast

from tokenizers import Encoding

from conjoin.errors import MissingBackend, TokenizerError

TensorKind = Literal["pt", "np", "jax", "tf"]

SHOWN = 500
"""A printed batch shows at most this many numbers; beyond that, only its shapes."""


class BatchEncoding(dict[str, Any]):
    """A dict (`input_ids`, `attention_mask`, ...) whose keys are attributes too.

    `batch[0]` is the Rust encoding of row 0, with offsets, words and sequences.
    """

    def __init__(self, data: dict[str, Any] | None = None, encodings: Sequence[Encoding] | None = None) -> None:
        super().__init__({} if data is None else data)
        self.encodings = encodings

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        row: int = key
        return self._rows()[row]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError as error:
            raise AttributeError(f"BatchEncoding has no {name!r}; it has: {', '.join(self)}.") from error

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self:
            self[name] = value
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        """Return the values if they are few, else their shapes."""
        if sum(map(_size, self.values())) <= SHOWN:
            return super().__repr__()
        return f"BatchEncoding({', '.join(f'{key}: {_shape(value)}' for key, value in self.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {"encodings": self.encodings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.encodings = state["encodings"]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of one row, special tokens and padding included."""
        return self._rows()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the index of the word that each token of a row came from; None at special tokens."""
        return self._rows()[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return 0 (text) or 1 (text_pair) for every token of a row; None at special tokens."""
        return self._rows()[batch_index].sequence_ids

    def convert_to_tensors(self, tensor_type: TensorKind | None) -> Self:
        """Turn every value into an array of `tensor_type`, in place.

        Raises:
            TokenizerError: unknown `tensor_type`, or rows of different length.
            MissingBackend: that framework is not installed.
        """
        if tensor_type is None:
            return self
        convert = _converter(tensor_type)
        for key, value in self.items():
            if not isinstance(value, list):
                continue
            rows = cast(list[Any], value)
            lengths = sorted({len(cast(list[Any], row)) for row in rows if isinstance(row, list)})
            if len(lengths) > 1:
                raise TokenizerError(
                    f"{key} has rows of {lengths[0]} to {lengths[-1]} ids, but an array needs rows of one length.",
                    hint="pass padding=True, and truncation=True where texts may be too long.",
                )
            self[key] = convert(rows)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """Move every torch tensor to `device`, in place; other values are not changed."""
        for key, value in self.items():
            if callable(getattr(value, "to", None)):
                self[key] = value.to(device, non_blocking=non_blocking)
        return self

    def _rows(self) -> Sequence[Encoding]:
        if self.encodings is None:
            raise TokenizerError(
                "this batch holds ids only, so its tokens, words and offsets are not known.",
                hint="ask the batch that the tokenizer itself returned.",
            )
        return self.encodings


def _size(value: Any) -> int:
    """Return how many numbers a list of lists or an array has."""
    if isinstance(value, list):
        return sum(_size(row) for row in cast(list[Any], value))
    return math.prod(getattr(value, "shape", ()))


def _shape(value: Any) -> str:
    """Describe the number of rows and their length, or an array's shape."""
    if not isinstance(value, list):
        return f"{type(value).__name__} of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
    rows = cast(list[Any], value)
    lengths = sorted({len(cast(list[Any], row)) for row in rows if isinstance(row, list)})
    if not lengths:
        return f"{len(rows)} numbers"
    return f"{len(rows)} rows of {' to '.join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))}"


def _converter(tensor_type: str) -> Callable[[list[Any]], Any]:
    framework = {"pt": "torch", "np": "numpy", "jax": "jax.numpy", "tf": "tensorflow"}.get(tensor_type)
    if framework is None:
        raise TokenizerError(f"return_tensors = {tensor_type!r}, expected one of: pt, np, jax, tf.")
    try:
        library: Any = importlib.import_module(framework)
    except ImportError as error:
        name = framework.partition(".")[0]
        raise MissingBackend(
            f"return_tensors = {tensor_type!r} needs {name}, which is not installed.",
            hint=f"pip install 'conjoin[{name}]'" if name != "numpy" else "pip install numpy",
        ) from error
    make = {"pt": "tensor", "np": "asarray", "jax": "asarray", "tf": "convert_to_tensor"}[tensor_type]
    dtype = getattr(library, "int64" if tensor_type in ("pt", "np") else "int32")  # int64 is off by default in JAX
    return lambda rows: getattr(library, make)(rows, dtype=dtype)
