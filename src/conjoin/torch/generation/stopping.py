"""When a row ends, besides its longest length and its end ids."""

import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.generation import Request
from conjoin.torch.generation.processors.calling import TokenIds, as_tuple


class StoppingCriteria:
    """Base of what ends rows (transformers' class of the same name)."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Any = None, **extra: Any) -> Bool[Tensor, " R"] | bool:
        """True for the rows that end here; one bool speaks for all rows.

        Args:
            scores: Those of every step so far where they are collected, else None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which rows end: define __call__.")


class MaxLengthCriteria(StoppingCriteria):
    """Rows end at `max_length` tokens, prompt included."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Any = None, **extra: Any) -> Bool[Tensor, " R"]:
        return _all_rows(input_ids, input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """All rows end after `max_time` seconds; the step that is under way is finished.

    Args:
        initial_timestamp: time.time() of the start; now if missing.
    """

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Any = None, **extra: Any) -> Bool[Tensor, " R"]:
        return _all_rows(input_ids, time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """A row ends with any of these ids."""

    def __init__(self, eos_token_id: TokenIds) -> None:
        self.eos = as_tuple(eos_token_id)

    def __call__(
        self, input_ids: Int[Tensor, "R t"], scores: Any = None, *, new_token_length: int = 1, **extra: Any
    ) -> Bool[Tensor, " R"]:
        """True where one of the last `new_token_length` tokens is an end."""
        ends = torch.tensor(self.eos, dtype=input_ids.dtype, device=input_ids.device)
        return torch.isin(input_ids[:, -new_token_length:], ends).any(-1)


class StopStringCriteria(StoppingCriteria):
    """A row ends once its text holds one of the strings, wherever tokens are cut: the last token may go past its end.

    The rule is transformers': an occurrence must reach into the last token, and a token's text is what it adds behind
    another word. Where the tokenizer works on bytes, bytes are compared, so that characters spread over several
    tokens count. Token texts are made when they are first met, so a large vocabulary costs nothing up front.

    Args:
        tokenizer: Of the targets; conjoin's or transformers'.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str]) -> None:
        self.stop_strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
        self._texts = _TokenTexts(tokenizer)
        self._wanted = [self._texts.encoded(string) for string in self.stop_strings]
        self._window = max(len(string) for string in self._wanted)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Any = None, **extra: Any) -> Bool[Tensor, " R"]:
        tails = input_ids[:, -self._window :].tolist()
        return torch.tensor([self._ends(tail) for tail in tails], dtype=torch.bool, device=input_ids.device)

    def _ends(self, ids: list[int]) -> bool:
        last: Any = self._texts[ids[-1]]
        if not last:
            return False
        tail = last
        for i in reversed(ids[:-1]):
            text = self._texts[i]
            if text is None or len(tail) >= len(last) + self._window:
                break
            tail = text + tail
        return any(string in tail[-(len(last) + len(string) - 1) :] for string in self._wanted)


_ROWWISE = (MaxLengthCriteria, MaxTimeCriteria, EosTokenCriteria, StopStringCriteria)


class StoppingCriteriaList(list[Any]):
    """A row ends when any of these says so (transformers' class of the same name)."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Any = None, **extra: Any) -> Bool[Tensor, " R"]:
        """True for the rows that end here.

        Raises:
            GenerationError: one of them answers with neither a bool nor one value per row.
        """
        ended = _all_rows(input_ids, False)
        for criterion in self:
            ended = ended | _per_row(criterion, criterion(input_ids, scores, **extra), input_ids)
        return ended

    @property
    def rows_may_leave(self) -> bool:
        """Whether none of these can have noted which row is which: the caller's own may have."""
        return all(isinstance(each, _ROWWISE) for each in self)

    @property
    def max_length(self) -> int | None:
        """That of the first MaxLengthCriteria; None without one."""
        return next((each.max_length for each in self if isinstance(each, MaxLengthCriteria)), None)


def build_stopping(
    request: Request, *, tokenizer: Any | None = None, extra: Iterable[Any] | None = None
) -> StoppingCriteriaList:
    """What ends rows of a request besides its length and end ids, which the decoding loops watch themselves.

    Args:
        tokenizer: Of the targets, for stop strings.
        extra: The caller's own criteria.

    Raises:
        GenerationError: there are stop strings but no tokenizer.
    """
    criteria = StoppingCriteriaList()
    if request.max_time_s is not None:
        criteria.append(MaxTimeCriteria(request.max_time_s))
    if request.stop_strings:
        if tokenizer is None:
            raise GenerationError("stop_strings needs the target tokenizer.", hint="pass tokenizer= to generate().")
        criteria.append(StopStringCriteria(tokenizer, request.stop_strings))
    criteria.extend(extra or ())
    return criteria


def _all_rows(input_ids: Int[Tensor, "R t"], value: bool) -> Bool[Tensor, " R"]:
    return torch.full((len(input_ids),), value, dtype=torch.bool, device=input_ids.device)


def _per_row(criterion: Any, answer: Any, input_ids: Int[Tensor, "R t"]) -> Bool[Tensor, " R"]:
    if isinstance(answer, bool):
        return _all_rows(input_ids, answer)
    if isinstance(answer, Tensor) and answer.numel() in (1, len(input_ids)):
        return answer.to(input_ids.device).bool().flatten().expand(len(input_ids))
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    raise GenerationError(
        f"The stopping criterion {type(criterion).__name__} answers with {shape}; "
        f"expected a bool or a bool tensor of shape ({len(input_ids)},)."
    )


_PREFIX = "abcdef"
"""A token's text is what it adds behind these letters, since some tokenizers write a first token without its space."""


class _TokenTexts(dict[int, "str | bytes | None"]):
    """Id -> the text that it adds; None for an id without a token."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        target = getattr(tokenizer, "target", tokenizer)  # a pair of tokenizers: texts are the target's
        self.tokenizer = target
        self.kind = _decoder_kind(target)

    def encoded(self, text: str) -> Any:
        """Text in the form in which tokens are compared."""
        return text.encode() if self.kind else text

    def __missing__(self, token_id: int) -> Any:
        token = self.tokenizer.convert_ids_to_tokens(token_id) if self._exists(token_id) else None
        self[token_id] = None if token is None else self._text(token)
        return self[token_id]

    def _exists(self, token_id: int) -> bool:
        return token_id in self._ids

    @cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    @cached_property
    def _prefix_tokens(self) -> list[str]:
        ids = self.tokenizer(_PREFIX, add_special_tokens=False)["input_ids"]
        return self.tokenizer.convert_ids_to_tokens(list(ids))

    def _text(self, token: str) -> Any:
        if self.kind == "ByteLevel" and all(char in _BYTE_OF for char in token):
            return bytes(_BYTE_OF[char] for char in token)
        if self.kind == "ByteFallback" and _is_byte_token(token):
            return bytes([int(token[3:5], 16)])
        text = self.tokenizer.convert_tokens_to_string([*self._prefix_tokens, token])
        if _PREFIX in text:
            return self.encoded(text[text.index(_PREFIX) + len(_PREFIX) :])
        # A vocabulary of whole words has an unknown token for the prefix.
        return self.encoded(text.removeprefix(self.tokenizer.convert_tokens_to_string(self._prefix_tokens)))


def _is_byte_token(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">") and _is_hex(token[3:5])


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _decoder_kind(tokenizer: Any) -> str | None:
    """Which kind of byte decoder the Rust tokenizer has, if any."""
    rust = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "backend", None)
    decoder = getattr(rust, "decoder", None)
    if decoder is None:
        return None
    kinds = _types_in(json.loads(decoder.__getstate__()))
    return next((kind for kind in ("ByteFallback", "ByteLevel") if kind in kinds), None)


def _types_in(described: Any) -> set[str]:
    if isinstance(described, dict):
        return {str(described.get("type"))}.union(*(_types_in(value) for value in described.values()))
    return set().union(*(_types_in(item) for item in described)) if isinstance(described, list) else set()


def _byte_characters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for 256, 257, ... in order."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_characters()
