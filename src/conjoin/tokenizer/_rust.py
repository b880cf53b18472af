"""The few calls of the `tokenizers` library that its type stubs leave untyped."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

Options = dict[str, Any]


def limits_of(backend: Tokenizer) -> tuple[Options | None, Options | None]:
    """The padding and the truncation that are switched on."""
    rust: Any = backend
    return rust.padding, rust.truncation


def set_limits(backend: Tokenizer, padding: Options | None, truncation: Options | None) -> None:
    """Switch padding and truncation on, or off with None; the keys are those of `limits_of`."""
    rust: Any = backend
    if padding is None:
        rust.no_padding()
    else:
        rust.enable_padding(**padding)
    if truncation is None:
        rust.no_truncation()
    else:
        rust.enable_truncation(**truncation)


def add(backend: Tokenizer, tokens: Sequence[str | AddedToken], *, special: bool) -> int:
    """Add tokens at the end of the vocabulary; returns how many it lacked."""
    rust: Any = backend
    return rust.add_special_tokens(list(tokens)) if special else rust.add_tokens(list(tokens))
