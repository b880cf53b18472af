"""Drafts of the next tokens, from a smaller model or copied from the source and the target so far."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.generation.model import Seq2SeqModel
from conjoin.torch.generation.reader import Reader, Sources

_DECAY = 0.9
"""Decay of the statistics of earlier drafts with each new one."""
_TOKEN_COST = 0.05
"""Time that a drafted token adds to a pass, relative to one of one token: 5 to 7 % on two cores, less on a GPU."""


@runtime_checkable
class Drafter(Protocol):
    """Proposes continuations, and is told how many of their tokens were accepted."""

    def propose(self, ids: list[int], most: int) -> tuple[list[int], Float[Tensor, "k V"] | None]:
        """Return up to `most` tokens that may follow `ids`, and the scores they were drawn from if they were drawn."""
        ...

    def hear(self, proposed: int, accepted: int) -> None:
        """Adapt to the outcome of the last proposal."""
        ...


class CopyDrafter:
    """Copies what followed the same tokens in the source, or earlier in the target (Ge et al. 2022, arXiv:2205.10350).

    The length of drafts adapts to the share of tokens accepted so far. After drafts of which nothing was accepted, some
    steps pass without a draft.

    Args:
        source: Source ids in the target's vocabulary.
        longest: Length of the longest suffix to look up.
        most: Length of the longest draft.
    """

    def __init__(self, source: list[int], *, longest: int = 3, most: int = 16) -> None:
        self.source = source
        self.longest = longest
        self.most = most
        self.accepted, self.cut = 3.0, 1.0
        self.pause = 0
        self.refused = 0
        self.cursor = 0
        self.copied = self.follows = False

    def propose(self, ids: list[int], most: int) -> tuple[list[int], Float[Tensor, "k V"] | None]:
        if self.pause > 0:
            self.pause -= 1
            return [], None
        share = self.accepted / (self.accepted + self.cut)
        return self._lookup(ids, paying_length(share, min(most, self.most))), None

    def _lookup(self, ids: list[int], count: int) -> list[int]:
        for size in range(min(self.longest, len(ids)), 0, -1):
            suffix = ids[-size:]
            at = self._find(suffix)
            if at is not None and (draft := self._copy(at, count)):
                return draft
            at = _find_last(ids, suffix, len(ids) - size - 1) if size > 1 else None
            if at is not None:
                self.copied, period = False, len(ids) - at
                return [ids[at + i % period] for i in range(count)]  # the repetition goes on
        # The last token is not in the source; it may replace the one that would have been copied.
        return self._copy(self.cursor + 1, count) if self.follows else []

    def _copy(self, at: int, count: int) -> list[int]:
        self.cursor, self.copied = at, True
        return self.source[at : at + count]

    def _find(self, suffix: list[int]) -> int | None:
        """Return where the source continues after this suffix, nearest to the last copy; None if nowhere."""
        size = len(suffix)
        ends = [at + size for at in range(len(self.source) - size) if self.source[at : at + size] == suffix]
        return min(ends, key=lambda at: abs(at - self.cursor)) if ends else None

    def hear(self, proposed: int, accepted: int) -> None:
        if not proposed:
            return
        if self.copied:
            self.cursor += accepted
        self.follows = self.copied and accepted > 0
        self.accepted = _DECAY * self.accepted + accepted
        self.cut = _DECAY * self.cut + (accepted < proposed)
        self.refused = 0 if accepted else self.refused + 1
        if self.refused:
            self.pause = min(2**self.refused, 32)


def paying_length(share: float, most: int) -> int:
    """Return the draft length with the most tokens per time (Leviathan et al. 2023, arXiv:2211.17192, 3.1 and 3.4).

    Args:
        share: Share of drafted tokens that are accepted, below 1.
        most: Maximum length.
    """

    def tokens_per_time(length: int) -> float:
        return (1 - share ** (length + 1)) / (1 - share) / (1 + _TOKEN_COST * length)

    return max(range(1, most + 1), key=tokens_per_time)


def _find_last(ids: list[int], suffix: list[int], last: int) -> int | None:
    size = len(suffix)
    for at in range(last, -1, -1):
        if ids[at : at + size] == suffix:
            return at + size
    return None


class ModelDrafter:
    """Drafts with a smaller joined model of the same vocabularies (Leviathan et al. 2023, arXiv:2211.17192).

    Args:
        reader: The smaller model, reading the same source.
        mask: [1, P], for a prompt that is padded on the left.
        randomly: True draws tokens, False takes the likeliest.
        size: Length of the first draft.
        constant: True keeps that length, False adapts it to the acceptance.
        confidence: A draft ends after a token that is less probable than this; 0 disables this.
        generator: What draws; PyTorch's own by default.
    """

    def __init__(
        self,
        reader: Reader,
        mask: Tensor | None,
        *,
        size: int,
        randomly: bool,
        constant: bool,
        confidence: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.reader = reader
        self.generator = generator
        self.mask = mask
        self.size = size
        self.randomly = randomly
        self.constant = constant
        self.confidence = confidence
        self.limit = reader.decoder.spec.max_positions
        self.device = reader.decoder.embed.words.weight.device
        self.known = 0

    def propose(self, ids: list[int], most: int) -> tuple[list[int], Float[Tensor, "k V"] | None]:
        draft: list[int] = []
        drawn: list[Tensor] = []
        self.reader.cache.crop(min(self.known, len(ids) - 1))
        fresh = ids[self.reader.cache.length :]
        for _ in range(min(most, self.size, self._room(len(ids)))):
            scores = self._read(fresh)
            if not math.isfinite(float(scores.amax())):
                raise GenerationError(
                    "assistant_model's scores are not numbers (NaN or infinity).",
                    hint="check its weights, or leave it out.",
                )
            probabilities = scores.softmax(-1)
            token = int(
                torch.multinomial(probabilities, 1, generator=self.generator) if self.randomly else scores.argmax(-1)
            )
            draft.append(token)
            drawn.append(scores[0])
            fresh = [token]
            if self.confidence and float(probabilities[0, token]) < self.confidence:
                break
        return draft, torch.stack(drawn) if self.randomly and drawn else None

    def _read(self, fresh: list[int]) -> Float[Tensor, "1 V"]:
        mask, self.mask = self.mask, None  # the cache stores it from now on
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(1, len(fresh) - mask.shape[1])), 1)
        return self.reader.scores(torch.tensor([fresh], device=self.device), mask).float()

    def _room(self, length: int) -> int:
        """Return how many tokens fit this model's position table; the last drafted one is never read."""
        return self.size if self.limit is None else max(self.limit - length + 1, 0)

    def hear(self, proposed: int, accepted: int) -> None:
        if not proposed:
            return
        # the last proposed token was never read, and those after a rejected one are void
        self.known = self.reader.cache.length - max(proposed - 1 - accepted, 0)
        if not self.constant:
            self.size = self.size + 2 if accepted == proposed else max(1, self.size - 1)


def check_assistant(model: Seq2SeqModel, assistant: Seq2SeqModel, sources: Sources) -> None:
    """Check that an assistant has the model's vocabularies.

    Raises:
        GenerationError: the vocabularies differ, or there are no source ids for it to read.
    """
    pairs = (("reads", model.encoder, assistant.encoder), ("writes", model.decoder, assistant.decoder))
    wrong = [
        f"assistant_model {verb} {its.spec.vocab_size} tokens, the model {own.spec.vocab_size}; expected the same."
        for verb, own, its in pairs
        if its.spec.vocab_size != own.spec.vocab_size
    ]
    if wrong:
        raise GenerationError("\n".join(wrong))
    if sources.ids is None:
        raise GenerationError("assistant_model reads source ids; give input ids, not encoder_outputs or inputs_embeds.")
