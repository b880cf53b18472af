"""Inputs of a stack, and the record of states that it fills."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import ShapeError
from conjoin.torch.model.cache import KVCache


@dataclass(slots=True)
class Record:
    """States and weights to collect during a pass; a list that is None is not collected."""

    hidden_states: list[Tensor] | None = None
    attentions: list[Tensor] | None = None
    cross_attentions: list[Tensor] | None = None

    @property
    def is_empty(self) -> bool:
        """True if nothing is collected."""
        return self.hidden_states is self.attentions is self.cross_attentions is None

    @classmethod
    def of(cls, *, hidden_states: bool, attentions: bool) -> "Record":
        """Return an empty record that collects what is requested."""
        return cls([] if hidden_states else None, [] if attentions else None, [] if attentions else None)


@dataclass(slots=True, kw_only=True)
class StackInputs:
    """Inputs of one pass over a stack.

    Args:
        input_ids: [R, T]; either these or inputs_embeds [R, T, C] are set.
        attention_mask: [R, past + T] (or [R, T]: past positions count as real); True or 1 at real tokens.
        position_ids: [R, T], counted from 0 as the user sees them.
        encoder_hidden_states: [B, S, M], R a multiple of B.
        encoder_attention_mask: [B, S].
        wanted: [R, T], True at positions whose states will be used; the others may be zeros.
        segments, source_segments: [R, T] and [B, S], set if rows hold several sequences: each token reads only its own
            segment, here and in the source, and its position is counted from the start of the segment.
        holds_source: Each row holds its source before the target, where self-attention finds it: there are no
            encoder_hidden_states.
        trusted: Skip the checks of cache and weights, because only this caller's passes have changed the cache, and
            nothing has changed the weights since the last pass. `generate` sets it.
    """

    input_ids: Int[Tensor, "R T"] | None = None
    inputs_embeds: Float[Tensor, "R T C"] | None = None
    attention_mask: Tensor | None = None
    position_ids: Int[Tensor, "#R #T"] | None = None
    token_type_ids: Int[Tensor, "R T"] | None = None
    encoder_hidden_states: Float[Tensor, "B S M"] | None = None
    encoder_attention_mask: Tensor | None = None
    wanted: Bool[Tensor, "R T"] | None = None
    segments: Int[Tensor, "R T"] | None = None
    source_segments: Int[Tensor, "B S"] | None = None
    cache: KVCache | None = None
    holds_source: bool = False
    trusted: bool = False
    record: Record = field(default_factory=Record)

    @property
    def tokens(self) -> Tensor:
        """The ids or, if they are given, the embeddings."""
        tokens = self.input_ids if self.inputs_embeds is None else self.inputs_embeds
        assert tokens is not None
        return tokens

    @property
    def source_tokens(self) -> Bool[Tensor, "B S"] | None:
        """True at the source's real tokens; None without a source."""
        source, mask = self.encoder_hidden_states, self.encoder_attention_mask
        if source is None or mask is not None:
            return None if source is None or mask is None else mask.bool()
        return torch.ones(source.shape[:2], dtype=torch.bool, device=source.device)

    @property
    def every_token(self) -> Bool[Tensor, "R T"]:
        """True at every token."""
        return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)


def check_not_empty(name: str, shape: Sequence[int]) -> None:
    """Refuse a batch without rows or without positions.

    Raises:
        ShapeError: there are no rows or no positions.
    """
    if shape[0] == 0 or shape[1] == 0:
        raise ShapeError(f"{name} has shape {tuple(shape)}; expected at least one row and one position.")
