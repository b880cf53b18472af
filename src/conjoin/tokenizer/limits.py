"""Padding and truncation of a batch, checked once per call."""

import sys
from dataclasses import dataclass
from typing import Any

from conjoin.errors import TokenizerError, warn
from conjoin.limits import ROW_TOKENS

NO_LIMIT = int(1e30)
"""`model_max_length` of a tokenizer without a limit, as in transformers."""

IS_LIMIT = int(1e20)
"""transformers' LARGE_INTEGER: above it, model_max_length means "none"."""

PADDING = ("do_not_pad", "longest", "max_length")
TRUNCATION = ("do_not_truncate", "longest_first", "only_first", "only_second")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitArguments:
    """Padding and truncation as the caller passed them."""

    padding: Any = False
    truncation: Any = None
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitDefaults:
    """Properties of a tokenizer that limit padding and truncation."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    pad_token: str | None
    pad_token_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Padding and truncation to apply, after all defaults are resolved."""

    padding: str
    truncation: str
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str

    @property
    def pads(self) -> bool:
        """True if rows are padded."""
        return self.padding != "do_not_pad"

    @property
    def truncates(self) -> bool:
        """True if rows are truncated."""
        return self.truncation != "do_not_truncate"


def length_limit(value: Any) -> int:
    """Return `model_max_length` as an integer; NO_LIMIT for None.

    Raises:
        TokenizerError: it is not a whole number, or less than 1.
    """
    if value is None:
        return NO_LIMIT
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not is_whole or not 1 <= value < float("inf"):
        raise TokenizerError(
            f"model_max_length = {str(value)[:40]!r}, expected a whole number of at least 1.",
            hint="correct it in tokenizer_config.json; in Python, from_pretrained(..., model_max_length=512) wins over "
            "the file.",
        )
    return int(value)


def resolve_limits(arguments: LimitArguments, defaults: LimitDefaults) -> Limits:
    """Resolve the caller's settings into limits.

    Raises:
        TokenizerError: a strategy or side is unknown, there is no pad token, or lengths contradict each other.
    """
    padding = _strategy("padding", arguments.padding, PADDING)
    truncation = _strategy("truncation", arguments.truncation, TRUNCATION)
    if arguments.max_length is not None and arguments.padding is False and arguments.truncation is None:
        truncation = "longest_first"  # a bare max_length truncates, as in transformers
    _check_numbers(arguments)
    max_length = arguments.max_length
    if max_length is None and (padding == "max_length" or truncation != "do_not_truncate"):
        max_length = defaults.model_max_length if defaults.model_max_length <= IS_LIMIT else None
        if max_length is None:
            _warn_no_length(padding, truncation)
            padding = "do_not_pad" if padding == "max_length" else padding
            truncation = "do_not_truncate"
    _warn_unused(arguments, padding, truncation)
    limits = Limits(
        padding=padding,
        truncation=truncation,
        max_length=max_length,
        stride=arguments.stride,
        pad_to_multiple_of=arguments.pad_to_multiple_of,
        padding_side=_side("padding_side", arguments.padding_side or defaults.padding_side),
        truncation_side=_side("truncation_side", defaults.truncation_side),
    )
    _check_possible(limits, defaults)
    return limits


def _strategy(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value is None or value is False:
        return known[0]
    if value is True:
        return known[1]
    text = str(getattr(value, "value", value))  # transformers' enums have the same values
    if text not in known:
        raise TokenizerError(f"{name} = {value!r}, expected True, False or one of: {', '.join(known)}.")
    return text


def _side(name: str, side: str) -> str:
    if side not in ("left", "right"):
        raise TokenizerError(f"{name} = {side!r}, expected 'left' or 'right'.")
    return side


def _check_numbers(arguments: LimitArguments) -> None:
    for name in ("max_length", "pad_to_multiple_of", "stride"):
        value = getattr(arguments, name)
        lowest = 0 if name == "stride" else 1
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < lowest):
            raise TokenizerError(f"{name} = {value!r}, expected a whole number of at least {lowest}.")
        if value is not None and value > sys.maxsize:
            raise TokenizerError(f"{name} = {value}, expected at most {sys.maxsize}; leave it out for no limit.")


def _check_possible(limits: Limits, defaults: LimitDefaults) -> None:
    if limits.pads and (defaults.pad_token is None or defaults.pad_token_id is None):
        raise TokenizerError(
            "padding was asked for, but the tokenizer has no pad token.",
            hint="tokenizer.pad_token = tokenizer.eos_token, "
            "or tokenizer.add_special_tokens({'pad_token': '[PAD]'}) and resize the model's embeddings; without "
            'Python, write "pad_token" into its tokenizer_config.json.',
        )
    multiple, length = limits.pad_to_multiple_of, limits.max_length
    padded = max(multiple or 1, (length or 1) if limits.padding == "max_length" else 1)
    if limits.pads and padded > ROW_TOKENS:
        raise TokenizerError(
            f"every row would be filled up to {padded:,} tokens, expected at most {ROW_TOKENS:,} (ROW_TOKENS).",
            hint="padding=True fills up to the longest row of the batch.",
        )
    if limits.pads and limits.truncates and multiple and length and length % multiple:
        raise TokenizerError(
            f"max_length = {length} is not a multiple of pad_to_multiple_of = {multiple}, so truncated rows cannot be.",
            hint=f"max_length={length // multiple * multiple or multiple}",
        )


def _warn_no_length(padding: str, truncation: str) -> None:
    names = [f"padding={padding!r}"] if padding == "max_length" else []
    names += [f"truncation={truncation!r}"] if truncation != "do_not_truncate" else []
    warn(
        f"{' and '.join(names)} has no effect: max_length is not given and the tokenizer knows no model_max_length. "
        "Pass max_length=, or set tokenizer.model_max_length."
    )


def _warn_unused(arguments: LimitArguments, padding: str, truncation: str) -> None:
    if arguments.max_length is not None and padding != "max_length" and truncation == "do_not_truncate":
        warn(
            f"max_length={arguments.max_length} has no effect: nothing is truncated, and padding is {padding!r}. "
            "Pass truncation=True to cut, or padding='max_length' to fill up."
        )
    if arguments.pad_to_multiple_of is not None and padding == "do_not_pad":
        warn(f"pad_to_multiple_of={arguments.pad_to_multiple_of} has no effect without padding. Pass padding=True.")
