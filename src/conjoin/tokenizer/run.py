"""Run the Rust tokenizer: set its limits, encode a batch, collect the columns."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, overload

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError, listing, lone_surrogate
from conjoin.tokenizer.batch import BatchEncoding
from conjoin.tokenizer.limits import LimitArguments, Limits
from conjoin.tokenizer.rust import guard, no_panics, set_limits
from conjoin.tokenizer.texts import Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns a batch gets besides input_ids."""

    token_type_ids: bool
    attention_mask: bool
    overflowing_tokens: bool = False
    special_tokens_mask: bool = False
    offsets_mapping: bool = False
    length: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """The settings of one call."""

    limits: LimitArguments
    columns: Columns
    add_special_tokens: bool = True
    is_split_into_words: bool = False
    split_special_tokens: bool | None = None
    keep_batch: bool = False
    verbose: bool = True

    def with_max_length(self, max_length: int) -> Self:
        """Return these settings with another maximum length."""
        return replace(self, limits=replace(self.limits, max_length=max_length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """The token that Rust pads with."""

    id: int
    token: str


class Runner:
    """One Rust tokenizer and the lock that guards its settings.

    Rust keeps padding and truncation inside the tokenizer, so two threads with different limits would otherwise cut
    each other's texts (or meet "Already borrowed").
    """

    def __init__(self, backend: Backend, origin: str) -> None:
        """Wrap a Rust tokenizer; if another Runner has wrapped it, share that one's lock.

        Args:
            origin: the file that an error names.
        """
        self.origin = origin
        self._rust, self.backend, self.lock = guard(backend, origin)

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:  # as text, so that later changes of the tokenizer do not show
            return {"document": self._rust.to_str(), "origin": self.origin}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Backend.from_str(state["document"]), state["origin"])

    @contextmanager
    def template(self, post_processor: Any) -> Generator[None]:
        """Use another post-processor inside the context; None keeps the tokenizer's own."""
        with self.lock:
            if post_processor is None:
                yield
                return
            own = self._rust.post_processor
            self._rust.post_processor = post_processor
            try:
                yield
            finally:
                self._rust.post_processor = own

    def encode(
        self,
        texts: Texts,
        limits: Limits,
        pad: Pad | None,
        *,
        add_special_tokens: bool,
        is_split_into_words: bool,
        split_special_tokens: bool,
    ) -> list[Encoding]:
        """Encode every row.

        Raises:
            TokenizerError: the limits leave no room, or Rust refuses a text; its message is kept.
        """
        with self.lock:
            if limits.truncates and add_special_tokens:
                self._check_room(limits, is_pair=any(isinstance(row, tuple) for row in texts.rows))
            try:
                self._set_limits(limits, pad)
                self._rust.encode_special_tokens = split_special_tokens
                with no_panics(self.origin):
                    return self._rust.encode_batch(
                        texts.rows, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
                    )
            except TokenizerError:
                raise
            except Exception as error:  # tokenizers raises bare Exception
                raise _refusal(texts, error) from error
            finally:
                set_limits(self._rust, None, None)

    def _check_room(self, limits: Limits, *, is_pair: bool) -> None:
        special = self._rust.num_special_tokens_to_add(is_pair)
        room = (limits.max_length or 0) - special
        if room < 0 or (limits.stride and room <= limits.stride):
            raise TokenizerError(
                f"max_length = {limits.max_length} leaves room for {max(room, 0)} tokens besides {special} special "
                f"ones, stride = {limits.stride}.",
                hint=f"max_length must be at least {special + limits.stride + (1 if limits.stride else 0)}.",
            )

    def _set_limits(self, limits: Limits, pad: Pad | None) -> None:
        padding = truncation = None
        if limits.truncates:
            truncation = {
                "max_length": limits.max_length,
                "stride": limits.stride,
                "strategy": limits.truncation,
                "direction": limits.truncation_side,
            }
        if limits.pads and pad is not None:
            padding = {
                "length": limits.max_length if limits.padding == "max_length" else None,
                "direction": limits.padding_side,
                "pad_id": pad.id,
                "pad_token": pad.token,
                "pad_type_id": 0,
                "pad_to_multiple_of": limits.pad_to_multiple_of,
            }
        set_limits(self._rust, padding, truncation)


def _refusal(texts: Texts, error: Exception) -> TokenizerError:
    """Return an error that names the texts with lone surrogates, which Rust refuses, or repeats Rust's message."""
    broken = [
        f"{f'text[{index}]' if texts.is_batch else 'text'} {problem}"
        for index, row in enumerate(texts.rows)
        for text in _strings(row)
        if (problem := lone_surrogate(text))
    ]
    if not broken:
        return TokenizerError(f"the tokenizers library cannot encode this text: {error}.")
    return TokenizerError(
        f"The tokenizers library takes text that UTF-8 can hold.\n{listing(broken, limit=5)}",
        hint="""text.encode("utf-8", "replace").decode() puts a "?" in its place.""",
    )


def _strings(row: Any) -> Iterator[str]:
    """Yield the texts or words of a row."""
    if isinstance(row, str):
        yield row
        return
    for part in row:
        yield from _strings(part)


class Pieces(Protocol):
    """Texts that their family has cut into pieces."""

    @property
    def texts(self) -> Texts:
        """Rows of pieces."""
        ...

    def restore(self, row: int, encoding: Encoding) -> Encoding:
        """Return an encoding of a row with the pieces of its text and their places in it."""
        ...


Restore = Callable[[int, Encoding], Encoding]


class Restored(Sequence[Encoding]):
    """Encodings that are restored (`Pieces.restore`) when somebody looks at them, since that takes time."""

    def __init__(self, encodings: list[Encoding], origin: list[int], restore: Restore) -> None:
        self._encodings, self._origin, self._restore = encodings, origin, restore

    def __len__(self) -> int:
        return len(self._encodings)

    @overload
    def __getitem__(self, index: int) -> Encoding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoding]: ...
    def __getitem__(self, index: int | slice) -> Encoding | list[Encoding]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self._restore(self._origin[index], self._encodings[index])

    def __reduce__(self) -> tuple[type[list[Encoding]], tuple[list[Encoding]]]:
        return list, ([*self],)


def collect(
    encodings: list[Encoding], columns: Columns, *, is_batch: bool, restore: Restore | None = None
) -> BatchEncoding:
    """Collect Rust encodings into columns; a single text has no batch axis, unless rows overflow.

    Args:
        restore: makes what is told of a row's text right, if the encodings are of pieces.
    """
    rows: list[Encoding] = []
    origin: list[int] = []
    for index, encoding in enumerate(encodings):
        parts = [encoding, *encoding.overflowing] if columns.overflowing_tokens else [encoding]
        rows += parts
        origin += [index] * len(parts)
    shown = rows if restore is None else Restored(rows, origin, restore)
    data: dict[str, Any] = {"input_ids": [row.ids for row in rows]}
    if columns.token_type_ids:
        data["token_type_ids"] = [row.type_ids for row in rows]
    if columns.attention_mask:
        data["attention_mask"] = [row.attention_mask for row in rows]
    if columns.special_tokens_mask:
        data["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
    if columns.offsets_mapping:
        data["offset_mapping"] = [row.offsets for row in shown]
    if columns.length:
        data["length"] = [len(row.ids) for row in rows]
    if columns.overflowing_tokens:
        data["overflow_to_sample_mapping"] = origin
    elif not is_batch:
        data = {key: value[0] if isinstance(value[0], list) else value for key, value in data.items()}
    return BatchEncoding(data, shown)
