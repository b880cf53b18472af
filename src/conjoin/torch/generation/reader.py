"""The decoder reading a batch of sources step by step: cache, masks, and which sources are still alive."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu.clock import timed
from conjoin.torch.cpu.native import Steps, Want, read_sources
from conjoin.torch.cpu.serial import rows_where
from conjoin.torch.generation.model import Decoder
from conjoin.torch.generation.timing import timed_read
from conjoin.torch.model.cache import KVCache, keep_order
from conjoin.torch.model.route import kernels_of
from conjoin.torch.model.stack_inputs import Record, StackInputs


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

    def packed(self) -> tuple[Float[Tensor, "tokens M"], Int[Tensor, " B"]]:
        """The states of real tokens, one source behind the other, and their number in each source."""
        if self.mask is None:
            return self.states.flatten(0, 1), torch.full((len(self),), self.states.shape[1])
        return rows_where(self.states, self.mask), self.mask.sum(1)

    def pick(self, index: int) -> "Sources":
        """One source without its padding; where the rest stands does not matter, cross-attention knows no positions."""
        row = slice(index, index + 1)
        real = None if self.mask is None else self.mask[index]
        if real is None or not bool(real.any()):
            return Sources(*(None if t is None else t[row] for t in (self.states, self.mask, self.ids)))  # pyright: ignore
        return Sources(self.states[row, real], None, None if self.ids is None else self.ids[row, real])


class Reader:
    """Runs the decoder over new positions of every live row.

    Rows n*N .. n*N + N - 1 read source n. Cross-attention keys and values are computed at the first call, once per
    source, whatever N is.

    Args:
        room: Target positions to reserve.
        quantized: Keep keys and values in 8 bits.
        cache: Goes on from the positions that it holds; the first call gives their ids once more.
        wants_attentions, wants_hidden_states: Collect them into `records`, one per call.
        returned: True if the caller gets the cache, which must then have the layout of the sources.
        reads_later: The caller lets the kernels compute the sources' keys and values, for several readers at once.

    Attributes:
        steps: The kernels that compute all passes; None if PyTorch's operators compute the first one.
    """

    def __init__(
        self,
        decoder: Decoder,
        sources: Sources,
        *,
        room: int,
        quantized: bool = False,
        cache: KVCache | None = None,
        wants_attentions: bool = False,
        wants_hidden_states: bool = False,
        returned: bool = False,
        reads_later: bool = False,
    ) -> None:
        self.decoder = decoder
        self.steps: Steps | None = None
        self._reads_later = reads_later
        self._may_begin = cache is None and not (returned or wants_attentions or wants_hidden_states)
        self.sources: Sources | None = sources
        self.source_mask = sources.mask
        self.cache = KVCache(room=room, quantized=quantized) if cache is None else cache
        self.rows_per_source = 1
        self.records: list[Record] = []
        self._wants = {"attentions": wants_attentions, "hidden_states": wants_hidden_states}

    @timed_read
    def read(self, ids: Int[Tensor, "R T"], mask: Tensor | None = None, want: Want = "hidden") -> Tensor:
        """Read new positions, which are then in the cache.

        Args:
            want: "hidden" returns their hidden states [R, t, D], "logits" the scores of the word after the last one
                [R, V], "all logits" those after each [R, t, V].
        """
        self._begin(ids, mask)
        if self.steps is not None:
            places = self.decoder.places(ids, self.cache, self.steps.longest_source)
            result = self.steps.run(self.cache, ids=ids, places=places, want=want)
            self.cache.advance(ids.shape[1])
            return result.to(self.decoder.embed.words.weight.dtype) if want == "hidden" else result
        ids = ids if self.sources is None else ids[:, self.cache.length :]
        record = Record.of(**self._wants)
        hidden = self.decoder.run(
            StackInputs(
                input_ids=ids,
                attention_mask=mask,
                encoder_hidden_states=self.sources.states if self.sources is not None else None,
                encoder_attention_mask=self.source_mask,
                cache=self.cache,
                trusted=self.sources is None,
                record=record,
            )
        )
        self.sources = None  # from here on the cache holds what is read of them
        if any(self._wants.values()):
            self.records.append(record)
        if want == "hidden":
            return hidden
        return self.score(hidden[:, -1] if want == "logits" else hidden)

    @timed("head")
    def score(self, hidden: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead V"]:
        """Scores of the word after hidden states."""
        return self.decoder.score(hidden)

    def scores(self, ids: Int[Tensor, "R T"], mask: Tensor | None = None) -> Float[Tensor, "R V"]:
        """Scores of the word after the last new position."""
        return self.read(ids, mask, "logits")

    def first_scores(
        self, prompt: Int[Tensor, "B P"], mask: Tensor | None, copies: int, *, together: bool
    ) -> Float[Tensor, "R V"]:
        """Read the prompt of each source for `copies` rows; scores of the word after it, equal for these rows.

        Args:
            together: Read it once per source; else by every row, so that what is collected has all rows.
        """
        if together:
            scores = self.scores(prompt, mask)
            self.expand(copies)
            return scores.repeat_interleave(copies, 0)
        self.expand(copies)
        mask = None if mask is None else mask.repeat_interleave(copies, 0)
        return self.scores(prompt.repeat_interleave(copies, 0), mask)

    def all_scores(self, ids: Int[Tensor, "R T"], mask: Tensor | None = None) -> Float[Tensor, "R T V"]:
        """Scores of the word after every new position."""
        return self.read(ids, mask, "all logits")

    def begin_search(self, prompt: Int[Tensor, "B P"], rows: int, limit: int) -> Steps | None:
        """Prepare the cache for a native search; None if the kernels cannot run it, and nothing has changed.

        Args:
            rows: Hypotheses per source.
            limit: Tokens of a hypothesis at most; the last one is not read.
        """
        kind, taken = self.decoder.spec, 0
        if kind.continues_source and self.sources is not None:
            taken = int(self.sources.packed()[1].max())
        if kind.max_positions is not None and limit - 1 + taken > kind.max_positions:
            return None
        self._begin(prompt, None, rows)
        if self.steps is not None:
            self.steps.reach(limit)
        return self.steps

    def _begin(self, ids: Int[Tensor, "R T"], mask: Tensor | None, rows_per_source: int = 1) -> None:
        """Before the first pass, let the kernels compute what is read of the sources, if they can run every pass."""
        if self.sources is None or not self._may_begin:
            return
        self._may_begin = False
        decoder, sources = self.decoder, self.sources
        stack = None if mask is not None else kernels_of(decoder, ids, sources.states)
        if stack is None or not (stack.embeds and stack.scores):
            return
        decoder.embed.check_ids(ids)
        steps = Steps(stack)
        steps.begin(self.cache, len(ids) * rows_per_source, *sources.packed())
        if not self._reads_later:
            read_sources([steps])
        self.steps, self.sources, self.source_mask = steps, None, None

    @property
    def source_keys(self) -> int:
        """Number of tokens of all sources that are read."""
        if self.steps is not None:
            return self.steps.source_keys
        if self.source_mask is not None:
            return int(self.source_mask.sum())
        keys = self.cache.cross[0][0] if self.cache.cross else None
        return 0 if keys is None else keys.shape[0] * keys.shape[2]

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
        if self.steps is not None:
            self.steps.keep(order)
        if self.source_mask is not None:
            self.source_mask = self.source_mask[order]
        return order


def split_record(record: Record, first: int, words: int, past: int) -> list[Record]:
    """One record per word, as if each had been read in a pass of its own.

    Args:
        record: Of a pass over one row: `first` positions before the first word, then one per guess.
        words: How many of the words behind these positions were taken.
        past: Positions that were in the cache before.
    """
    ends = [first + word for word in range(words)]
    spans = [slice(0 if word == 0 else end - 1, end) for word, end in enumerate(ends)]
    return [
        Record(
            hidden_states=_each(record.hidden_states, lambda t, s=span: t[:, s]),
            attentions=_each(record.attentions, lambda t, s=span, e=past + end: t[:, :, s, :e]),
            cross_attentions=_each(record.cross_attentions, lambda t, s=span: t[:, :, s]),
        )
        for span, end in zip(spans, ends, strict=True)
    ]


def choose_rows(record: Record, rows: Int[Tensor, " r"]) -> Record:
    """The record of these rows."""
    hidden, attentions, cross = record.hidden_states, record.attentions, record.cross_attentions
    return Record(*(_each(tensors, lambda t: t[rows]) for tensors in (hidden, attentions, cross)))


def _each(tensors: list[Tensor] | None, change: Callable[[Tensor], Tensor]) -> list[Tensor] | None:
    return None if tensors is None else [change(tensor) for tensor in tensors]


def block_rows(order: list[int], size: int, device: torch.device) -> Int[Tensor, " R"]:
    """Row indices of whole sources, `size` rows each."""
    starts = torch.tensor(order, device=device)[:, None] * size
    return (starts + torch.arange(size, device=device)).flatten()
