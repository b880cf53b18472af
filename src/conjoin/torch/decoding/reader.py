"""The decoder reading a batch of sources step by step: cache, masks, and which sources are still alive."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cache import KVCache, keep_order
from conjoin.torch.halves import Decoder
from conjoin.torch.stack import Record, StackInputs


@dataclass(frozen=True, slots=True)
class Sources:
    """What the encoder made of the inputs.

    Args:
        states: [B, S, M], at the width that cross-attention reads.
        mask: [B, S], True at real tokens, or None.
        ids: [B, S] source ids, where the user gave ids; processors that look at the source read them.
    """

    states: Float[Tensor, "B S M"]
    mask: Tensor | None
    ids: Int[Tensor, "B S"] | None

    def __len__(self) -> int:
        return self.states.shape[0]

    def pick(self, index: int) -> "Sources":
        """One source, its padding cut off."""
        return Sources(*(None if t is None else t[index : index + 1] for t in (self.states, self.mask, self.ids)))  # pyright: ignore


class Reader:
    """Runs the decoder over new positions of every live row.

    Rows n*N .. n*N + N - 1 read source n. Cross-attention keys and values are computed at the first call, once per
    source, whatever N is.

    Args:
        room: Target positions to reserve.
        wants_attentions, wants_hidden_states: Collect them into `records`, one per call.
    """

    def __init__(
        self,
        decoder: Decoder,
        sources: Sources,
        *,
        room: int,
        wants_attentions: bool = False,
        wants_hidden_states: bool = False,
    ) -> None:
        self.decoder = decoder
        self.sources: Sources | None = sources
        self.source_mask = sources.mask
        self.cache = KVCache(room=room)
        self.rows_per_source = 1
        self.records: list[Record] = []
        self._wants = {"attentions": wants_attentions, "hidden_states": wants_hidden_states}

    def read(self, ids: Int[Tensor, "R T"], mask: Tensor | None = None) -> Float[Tensor, "R T D"]:
        """Hidden states of new positions, which are then in the cache."""
        record = Record.of(**self._wants)
        hidden = self.decoder.run(
            StackInputs(
                input_ids=ids,
                attention_mask=mask,
                encoder_hidden_states=self.sources.states if self.sources is not None else None,
                encoder_attention_mask=self.source_mask,
                cache=self.cache,
                record=record,
            )
        )
        self.sources = None  # from here on the cache holds what is read of them
        if any(self._wants.values()):
            self.records.append(record)
        return hidden

    def scores(self, ids: Int[Tensor, "R T"], mask: Tensor | None = None) -> Float[Tensor, "R V"]:
        """Scores of the word after the last new position."""
        return self.decoder.score(self.read(ids, mask)[:, -1])

    def all_scores(self, ids: Int[Tensor, "R T"]) -> Float[Tensor, "R T V"]:
        """Scores of the word after every new position."""
        return self.decoder.score(self.read(ids))

    def expand(self, copies: int) -> None:
        """Let `copies` rows read each source from here on."""
        if copies > 1:
            self.cache.expand(copies)
            self.rows_per_source *= copies

    def reorder(self, parents: Int[Tensor, " R"]) -> None:
        """Let row r continue row parents[r], of the same source."""
        self.cache.reorder(parents)

    def keep(self, sources: list[int]) -> list[int]:
        """Drop all other sources; returns the order in which the kept ones now stand."""
        order = keep_order(sources)
        self.cache.keep(order, self.rows_per_source)
        if self.source_mask is not None:
            self.source_mask = self.source_mask[order]
        return order


def block_rows(order: list[int], size: int, device: torch.device) -> Int[Tensor, " R"]:
    """Row indices of whole sources, `size` rows each."""
    starts = torch.tensor(order, device=device)[:, None] * size
    return (starts + torch.arange(size, device=device)).flatten()
