"""Processors that force, forbid or favour tokens by where the row stands, and those that tidy scores."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.generation.processors.calling import RowwiseProcessor, SourceProcessor, TokenIds, Words

_MOST_GROWTH = 1e30
"""Where the exponential of a length penalty stops growing: float32 ends at 3.4e38."""


class MinLengthLogitsProcessor(RowwiseProcessor):
    """No eos before the row, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        self.min_length = min_length
        self.eos = Words(eos_token_id)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return self.eos.forbid(scores) if input_ids.shape[1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """No eos among the first `min_new_tokens` tokens behind the prompt."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: TokenIds,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id)


class ForcedBOSTokenLogitsProcessor(RowwiseProcessor):
    """The token behind a prompt of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos = Words(bos_token_id)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return self.bos.force(scores) if input_ids.shape[1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(RowwiseProcessor):
    """The last token of a row that reaches `max_length`."""

    def __init__(self, max_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        self.max_length = max_length
        self.eos = Words(eos_token_id)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return self.eos.force(scores) if input_ids.shape[1] == self.max_length - 1 else scores


class SuppressTokensLogitsProcessor(RowwiseProcessor):
    """Forbid tokens."""

    def __init__(self, suppress_tokens: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.tokens = Words(list(suppress_tokens))

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return self.tokens.forbid(scores)


class SuppressTokensAtBeginLogitsProcessor(RowwiseProcessor):
    """Forbid tokens where the row has `begin_index` tokens."""

    def __init__(
        self, begin_suppress_tokens: Sequence[int], begin_index: int, device: torch.device | str = "cpu"
    ) -> None:
        self.tokens = Words(list(begin_suppress_tokens))
        self.begin_index = begin_index

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return self.tokens.forbid(scores) if input_ids.shape[1] == self.begin_index else scores


class ExponentialDecayLengthPenalty(RowwiseProcessor):
    """Raise eos ever more once the row is long.

    Args:
        exponential_decay_length_penalty: (start, factor): behind `start` tokens after the prompt, eos gains its
            absolute score times factor ** (tokens past start) - 1. What is forbidden stays forbidden.
        input_ids_seq_length: Length of the prompt.
    """

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: TokenIds,
        input_ids_seq_length: int,
    ) -> None:
        self.start = exponential_decay_length_penalty[0] + input_ids_seq_length
        self.factor = exponential_decay_length_penalty[1]
        self.eos = Words(eos_token_id)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        past = input_ids.shape[1] - self.start
        if past <= 0:
            return scores
        index = self.eos.index(scores)
        found = scores[:, index]
        gain = (found.abs() * (self._growth(past) - 1)).masked_fill(~found.isfinite(), 0.0)
        return scores.index_copy(1, index, found + gain)

    def _growth(self, past: int) -> float:
        try:
            return min(self.factor**past, _MOST_GROWTH)
        except OverflowError:
            return _MOST_GROWTH


class PrefixConstrainedLogitsProcessor(SourceProcessor):
    """Allow only the tokens that a function names (a trie of valid targets, for instance; arXiv:2010.00904).

    Args:
        prefix_allowed_tokens_fn: (number of the source, ids of the row so far) -> ids that may follow.
        num_beams: Beams of a source.
        num_sources: Tells a first step that runs one row per source from one of all beams.
    """

    def __init__(
        self,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]],
        num_beams: int,
        *,
        num_sources: int | None = None,
        rows_per_source: int | None = None,
    ) -> None:
        self.allowed = prefix_allowed_tokens_fn
        self.num_beams = num_beams
        self.num_sources = num_sources
        super().__init__(num_sources or 1, rows_per_source or num_beams)

    def __call__(
        self,
        input_ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        live_rows: Bool[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """Forbid everything but what the function names; what was forbidden before stays so.

        Args:
            live_rows: The function is not asked about other rows: they have ended, or nothing stands in them.
        """
        live = [True] * len(scores) if live_rows is None else live_rows.tolist()
        sources = self._sources(len(scores), scores.device)
        asked = [row for row, goes_on in enumerate(live) if goes_on]
        allowed = [self._words(sources[row], input_ids[row], scores.shape[1]) for row in asked]
        rows = [row for row, words in zip(asked, allowed, strict=True) for _ in words]
        index = torch.tensor([rows, [word for words in allowed for word in words]], device=scores.device)
        mask = torch.zeros_like(scores)
        mask[asked] = -torch.inf
        mask[index[0], index[1]] = 0.0
        return scores + mask

    def _words(self, source: int, ids: Int[Tensor, " t"], vocab_size: int) -> list[int]:
        named: Any = self.allowed(source, ids)
        words: list[int] = named.tolist() if hasattr(named, "tolist") else list(named)
        if words and min(words) >= 0 and max(words) < vocab_size:
            return words
        outside = [word for word in words if not 0 <= word < vocab_size]
        said = f"allows {outside[:8]}, no ids of 0 to {vocab_size - 1}," if words else "allows no token"
        raise GenerationError(
            f"prefix_allowed_tokens_fn {said} for source {source} after {ids.tolist()}.",
            hint="let it return ids of the vocabulary; the eos id where nothing else may follow.",
        )

    def _sources(self, num_rows: int, device: torch.device) -> list[int]:
        if self.num_sources is None and self.source_of_row.kept is None:
            return [row // self.num_beams for row in range(num_rows)]
        return self.source_of_row.of(num_rows, device).tolist()


class InfNanRemoveLogitsProcessor(RowwiseProcessor):
    """Replace nan by 0 and infinities by the largest numbers of their sign."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores.nan_to_num(nan=0.0)


class LogitNormalization(RowwiseProcessor):
    """log_softmax; a row whose tokens are all forbidden stays so."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores.log_softmax(-1).masked_fill(scores.isneginf(), -torch.inf)
