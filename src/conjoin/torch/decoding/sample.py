"""Greedy decoding and sampling: one hypothesis per row."""

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.decoding.loop import Control, Decoded, Limits
from conjoin.torch.decoding.reader import Reader, block_rows
from conjoin.torch.decoding.rows import Rows
from conjoin.torch.decoding.select import best, draw


def pick_randomly(scores: Float[Tensor, "R V"], rows: Rows) -> Int[Tensor, " R"]:
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
    return draw(probabilities, 1, rows.places, rows.count).squeeze(1)


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
    rows = Rows(prompt.repeat_interleave(copies, 0), limits, copies)
    scores = reader.first_scores(prompt, mask, copies, together=control.rows_may_leave)
    while True:
        logits = scores.float()
        edited = control.processed(rows.ids, logits)
        control.trace.note(logits, edited)
        tokens = rows.add(pick_randomly(edited, rows) if randomly else best(edited))
        control.put(tokens)
        rows.end(tokens, control.stopped(rows.ids))
        if rows.at_limit or (control.looks(rows.steps) and rows.all_ended):
            break
        if control.rows_may_leave and control.looks(rows.steps):
            tokens = _drop_finished(reader, rows, control, tokens)
        scores = reader.scores(tokens[:, None])
    control.end_stream()
    return Decoded(sequences=rows.result())


def _drop_finished(reader: Reader, rows: Rows, control: Control, tokens: Int[Tensor, " R"]) -> Int[Tensor, " r"]:
    """Take sources whose rows have all ended out of the batch; returns the others' tokens."""
    alive = rows.alive()
    if len(alive) * rows.copies == len(tokens):
        return tokens
    order = block_rows(reader.keep(alive), rows.copies, tokens.device)
    rows.select(order)
    control.select(order)
    return tokens[order]
