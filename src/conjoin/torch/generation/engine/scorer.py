"""Probabilities and cross-attention of a result's tokens, read again by a pass of their own."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin import spec
from conjoin.errors import GenerationError
from conjoin.torch.generation.reader import Reader, Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is wanted of every token besides its id.

    Args:
        top: Number of likeliest tokens at each place.
        attention: True for cross-attention weights over the source.
        layer, head: Of the attention; None takes the mean over all.
    """

    top: int = 0
    attention: bool = False
    layer: int | None = None
    head: int | None = None

    def check(self, decoder: spec.StackSpec) -> None:
        """Check that the decoder has what is wanted.

        Raises:
            GenerationError: it has no such layer or head.
        """
        layers = decoder.source_attention
        heads = layers[0].num_heads if layers else 0
        for name, value, count in (("layer", self.layer, len(layers)), ("head", self.head, heads)):
            if value is not None and not 0 <= value < count:
                raise GenerationError(f"attention.{name} = {value}; expected 0 to {count - 1}.")
        if self.top < 0:
            raise GenerationError(f"{self.top} likeliest tokens; expected 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScore:
    """A token of a result.

    Args:
        logprob: Its log-probability (natural logarithm) by the model itself: no processor, temperature or warper.
        top: The likeliest ids at its place and their log-probabilities, best first.
        attention: Share of the cross-attention that each source token gets when this token is chosen. The sum is
            below 1 where one softmax reads source and target.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    attention: tuple[float, ...] | None = None


class Scorer:
    """Reads one result token by token, with a cache of its own, so that a result may be scored while it grows.

    Args:
        decoder: Of the model.
        sources: One encoded source.
        prompt: [1, P].
        room: Tokens of the longest result, the prompt included.

    Attributes:
        scores: Of the tokens read so far.
    """

    def __init__(self, decoder: Any, sources: Sources, prompt: Int[Tensor, "1 P"], room: int, details: Details) -> None:
        self._details = details
        self._reader = Reader(decoder, sources, room=room, wants_attentions=details.attention)
        self._unread = prompt
        self.scores: list[TokenScore] = []

    def read(self, tokens: list[int]) -> list[TokenScore]:
        """Return the scores of the next tokens."""
        if not tokens:
            return []
        new = torch.tensor([tokens], dtype=torch.long)
        ids = torch.cat((self._unread, new[:, :-1]), 1)
        logits = self._reader.all_scores(ids)
        logprobs = logits[0, -len(tokens) :].float().log_softmax(-1)
        self._unread = new[:, -1:]
        weights = self._attention(len(tokens))
        chosen = logprobs.gather(1, new[0, :, None])[:, 0].tolist()
        values, best = logprobs.topk(min(self._details.top, logprobs.shape[1]), -1)
        tops = [tuple(zip(ids, each, strict=True)) for ids, each in zip(best.tolist(), values.tolist(), strict=True)]
        scores = [
            TokenScore(id=token, logprob=logprob, top=top, attention=None if weights is None else tuple(weights[place]))
            for place, (token, logprob, top) in enumerate(zip(tokens, chosen, tops, strict=True))
        ]
        self.scores += scores
        return scores

    def _attention(self, count: int) -> list[list[float]] | None:
        """Return the weights of the last `count` positions of the last pass: [count][source tokens]."""
        if not self._details.attention:
            return None
        layers: list[Tensor] = self._reader.records.pop().cross_attentions or []
        if not layers:
            return None
        chosen = layers if self._details.layer is None else [layers[self._details.layer]]
        weights: Float[Tensor, "H T S"] = torch.stack([layer[0] for layer in chosen]).float().mean(0)
        mean = weights.mean(0) if self._details.head is None else weights[self._details.head]
        return mean[-count:].tolist()
