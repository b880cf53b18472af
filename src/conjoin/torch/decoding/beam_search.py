"""Beam search and beam sampling, and the diverse kind with groups."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.torch.decoding.beams import BeamRules, Beams, Step
from conjoin.torch.decoding.loop import Control, Decoded
from conjoin.torch.decoding.reader import Reader, block_rows
from conjoin.torch.streamers import stable_prefix


class Results:
    """Finished hypotheses of all sources, filled in as sources are done."""

    def __init__(self, sources: int, returned: int, rules: BeamRules, device: torch.device, trace: bool) -> None:
        shape = (sources, returned)
        self.sequences = torch.full((*shape, rules.max_length), rules.pad, dtype=torch.long, device=device)
        self.scores = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.origins = torch.full((*shape, rules.max_length - rules.prompt), -1, device=device) if trace else None
        self.prompt = rules.prompt

    def take(self, sources: Int[Tensor, " b"], beams: Beams, which: Int[Tensor, " b"]) -> None:
        """Store what live sources `which` of `beams` found, as results of `sources`."""
        count = self.scores.shape[1]
        self.sequences[sources] = beams.finished[which, :count]
        self.scores[sources] = beams.finished_scores[which, :count]
        self.lengths[sources] = beams.finished_lengths[which, :count]
        if self.origins is not None and beams.finished_origins is not None:
            self.origins[sources] = beams.finished_origins[which, :count]

    def decoded(self) -> Decoded:
        """All hypotheses, cut to the longest; behind an end stands the pad id."""
        longest = int(self.lengths.max())
        return Decoded(
            sequences=self.sequences.flatten(0, 1)[:, :longest],
            scores=self.scores.flatten(),
            origins=None if self.origins is None else self.origins.flatten(0, 1)[:, : longest - self.prompt],
        )


def beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    *,
    returned: int = 1,
    mask: Tensor | None = None,
) -> Decoded:
    """The best hypotheses of every source.

    The first step runs on one row per source, since all beams are equal then; sources that are done leave the batch;
    the self-cache moves only where a beam changed its parent. Where something is traced per step, all rows stay.

    Args:
        returned: Hypotheses per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    batch, device, lean = len(prompt), prompt.device, not control.trace.wanted
    beams = Beams.start(prompt, rules, trace=control.trace.origins)
    results = Results(batch, returned, rules, device, control.trace.origins)
    live = torch.arange(batch, device=device)
    lean_start = lean and rules.vocab_size >= rules.candidates and not rules.sample
    if not lean_start:
        prompt = beams.rows
        mask = None if mask is None else mask.repeat_interleave(rules.num_beams, 0)
        reader.expand(rules.num_beams)
    emitted = _Emitted(control, rules)
    scores = reader.scores(prompt, mask)
    while True:
        first_rows = beams.rows[:: rules.num_beams] if len(scores) != len(live) * rules.num_beams else beams.rows
        step = _decide(beams, scores, first_rows, control)
        emitted.put(beams)
        if len(scores) == len(step.parents):
            reader.reorder(step.parents)
        else:
            reader.expand(rules.num_beams)
        tokens = step.tokens
        if beams.length >= rules.max_length or _look(beams, control):
            alive = (~step.done).nonzero().squeeze(1).tolist()
            if not alive or beams.length >= rules.max_length:
                results.take(live, beams, torch.arange(len(live), device=device))
                break
            if lean and len(alive) < len(live):
                gone = step.done.nonzero().squeeze(1)
                results.take(live[gone], beams, gone)
                order = reader.keep(alive)
                rows = block_rows(order, rules.num_beams, device)
                beams.keep(order)
                live, tokens = live[order], tokens[rows]
                if control.select is not None:
                    control.select(rows)
        scores = reader.scores(tokens[:, None])
    emitted.end(beams)
    return results.decoded()


def _look(beams: Beams, control: Control) -> bool:
    """Whether to ask which sources are done: at every step on a CPU, now and then on a GPU, which must wait."""
    return (beams.length - beams.rules.prompt) % control.patience == 0


def _decide(beams: Beams, scores: Tensor, ids: Tensor, control: Control) -> Step:
    """One step of the search: from raw scores to parents and tokens."""
    logits = scores.float()
    if control.process is None and not control.trace.wanted and not beams.rules.sample:
        chosen = beams.candidates(logits, logits.logsumexp(-1))
    else:
        edited = control.processed(ids, logits.log_softmax(-1))
        control.trace.note(logits, edited)
        chosen = beams.candidates(edited)
    values, parents, tokens = chosen
    stops = None
    if control.stops is not None:
        told = control.stopped(beams.candidate_rows(parents, tokens))
        stops = None if told is None else told.view_as(tokens)
    return beams.advance(values, parents, tokens, stops)


class _Emitted:
    """Feeds a streamer with the prefix that no later step can change."""

    def __init__(self, control: Control, rules: BeamRules) -> None:
        self.streamer = control.streamer
        self.position = rules.prompt

    def put(self, beams: Beams) -> None:
        """Emit what all hypotheses that may still win have in common."""
        if self.streamer is None:
            return
        possible = beams.running[0][beams.scores[0] > -1.0e8, : beams.length]
        best = beams.finished[0, 0, : int(beams.finished_lengths[0, 0])]  # sorted: no other finished one can win
        finished = [best] if bool(beams.is_finished[0, 0]) else []
        self._emit((possible if len(possible) else best[None])[0], stable_prefix(possible, finished))

    def end(self, beams: Beams) -> None:
        """Emit the rest of the winner."""
        if self.streamer is not None:
            self._emit(beams.finished[0, 0], int(beams.finished_lengths[0, 0]))
            self.streamer.end()

    def _emit(self, row: Tensor, until: int) -> None:
        assert self.streamer is not None
        for token in row[self.position : until].cpu():
            self.streamer.put(token[None])
        self.position = max(self.position, until)


def diverse_beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    *,
    groups: int,
    penalty: float,
    returned: int = 1,
) -> Decoded:
    """Groups of beams, each kept from the words that earlier groups took at the same step (Vijayakumar et al. 2016,
    arXiv:1610.02424); the best hypotheses of all groups together win.

    Args:
        groups: Each has num_beams / groups beams.
        penalty: Subtracted from a word's log-probability once per earlier beam of the source that took it.
    """
    batch, device = len(prompt), prompt.device
    size = rules.num_beams // groups
    inner = replace(rules, num_beams=size)
    searches = [Beams.start(prompt, inner, trace=control.trace.origins) for _ in range(groups)]
    reader.expand(rules.num_beams)
    scores = reader.scores(prompt.repeat_interleave(rules.num_beams, 0))
    done = torch.zeros(batch, groups, dtype=torch.bool, device=device)
    starts = torch.arange(batch, device=device)[:, None] * rules.num_beams
    while True:
        ids = torch.cat([search.running[:, :, : search.length] for search in searches], 1).flatten(0, 1)
        logits = scores.float()
        edited = control.processed(ids, logits.log_softmax(-1)).view(batch, groups, size, -1)
        control.trace.note(logits, edited.flatten(0, 2))
        taken = torch.zeros(batch, 1, logits.shape[1], device=device)
        parents, tokens = [], []
        for group, search in enumerate(searches):
            chosen = search.candidates((edited[:, group] - penalty * taken).flatten(0, 1))
            stops = control.stopped(search.candidate_rows(*chosen[1:]))
            step = search.advance(*chosen, None if stops is None else stops.view_as(chosen[2]))
            words = step.tokens.view(batch, size)
            taken.scatter_add_(2, words[:, None], torch.ones_like(words[:, None], dtype=taken.dtype))
            offset = torch.arange(batch, device=device)[:, None] * size
            parents.append(step.parents.view(batch, size) - offset + starts + group * size)
            tokens.append(words)
            done[:, group] |= step.done
        if bool(done.all()) or searches[0].length >= rules.max_length:
            break
        reader.reorder(torch.cat(parents, 1).flatten())
        scores = reader.scores(torch.cat(tokens, 1).flatten()[:, None])
    return _merge(searches, rules, returned, control.trace.origins)


def _merge(searches: list[Beams], rules: BeamRules, returned: int, trace: bool) -> Decoded:
    """The best of all groups' finished hypotheses."""
    merged = searches[0]
    for name in ("finished", "finished_scores", "finished_lengths", "is_finished"):
        setattr(merged, name, torch.cat([getattr(search, name) for search in searches], 1))
    order = torch.sort(merged.finished_scores, dim=1, descending=True, stable=True).indices
    wide = order[..., None].expand_as(merged.finished)
    merged.finished = merged.finished.gather(1, wide)
    merged.finished_scores = merged.finished_scores.gather(1, order)
    merged.finished_lengths = merged.finished_lengths.gather(1, order)
    merged.finished_origins = None
    batch, device = len(merged.finished), merged.finished.device
    results = Results(batch, returned, rules, device, trace)
    every = torch.arange(batch, device=device)
    results.take(every, merged, every)
    return results.decoded()
