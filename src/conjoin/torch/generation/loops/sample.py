"""Greedy decoding and sampling: one hypothesis per row."""

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN
from conjoin.torch.generation.loop import Control, Decoded, Limits
from conjoin.torch.generation.reader import Reader, block_rows
from conjoin.torch.generation.rows import Rows
from conjoin.torch.generation.select import Generators, best, draw, drawable
from conjoin.torch.generation.watch import Watch


def pick_randomly(
    scores: Float[Tensor, "R V"], rows: Rows, watch: Watch, generator: Generators = None
) -> Int[Tensor, " R"]:
    """Draw a token for every row from the softmax of its scores; rows that have ended get any token.

    Args:
        generator: PyTorch's own by default; a list has one per source.

    Raises:
        GenerationError: a row's scores hold NaN or infinity, or all its tokens are forbidden.
    """
    top = drawable(scores.amax(-1))
    watch.see(top, rows.length, lambda: rows.ended, rows.sources)
    probabilities = scores.softmax(-1)
    if scores.device.type != "cpu" or not bool(top.min() > FORBIDDEN):
        probabilities = probabilities.masked_fill(~(top > FORBIDDEN)[:, None], 1.0)
    return draw(probabilities, 1, rows.places, rows.count, generator).squeeze(1)


def pick_best(scores: Float[Tensor, "R V"], rows: Rows, watch: Watch) -> Int[Tensor, " R"]:
    """Return the likeliest token of every row.

    Raises:
        GenerationError: a row's scores hold NaN, or all its tokens are forbidden.
    """
    tokens = best(scores)
    watch.see(scores.gather(1, tokens[:, None]).squeeze(1), rows.length, lambda: rows.ended, rows.sources)
    return tokens


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
    """Extend every row token by token until an end id, a stopping criterion or the maximum length.

    Rows of finished sources leave the batch, unless outputs are collected at each step.

    Args:
        copies: Number of hypotheses per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    rows = Rows(prompt.repeat_interleave(copies, 0), limits, copies)
    scores = reader.first_scores(prompt, mask, copies, together=control.rows_may_leave)
    while True:
        logits = scores.float()
        edited = control.processed(rows.ids, logits, ~rows.ended)
        control.trace.note(logits, edited)
        tokens = (
            pick_randomly(edited, rows, control.watch, control.generators)
            if randomly
            else pick_best(edited, rows, control.watch)
        )
        tokens = rows.add(tokens)
        control.put(tokens)
        rows.end(tokens, control.stopped(rows.ids))
        if rows.at_limit or (control.looks(rows.steps) and rows.all_ended):
            break
        if control.rows_may_leave and control.looks(rows.steps):
            tokens = _drop_finished(reader, rows, control, tokens)
        scores = reader.scores(tokens[:, None])
    control.watch.look()
    control.end_stream()
    return Decoded(sequences=rows.result())


def _drop_finished(reader: Reader, rows: Rows, control: Control, tokens: Int[Tensor, " R"]) -> Int[Tensor, " r"]:
    """Drop sources whose rows have all ended from the batch; return the tokens of the others."""
    control.watch.look()
    alive = rows.alive()
    if len(alive) * rows.copies == len(tokens):
        return tokens
    order = block_rows(reader.keep(alive), rows.copies, tokens.device)
    rows.select(order)
    control.select(order)
    return tokens[order]
