"""Greedy decoding and sampling: one hypothesis per row."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.decoding.loop import Control, Decoded, Limits
from conjoin.torch.decoding.reader import Reader, block_rows
from conjoin.torch.decoding.select import is_any_of


def pick_best(scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
    """The likeliest word of every row."""
    return scores.argmax(-1)


def pick_randomly(scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
    """A word of every row, drawn from the softmax of its scores.

    Raises:
        GenerationError: a row's scores are all -inf or hold NaN: the settings leave no word to draw.
    """
    probabilities = scores.softmax(-1)
    if scores.device.type == "cpu" and bool(probabilities.isnan().any()):
        raise GenerationError(
            "There is no word to draw: the processors left none, or the scores are not numbers.",
            hint="loosen bad_words_ids, suppress_tokens or prefix_allowed_tokens_fn; check the model for NaN.",
        )
    return torch.multinomial(probabilities, 1).squeeze(1)


def sample(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    limits: Limits,
    control: Control,
    *,
    randomly: bool,
    copies: int = 1,
    mask: Tensor | None = None,
) -> Decoded:
    """Extend every row word by word until an end id, a stop or the length.

    Rows of sources that are finished leave the batch, unless something is traced per step.

    Args:
        copies: Hypotheses per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    rows = _Rows(prompt.repeat_interleave(copies, 0), limits, copies)
    pick = pick_randomly if randomly else pick_best
    if control.trace.wanted:
        reader.expand(copies)
        expanded = None if mask is None else mask.repeat_interleave(copies, 0)
        scores = reader.scores(rows.ids, expanded)
    else:
        scores = reader.scores(prompt, mask)
        reader.expand(copies)
        scores = scores.repeat_interleave(copies, 0) if copies > 1 else scores
    while True:
        logits = scores.float()
        edited = control.processed(rows.ids, logits)
        control.trace.note(logits, edited)
        tokens = rows.add(pick(edited))
        if control.streamer is not None:
            control.streamer.put(tokens.cpu())
        rows.end(tokens, control.stopped(rows.ids))
        if rows.at_limit or ((rows.length - limits.prompt) % control.patience == 0 and rows.all_ended):
            break
        if control.rows_may_leave:
            tokens = _drop_finished(reader, rows, control, tokens)
        scores = reader.scores(tokens[:, None])
    if control.streamer is not None:
        control.streamer.end()
    return Decoded(sequences=rows.result())


def _drop_finished(reader: Reader, rows: "_Rows", control: Control, tokens: Tensor) -> Tensor:
    """Take sources whose rows have all ended out of the batch; not at every step where looking means waiting."""
    if (rows.length - rows.limits.prompt) % control.patience:
        return tokens
    alive = (~rows.ended.view(-1, rows.copies).all(1)).nonzero().squeeze(1).tolist()
    if len(alive) * rows.copies == len(tokens):
        return tokens
    order = block_rows(reader.keep(alive), rows.copies, tokens.device)
    rows.select(order)
    control.select(order)
    return tokens[order]


class _Rows:
    """Tokens of all rows, and which of them still go on."""

    def __init__(self, prompt: Int[Tensor, "R P"], limits: Limits, copies: int) -> None:
        self.limits = limits
        self.copies = copies
        self.length = limits.prompt
        self.tokens = torch.full((len(prompt), limits.max_length), limits.pad, dtype=torch.long, device=prompt.device)
        self.tokens[:, : limits.prompt] = prompt
        self.where: Tensor | None = None
        self.ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        self.some_ended = False

    @property
    def ids(self) -> Int[Tensor, "R t"]:
        """Ids so far of the rows that are still in the batch."""
        filled = self.tokens[:, : self.length]
        return filled if self.where is None else filled[self.where]

    @property
    def at_limit(self) -> bool:
        return self.length >= self.limits.max_length

    @property
    def all_ended(self) -> bool:
        return bool(self.ended.all())

    def add(self, tokens: Tensor) -> Tensor:
        """Write the next token of every live row; ended rows get pads."""
        tokens = torch.where(self.ended, self.limits.pad, tokens)
        if self.where is None:
            self.tokens[:, self.length] = tokens
        else:
            self.tokens[self.where, self.length] = tokens
        self.length += 1
        return tokens

    def end(self, tokens: Tensor, stopped: Tensor | None) -> None:
        self.ended = self.ended | is_any_of(tokens, self.limits.eos)
        if stopped is not None:
            self.ended = self.ended | stopped

    def select(self, rows: Tensor) -> None:
        self.where = rows if self.where is None else self.where[rows]
        self.ended = self.ended[rows]

    def result(self) -> Tensor:
        """Everything written; steps that only added pads, because a GPU was not asked, are cut off."""
        if self.limits.eos == () or self.tokens.device.type == "cpu":
            return self.tokens[:, : self.length]
        generated = self.tokens[:, self.limits.prompt : self.length]
        ends = is_any_of(generated, self.limits.eos)
        first = torch.where(ends.any(1), ends.int().argmax(1) + 1, generated.shape[1])
        return self.tokens[:, : self.limits.prompt + int(first.max())]
