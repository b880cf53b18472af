"""The Rust tokenizer behind a lock, and typed wrappers of calls that its stubs leave untyped."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from tokenizers import AddedToken, Tokenizer

from conjoin.errors import TokenizerError

Options = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def no_panics(origin: str) -> Generator[None]:
    """Turn a panic of the Rust library, which no `except Exception` catches, into an error that names the file.

    Raises:
        TokenizerError: the library panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # the module of PanicException, which cannot be imported
            raise
        raise TokenizerError(
            f"{origin}: the tokenizers library broke down on what this file holds: {str(error)[:300]}.",
            hint="fetch the tokenizer's files again.",
        ) from error


class Guarded:
    """A Rust tokenizer whose reads and writes wait until no other thread uses it.

    `isinstance` takes it for the real one. A call keeps its padding, truncation and frame inside the Rust tokenizer
    while it runs: nothing else may see them.
    """

    def __init__(self, rust: Any, origin: str) -> None:
        # two wrappers of one backend share its lock
        shared: dict[str, Any] = vars(rust) if type(rust) is Guarded else {}
        vars(self).update(rust=shared.get("rust", rust), lock=shared.get("lock") or threading.RLock(), origin=origin)

    @property
    def __class__(self) -> type[Tokenizer]:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        return Tokenizer

    def __getattr__(self, name: str) -> Any:
        fields = vars(self)
        with fields["lock"], no_panics(fields["origin"]):
            value = getattr(fields["rust"], name)
        return self._in_turn(value) if callable(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        fields = vars(self)
        with fields["lock"], no_panics(fields["origin"]):
            setattr(fields["rust"], name, value)

    def __reduce__(self) -> tuple[Callable[[str], Tokenizer], tuple[str]]:
        return Tokenizer.from_str, (self.to_str(),)

    def __repr__(self) -> str:
        return repr(vars(self)["rust"])

    def _in_turn(self, method: Callable[..., Any]) -> Callable[..., Any]:
        fields = vars(self)

        def run(*args: Any, **kwargs: Any) -> Any:
            with fields["lock"], no_panics(fields["origin"]):
                return method(*args, **kwargs)

        return run


def guard(rust: Tokenizer, origin: str) -> tuple[Tokenizer, Tokenizer, Any]:
    """Return the Rust tokenizer, its guarded wrapper, and the lock."""
    guarded = Guarded(rust, origin)
    fields = vars(guarded)
    return fields["rust"], cast(Tokenizer, guarded), fields["lock"]


class Locked(Protocol):
    """An object with a lock."""

    @property
    def lock(self) -> Any:
        """The lock to hold while using the tokenizer."""
        ...


L = TypeVar("L", bound=Locked)


def in_turn(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """Decorate a method to hold the lock, so that no other thread uses the tokenizer meanwhile."""

    @wraps(method)
    def run(self: L, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return run


def limits_of(backend: Tokenizer) -> tuple[Options | None, Options | None]:
    """Return the padding and the truncation; None for one that is off."""
    rust: Any = backend
    return rust.padding, rust.truncation


def set_limits(backend: Tokenizer, padding: Options | None, truncation: Options | None) -> None:
    """Set padding and truncation; None turns one off. The keys are those of `limits_of`."""
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
    """Add tokens at the end of the vocabulary; return how many were new."""
    rust: Any = backend
    return rust.add_special_tokens(list(tokens)) if special else rust.add_tokens(list(tokens))
