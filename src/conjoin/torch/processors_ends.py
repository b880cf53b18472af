"""Processors that force, forbid or favour tokens by where the row stands, and those that tidy scores."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.processors_calling import RowwiseProcessor, SourceProcessor, TokenIds, Words

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
        num_beams: Beams of a source; where none of them has a score above -inf left, the allowed tokens get 0.
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

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        rows: list[int] = []
        words: list[int] = []
        for row, source in enumerate(self._sources(len(scores), scores.device)):
            allowed = list(self.allowed(source, input_ids[row]))
            if not allowed:
                raise GenerationError(
                    f"prefix_allowed_tokens_fn allows no token for source {source} after {input_ids[row].tolist()}.",
                    hint="let it return the eos id where nothing else may follow.",
                )
            rows += [row] * len(allowed)
            words += allowed
        mask = torch.full_like(scores, -torch.inf)
        mask[torch.tensor(rows, device=scores.device), torch.tensor(words, device=scores.device)] = 0.0
        kept = scores + mask
        stuck = kept.amax(1).isneginf().view(-1, self._beams_of(len(scores))).all(1, keepdim=True)
        return torch.where(stuck.repeat_interleave(self._beams_of(len(scores)), 0), mask, kept)

    def _sources(self, num_rows: int, device: torch.device) -> list[int]:
        if self.num_sources is None and self.source_of_row.kept is None:
            return [row // self.num_beams for row in range(num_rows)]
        return self.source_of_row.of(num_rows, device).tolist()

    def _beams_of(self, num_rows: int) -> int:
        first_step = self.source_of_row.kept is None and num_rows == self.num_sources
        return 1 if first_step else self.num_beams


class InfNanRemoveLogitsProcessor(RowwiseProcessor):
    """Replace nan by 0 and infinities by the largest numbers of their sign."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores.nan_to_num(nan=0.0)


class LogitNormalization(RowwiseProcessor):
    """log_softmax."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores.log_softmax(-1)
