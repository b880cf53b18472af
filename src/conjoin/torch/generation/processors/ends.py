"""Processors that force, forbid or favour tokens by where the row stands, and those that tidy scores."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.functional import processors as rules
from conjoin.torch.generation.processors.calling import RuleProcessor, SourceProcessor, TokenIds, as_tuple


class MinLengthLogitsProcessor(RuleProcessor):
    """No eos before the row, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        super().__init__(rules.min_length, min_length, as_tuple(eos_token_id))


class MinNewTokensLengthLogitsProcessor(RuleProcessor):
    """No eos among the first `min_new_tokens` tokens behind the prompt."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: TokenIds,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(rules.min_new_tokens, min_new_tokens, prompt_length_to_skip, as_tuple(eos_token_id))


class ForcedBOSTokenLogitsProcessor(RuleProcessor):
    """The token behind a prompt of one token."""

    def __init__(self, bos_token_id: int) -> None:
        super().__init__(rules.forced_bos_token_id, bos_token_id)


class ForcedEOSTokenLogitsProcessor(RuleProcessor):
    """The last token of a row that reaches `max_length`."""

    def __init__(self, max_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        super().__init__(rules.forced_eos_token_id, as_tuple(eos_token_id), max_length)


class SuppressTokensLogitsProcessor(RuleProcessor):
    """Forbid tokens."""

    def __init__(self, suppress_tokens: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(rules.suppress_tokens, as_tuple(list(suppress_tokens)))


class SuppressTokensAtBeginLogitsProcessor(RuleProcessor):
    """Forbid tokens where the row has `begin_index` tokens."""

    def __init__(
        self, begin_suppress_tokens: Sequence[int], begin_index: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(rules.begin_suppress_tokens, as_tuple(list(begin_suppress_tokens)), begin_index)


class ExponentialDecayLengthPenalty(RuleProcessor):
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
        start, factor = exponential_decay_length_penalty
        rule = rules.exponential_decay_length_penalty
        super().__init__(rule, start + input_ids_seq_length, factor, as_tuple(eos_token_id))


class InfNanRemoveLogitsProcessor(RuleProcessor):
    """Replace nan by 0 and infinities by the largest numbers of their sign."""

    def __init__(self) -> None:
        super().__init__(rules.remove_invalid_values)


class LogitNormalization(RuleProcessor):
    """log_softmax; a row whose tokens are all forbidden stays so."""

    def __init__(self) -> None:
        super().__init__(rules.renormalize_logits)


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
