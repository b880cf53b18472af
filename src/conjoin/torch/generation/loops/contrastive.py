"""Contrastive search: likely tokens whose hidden states are unlike those before (Su et al. 2022, arXiv:2202.06417)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from conjoin.torch.generation.loop import Control, Decoded, Limits
from conjoin.torch.generation.reader import Reader, choose_rows
from conjoin.torch.generation.rows import Rows
from conjoin.torch.generation.select import drawable, top_k


def contrastive_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    limits: Limits,
    control: Control,
    *,
    alpha: float,
    k: int,
    mask: Tensor | None = None,
) -> Decoded:
    """Of the k likeliest tokens, take the best of (1 - alpha) * probability - alpha * highest cosine to earlier states.

    One forward pass reads all k candidates of a source as its rows, so the chosen token is not read again. Finished
    sources leave the batch, unless outputs are collected at each step.

    Args:
        mask: [B, P], for prompts that are padded on the left; states of padding are not compared.
    """
    rows = Rows(prompt, limits)
    hidden = reader.read(prompt, mask)
    states = hidden.new_zeros(len(prompt), limits.max_length, hidden.shape[2])
    states[:, : limits.prompt] = hidden if mask is None else _without_padding(hidden, mask)
    scores = reader.score(hidden[:, -1])
    reader.expand(k)
    while True:
        candidates, likely = _candidates(rows, scores.float(), control, k)
        candidate_states = reader.read(candidates.flatten()[:, None])[:, 0].view(*candidates.shape, -1)
        choice = _choose(likely, candidate_states, states[:, : rows.length], alpha)
        here = candidate_states.gather(1, choice[:, None, None].expand(-1, 1, candidate_states.shape[2])).squeeze(1)
        states[:, rows.length] = here
        tokens = rows.add(candidates.gather(1, choice[:, None]).squeeze(1))
        control.put(tokens)
        rows.end(tokens, control.stopped(rows.ids))
        if rows.at_limit or (control.looks(rows.steps) and rows.all_ended):
            break
        chosen_rows = torch.arange(len(choice), device=prompt.device) * k + choice
        _keep_chosen(reader, chosen_rows, k)
        if control.rows_may_leave and control.looks(rows.steps):
            states, here = _drop_finished(reader, rows, control, states, here)
        scores = reader.score(here)
    reader.records = reader.records[: rows.steps]  # nothing follows the last token
    control.watch.look()
    control.end_stream()
    return Decoded(sequences=rows.result())


def _without_padding(hidden: Float[Tensor, "B P D"], mask: Tensor) -> Float[Tensor, "B P D"]:
    """Replace states of padding by the row's first real state, which does not change the highest cosine."""
    first = mask.bool().int().argmax(1)
    own = torch.arange(hidden.shape[1], device=hidden.device).expand(mask.shape)
    places = torch.where(mask.bool(), own, first[:, None])
    return hidden.gather(1, places[..., None].expand_as(hidden))


def _keep_chosen(reader: Reader, chosen_rows: Int[Tensor, " B"], k: int) -> None:
    """Let all rows of a source continue its chosen candidate."""
    reader.reorder(chosen_rows.repeat_interleave(k))
    if reader.records:
        reader.records[-1] = choose_rows(reader.records[-1], chosen_rows)


def _drop_finished(
    reader: Reader, rows: Rows, control: Control, states: Float[Tensor, "B L D"], here: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b D"]]:
    """Drop finished sources from the batch; return the states of the others."""
    control.watch.look()
    alive = rows.alive()
    if len(alive) == len(here):
        return states, here
    order = torch.tensor(reader.keep(alive), device=here.device)
    rows.select(order)
    control.select(order)
    return states[order], here[order]


def _candidates(
    rows: Rows, logits: Float[Tensor, "B V"], control: Control, k: int
) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
    """Return the k likeliest tokens and their probabilities."""
    edited = control.processed(rows.ids, logits, ~rows.ended)
    control.trace.note(logits, edited)
    values, candidates = top_k(edited, k)
    control.watch.see(drawable(values[:, 0]), rows.length, lambda: rows.ended, rows.sources)
    return candidates, (values - edited.logsumexp(-1, keepdim=True)).exp()


def _choose(
    likely: Float[Tensor, "B k"], candidate_states: Float[Tensor, "B k D"], states: Float[Tensor, "B t D"], alpha: float
) -> Int[Tensor, " B"]:
    """Return the best candidate; one of probability 0 is forbidden, and never the best whatever its state."""
    cosine = torch.matmul(
        F.normalize(candidate_states.float(), dim=-1), F.normalize(states.float(), dim=-1).transpose(1, 2)
    )
    value = (1 - alpha) * likely - alpha * cosine.amax(-1)
    return value.masked_fill(likely == 0, -torch.inf).argmax(-1)
