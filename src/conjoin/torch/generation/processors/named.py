"""Logits processors by transformers' names, in the order in which they run.

conjoin.functional defines what they compute. The result for a row depends on that row and its source only.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.functional import processors as rules
from conjoin.functional import processors_repetition as repetition
from conjoin.functional import processors_warpers as warpers
from conjoin.generation.ranges import POSITIVE, SHARE, SHARE_ABOVE_0, SHARE_INSIDE, in_range
from conjoin.torch.generation.processors.calling import RowwiseProcessor, RuleProcessor, SourceOfRow, TokenIds, as_tuple

Biases = Mapping[tuple[int, ...], float] | Iterable[Sequence[Sequence[int] | float]]


class SequenceBiasLogitsProcessor(RuleProcessor):
    """Add a bias to the token that would complete a sequence of tokens.

    Args:
        sequence_bias: {(id, ...): bias}, or the same as [[[id, ...], bias], ...].

    Raises:
        GenerationError: on the first call, an id is outside the vocabulary.
    """

    def __init__(self, sequence_bias: Biases) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        biases = {tuple(ids): float(bias) for ids, bias in pairs}  # pyright: ignore[reportArgumentType]
        if not biases or not all(ids and min(ids) >= 0 for ids in biases):
            raise GenerationError(
                f"sequence_bias = {sequence_bias!r}: expected {{(id, ...): bias}}, not empty, ids of at least 0."
            )
        super().__init__(repetition.sequence_bias, tuple(biases.items()))


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Forbid sequences of tokens.

    Args:
        eos_token_id: A sequence that consists of one such id is not forbidden.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: TokenIds | None = None) -> None:
        ends = {(i,) for i in as_tuple(eos_token_id)} if eos_token_id is not None else set()
        super().__init__({tuple(run): -math.inf for run in bad_words_ids if tuple(run) not in ends})


class HammingDiversityLogitsProcessor(RowwiseProcessor):
    """Penalise tokens that earlier groups of beams chose at this step (Vijayakumar et al. 2016, arXiv:1610.02424)."""

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        self.penalty = in_range("diversity_penalty", diversity_penalty, POSITIVE)
        self.num_beams = num_beams
        self.group_size = num_beams // num_beam_groups

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # LogitsProcessorList passes arguments by name
        self,
        input_ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        current_tokens: Int[Tensor, " n"],
        beam_group_idx: int,
    ) -> Float[Tensor, "R V"]:
        """Edit the scores of one group, R = sources * group size.

        Args:
            current_tokens: Tokens of all beams of all sources; those of earlier groups were chosen at this step. A
                negative one means that the beam chose none, because its group is done.
        """
        earlier = current_tokens.view(-1, self.num_beams)[:, : beam_group_idx * self.group_size]
        earlier_tokens = earlier.repeat_interleave(self.group_size, 0)
        penalties = torch.where(earlier_tokens < 0, 0.0, -self.penalty).to(scores.dtype)
        return scores.scatter_add(1, earlier_tokens.clamp(min=0), penalties)


class EncoderRepetitionPenaltyLogitsProcessor(RuleProcessor):
    """Raise the scores of tokens that occur in the source.

    Args:
        penalty: Positive scores are multiplied by it, negative ones divided.
        encoder_input_ids: Source ids in the decoder's vocabulary; ids outside it are ignored.
        encoder_attention_mask: 1 where the source is not padding; None for no padding, as in transformers.
    """

    def __init__(
        self,
        penalty: float,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        rule, penalty = repetition.encoder_repetition_penalty, in_range("penalty", penalty, POSITIVE)
        known = encoder_input_ids, encoder_attention_mask
        super().__init__(rule, penalty, known=known, rows_per_source=rows_per_source)


class RepetitionPenaltyLogitsProcessor(RuleProcessor):
    """Lower the scores of tokens that already occur in the row (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        penalty: Positive scores are divided by it, negative ones multiplied.
        prompt_ignore_length: Number of leading tokens to ignore, for all rows or [B] per source (left padding).
    """

    def __init__(
        self,
        penalty: float,
        prompt_ignore_length: int | Int[Tensor, " B"] | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        is_of_rows = isinstance(prompt_ignore_length, Tensor)
        known, skipped = (prompt_ignore_length[:, None], 0) if is_of_rows else (None, prompt_ignore_length or 0)
        rule, penalty = repetition.repetition_penalty, in_range("penalty", penalty, POSITIVE)
        super().__init__(rule, penalty, known=(known,), rows_per_source=rows_per_source, skipped=skipped)


class NoRepeatNGramLogitsProcessor(RuleProcessor):
    """Forbid a row to contain any sequence of `ngram_size` tokens twice."""

    def __init__(self, ngram_size: int) -> None:
        super().__init__(repetition.no_repeat_ngram_size, int(in_range("ngram_size", ngram_size, POSITIVE)))


class EncoderNoRepeatNGramLogitsProcessor(RuleProcessor):
    """Forbid every sequence of `encoder_ngram_size` tokens of the source in the row.

    Args:
        encoder_input_ids: Source ids in the decoder's vocabulary; sequences with ids outside it cannot occur anyway.
        encoder_attention_mask: 1 where the source is not padding; None for no padding, as in transformers.
    """

    def __init__(
        self,
        encoder_ngram_size: int,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        rule, size = (
            repetition.encoder_no_repeat_ngram_size,
            in_range("encoder_ngram_size", encoder_ngram_size, POSITIVE),
        )
        known = encoder_input_ids, encoder_attention_mask
        super().__init__(rule, int(size), known=known, rows_per_source=rows_per_source)


class MinLengthLogitsProcessor(RuleProcessor):
    """Forbid eos until the row, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        super().__init__(rules.min_length, min_length, as_tuple(eos_token_id))


class MinNewTokensLengthLogitsProcessor(RuleProcessor):
    """Forbid eos among the first `min_new_tokens` tokens after the prompt."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: TokenIds,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(rules.min_new_tokens, min_new_tokens, prompt_length_to_skip, as_tuple(eos_token_id))


class ForcedBOSTokenLogitsProcessor(RuleProcessor):
    """Force the token after a prompt of one token."""

    def __init__(self, bos_token_id: int) -> None:
        super().__init__(rules.forced_bos_token_id, bos_token_id)


class ForcedEOSTokenLogitsProcessor(RuleProcessor):
    """Force the last token of a row that reaches `max_length`."""

    def __init__(self, max_length: int, eos_token_id: TokenIds, device: torch.device | str = "cpu") -> None:
        super().__init__(rules.forced_eos_token_id, as_tuple(eos_token_id), max_length)


class SuppressTokensLogitsProcessor(RuleProcessor):
    """Forbid tokens."""

    def __init__(self, suppress_tokens: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(rules.suppress_tokens, as_tuple(list(suppress_tokens)))


class SuppressTokensAtBeginLogitsProcessor(RuleProcessor):
    """Forbid tokens at the step where the row has `begin_index` tokens."""

    def __init__(
        self, begin_suppress_tokens: Sequence[int], begin_index: int, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(rules.begin_suppress_tokens, as_tuple(list(begin_suppress_tokens)), begin_index)


class ExponentialDecayLengthPenalty(RuleProcessor):
    """Raise the score of eos exponentially once the row is long.

    Args:
        exponential_decay_length_penalty: (start, factor): after more than `start` new tokens, eos gains its
            absolute score times factor ** (tokens past start) - 1. A forbidden eos stays forbidden.
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
    """Apply log_softmax; a row whose tokens are all forbidden stays as it is."""

    def __init__(self) -> None:
        super().__init__(rules.renormalize_logits)


class PrefixConstrainedLogitsProcessor(RowwiseProcessor):
    """Allow only the tokens that a function returns (a trie of valid targets, for instance; arXiv:2010.00904).

    Args:
        prefix_allowed_tokens_fn: (index of the source, ids of the row so far) -> ids that may follow.
        num_beams: Number of beams per source.
        num_sources: Number of sources, by which a first step on one row per source is recognised.
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
        self.source_of_row = SourceOfRow(num_sources or 1, rows_per_source or num_beams)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order."""
        self.source_of_row = self.source_of_row.select(rows)

    def __call__(
        self,
        input_ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        live_rows: Bool[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """Forbid all tokens that the function does not return; forbidden tokens stay forbidden.

        Args:
            live_rows: Rows to call the function for; the others have ended or hold no hypothesis.
        """
        live = [True] * len(scores) if live_rows is None else live_rows.tolist()
        sources = self._sources(len(scores), scores.device)
        rows_to_check = [row for row, is_live in enumerate(live) if is_live]
        allowed = [self._allowed_ids(sources[row], input_ids[row], scores.shape[1]) for row in rows_to_check]
        rows = [row for row, ids in zip(rows_to_check, allowed, strict=True) for _ in ids]
        tokens = [token for ids in allowed for token in ids]
        index = torch.tensor([rows, tokens], dtype=torch.long, device=scores.device)
        mask = torch.zeros_like(scores)
        mask[rows_to_check] = -torch.inf
        mask[index[0], index[1]] = 0.0
        return scores + mask

    def _allowed_ids(self, source: int, ids: Int[Tensor, " t"], vocab_size: int) -> list[int]:
        returned: Any = self.allowed(source, ids)
        allowed: list[int] = returned.tolist() if hasattr(returned, "tolist") else list(returned)
        if allowed and min(allowed) >= 0 and max(allowed) < vocab_size:
            return allowed
        outside = [token for token in allowed if not 0 <= token < vocab_size]
        problem = f"allows {outside[:8]}, no ids of 0 to {vocab_size - 1}," if allowed else "allows no token"
        raise GenerationError(
            f"prefix_allowed_tokens_fn {problem} for source {source} after {ids.tolist()}.",
            hint="let it return ids of the vocabulary; the eos id where nothing else may follow.",
        )

    def _sources(self, num_rows: int, device: torch.device) -> list[int]:
        if self.num_sources is None and self.source_of_row.kept is None:
            return [row // self.num_beams for row in range(num_rows)]
        return self.source_of_row.of(num_rows, device).tolist()


class TemperatureLogitsWarper(RuleProcessor):
    """Divide scores by the temperature: below 1 sharpens the distribution, above 1 flattens it."""

    def __init__(self, temperature: float) -> None:
        if not POSITIVE.holds(temperature):
            raise GenerationError(f"temperature = {temperature!r}: expected a number above 0; 0 is do_sample=False.")
        super().__init__(warpers.temperature, float(temperature))


class _Filter(RuleProcessor):
    """Base of processors that set the scores of dropped tokens to `filter_value`."""

    def __init__(self, rule: Callable[..., Any], value: Any, min_tokens_to_keep: int, filter_value: float) -> None:
        if min_tokens_to_keep < 1:
            raise GenerationError(f"min_tokens_to_keep = {min_tokens_to_keep!r}: expected at least 1.")
        super().__init__(rule, value, min_tokens_to_keep, filter_value)


class TopKLogitsWarper(_Filter):
    """Keep the k likeliest tokens, and those that tie with the last of them."""

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if top_k < 1:
            raise GenerationError(f"top_k = {top_k!r}: expected at least 1.")
        super().__init__(warpers.top_k, top_k, min_tokens_to_keep, filter_value)


class TopPLogitsWarper(_Filter):
    """Keep the likeliest tokens that together reach p (Holtzman et al. 2019, arXiv:1904.09751)."""

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(warpers.top_p, float(in_range("top_p", top_p, SHARE)), min_tokens_to_keep, filter_value)


class MinPLogitsWarper(_Filter):
    """Keep tokens of at least p times the probability of the best (Nguyen et al. 2024, arXiv:2407.01082)."""

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(warpers.min_p, in_range("min_p", min_p, SHARE), min_tokens_to_keep, filter_value)


class TypicalLogitsWarper(_Filter):
    """Keep the tokens nearest to the expected surprise that together reach `mass` (arXiv:2202.00666)."""

    def __init__(self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(
            warpers.typical_p, float(in_range("typical_p", mass, SHARE_INSIDE)), min_tokens_to_keep, filter_value
        )


class EpsilonLogitsWarper(_Filter):
    """Keep tokens above a probability (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        cutoff = float(in_range("epsilon_cutoff", epsilon, SHARE_INSIDE))
        super().__init__(warpers.epsilon_cutoff, cutoff, min_tokens_to_keep, filter_value)


class EtaLogitsWarper(_Filter):
    """Keep tokens above a probability that falls as entropy grows (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(
        self,
        epsilon: float,
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        cutoff = float(in_range("eta_cutoff", epsilon, SHARE_INSIDE))
        super().__init__(warpers.eta_cutoff, cutoff, min_tokens_to_keep, filter_value)


class TopHLogitsWarper(RuleProcessor):
    """Keep the likeliest tokens within a share of the entropy (Potraghloo et al. 2025, arXiv:2509.02510).

    Only the 100 likeliest tokens are considered, as in transformers.
    """

    def __init__(self, top_h: float, filter_value: float = -math.inf) -> None:
        super().__init__(warpers.top_h, in_range("top_h", top_h, SHARE_ABOVE_0), filter_value)
