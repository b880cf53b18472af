"""Processors that look at which tokens and runs of tokens the row or its source holds."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.generation.processors.calling import RowwiseProcessor, SourceProcessor, TokenIds, as_tuple

Biases = Mapping[tuple[int, ...], float] | Iterable[Sequence[Sequence[int] | float]]


class RepetitionPenaltyLogitsProcessor(SourceProcessor):
    """Lower the scores of tokens that the row holds already (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        penalty: Positive scores are divided by it, negative ones multiplied.
        prompt_ignore_length: Leading tokens that do not count, for all rows or [B] per source (left padding).
    """

    def __init__(
        self,
        penalty: float,
        prompt_ignore_length: int | Int[Tensor, " B"] | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        self.penalty = _positive("penalty", penalty)
        self.ignored = prompt_ignore_length
        super().__init__(len(prompt_ignore_length) if isinstance(prompt_ignore_length, Tensor) else 1, rows_per_source)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order."""
        if isinstance(self.ignored, Tensor):
            super().select(rows)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if not isinstance(self.ignored, Tensor):
            return _penalised(scores, input_ids[:, self.ignored or 0 :], self.penalty)
        source = self.source_of_row.of(len(scores), scores.device)
        first = self.ignored.to(scores.device)[source]
        counted = torch.arange(input_ids.shape[1], device=scores.device) >= first[:, None]
        tokens, penalty = _counted_only(input_ids, counted, self.penalty)
        return _penalised(scores, tokens, penalty)


class EncoderRepetitionPenaltyLogitsProcessor(SourceProcessor):
    """Raise the scores of tokens that the source holds.

    Args:
        penalty: Positive scores are multiplied by it, negative ones divided.
        encoder_input_ids: In the decoder's vocabulary; ids outside it are left out.
        encoder_attention_mask: Where the source is not padding; all of it if missing, as in transformers.
    """

    def __init__(
        self,
        penalty: float,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        self.penalty = 1 / _positive("penalty", penalty)
        self.ids = encoder_input_ids
        self.mask = encoder_attention_mask
        super().__init__(len(encoder_input_ids), rows_per_source)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        counted = _counted(self.ids, self.mask, scores.shape[1])
        tokens, penalty = _counted_only(self.ids, counted, self.penalty)
        source = self.source_of_row.of(len(scores), scores.device)
        return _penalised(scores, tokens.to(scores.device)[source], penalty.to(scores.device)[source])


class NoRepeatNGramLogitsProcessor(RowwiseProcessor):
    """Let no run of `ngram_size` tokens occur twice in a row."""

    def __init__(self, ngram_size: int) -> None:
        self.size = int(_positive("ngram_size", ngram_size))

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if input_ids.shape[1] < self.size:
            return scores
        return _forbid_followers(scores, input_ids, input_ids, self.size)


class EncoderNoRepeatNGramLogitsProcessor(SourceProcessor):
    """Let no run of `encoder_ngram_size` tokens of the source occur in the row.

    Args:
        encoder_input_ids: In the decoder's vocabulary; runs with ids outside it cannot occur anyway.
        encoder_attention_mask: Where the source is not padding; all of it if missing, as in transformers.
    """

    def __init__(
        self,
        encoder_ngram_size: int,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        self.size = int(_positive("encoder_ngram_size", encoder_ngram_size))
        self.ids = encoder_input_ids
        self.mask = encoder_attention_mask
        super().__init__(len(encoder_input_ids), rows_per_source)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if input_ids.shape[1] < self.size - 1 or self.ids.shape[1] < self.size:
            return scores
        source = self.source_of_row.of(len(scores), scores.device)
        counted = _counted(self.ids, self.mask, scores.shape[1]).to(scores.device)
        # A pad breaks every run that it stands in: -1 equals no token.
        held = self.ids.to(scores.device).masked_fill(~counted, -1)
        return _forbid_followers(scores, held[source], input_ids, self.size)


class SequenceBiasLogitsProcessor(RowwiseProcessor):
    """Add a bias to the token that would complete a run of tokens.

    Args:
        sequence_bias: {(id, ...): bias}, or the same as [[[id, ...], bias], ...].

    Raises:
        GenerationError: on the first call, an id is outside the vocabulary.
    """

    def __init__(self, sequence_bias: Biases) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        self.biases = {tuple(ids): float(bias) for ids, bias in pairs}  # pyright: ignore[reportArgumentType]
        if not self.biases or not all(ids and min(ids) >= 0 for ids in self.biases):
            raise GenerationError(
                f"sequence_bias = {sequence_bias!r}: expected {{(id, ...): bias}}, not empty, ids of at least 0."
            )
        self._tables: _BiasTables | None = None

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if self._tables is None or not self._tables.fit(scores):
            self._tables = _BiasTables(self.biases, scores)
        return self._tables.add(input_ids, scores)


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Forbid runs of tokens.

    Args:
        eos_token_id: A "word" that is such an id alone is left alone.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: TokenIds | None = None) -> None:
        ends = {(i,) for i in as_tuple(eos_token_id)} if eos_token_id is not None else set()
        super().__init__({tuple(word): -torch.inf for word in bad_words_ids if tuple(word) not in ends})


class HammingDiversityLogitsProcessor(RowwiseProcessor):
    """Lower the tokens that earlier groups of beams chose at this step (Vijayakumar et al. 2016, arXiv:1610.02424)."""

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        self.penalty = _positive("diversity_penalty", diversity_penalty)
        self.num_beams = num_beams
        self.group_size = num_beams // num_beam_groups

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # LogitsProcessorList looks which it names
        self,
        input_ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        current_tokens: Int[Tensor, " n"],
        beam_group_idx: int,
    ) -> Float[Tensor, "R V"]:
        """Edit the scores of one group, R = sources * group size.

        Args:
            current_tokens: Of all beams of all sources; those of earlier groups are this step's choices, below 0
                where a beam chose nothing, since its group is done.
        """
        earlier = current_tokens.view(-1, self.num_beams)[:, : beam_group_idx * self.group_size]
        taken = earlier.repeat_interleave(self.group_size, 0)
        penalties = torch.where(taken < 0, 0.0, -self.penalty).to(scores.dtype)
        return scores.scatter_add(1, taken.clamp(min=0), penalties)


class _BiasTables:
    """Biases as arrays on one device."""

    def __init__(self, biases: Mapping[tuple[int, ...], float], scores: Float[Tensor, "R V"]) -> None:
        size, device, dtype = scores.shape[1], scores.device, scores.dtype
        outside = sorted({i for ids in biases for i in ids if i >= size})
        if outside:
            raise GenerationError(f"Biased or forbidden ids {outside} are outside the vocabulary of {size}.")
        single = {ids[0]: bias for ids, bias in biases.items() if len(ids) == 1}
        self.alone = torch.zeros(size, device=device, dtype=dtype)
        if single:
            self.alone[list(single)] = torch.tensor(list(single.values()), device=device, dtype=dtype)
        runs = [(ids, bias) for ids, bias in biases.items() if len(ids) > 1]
        ends = sorted({ids[-1] for ids, _ in runs})
        self.ends = torch.tensor(ends, dtype=torch.long, device=device)
        self.by_length = [
            (
                torch.tensor([ids[:-1] for ids, _ in group], device=device),
                torch.tensor([ends.index(ids[-1]) for ids, _ in group], device=device),
                torch.tensor([bias for _, bias in group], device=device, dtype=dtype),
            )
            for length in sorted({len(ids) for ids, _ in runs})
            if (group := [run for run in runs if len(run[0]) == length])
        ]

    def fit(self, scores: Float[Tensor, "R V"]) -> bool:
        """Whether these tables are for such scores."""
        return (len(self.alone), self.alone.device, self.alone.dtype) == (scores.shape[1], scores.device, scores.dtype)

    def add(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Scores plus every bias whose run the row is about to complete."""
        biased = scores + self.alone
        if not self.by_length:
            return biased
        added = self.alone[self.ends].expand(len(scores), -1).clone()
        for prefixes, ends, biases in self.by_length:
            length = prefixes.shape[1]
            if length <= input_ids.shape[1]:
                begun = (input_ids[:, None, -length:] == prefixes).all(-1)
                added.index_add_(1, ends, torch.where(begun, biases, 0.0))
        return biased.index_copy_(1, self.ends, scores[:, self.ends] + added)


def _penalised(
    scores: Float[Tensor, "R V"], tokens: Int[Tensor, "R n"], penalty: float | Float[Tensor, "R 1"]
) -> Float[Tensor, "R V"]:
    found = scores.gather(1, tokens)
    return scores.scatter(1, tokens, torch.where(found < 0, found * penalty, found / penalty).to(scores.dtype))


def _counted(ids: Int[Tensor, "B S"], mask: Tensor | None, vocab_size: int) -> Bool[Tensor, "B S"]:
    inside = (ids >= 0) & (ids < vocab_size)
    return inside if mask is None else inside & mask.bool()


def _counted_only(
    ids: Int[Tensor, "R n"], counted: Bool[Tensor, "R n"], penalty: float
) -> tuple[Int[Tensor, "R n"], Float[Tensor, "R 1"]]:
    """Put a counted token of the same row in the place of each that does not count.

    A token written twice gets the same score twice, so no vocabulary-sized mask is needed. A row without any
    counted token gets the penalty 1, which changes nothing.
    """
    some = counted.any(1, keepdim=True)
    stand_in = torch.where(some, ids.gather(1, counted.long().argmax(1, keepdim=True)), 0)
    return torch.where(counted, ids, stand_in), torch.where(some, penalty, 1.0)


def _forbid_followers(
    scores: Float[Tensor, "R V"], held: Int[Tensor, "R n"], input_ids: Int[Tensor, "R t"], size: int
) -> Float[Tensor, "R V"]:
    """-inf at every token that follows, somewhere in `held`, the last size - 1 tokens of the row."""
    windows, length = held.shape[1] - size + 1, input_ids.shape[1]
    matches = held[:, size - 1 :] >= 0
    for offset in range(size - 1):
        wanted = input_ids[:, length - size + 1 + offset, None]
        matches = matches & (held[:, offset : offset + windows] == wanted)
    # amin leaves a score alone where +inf meets it, so that one token may be both matched and not.
    limit = torch.where(matches, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce(1, held[:, size - 1 :].clamp(min=0), limit, "amin")


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise GenerationError(f"{name} = {value!r}: expected a number above 0.")
    return value
