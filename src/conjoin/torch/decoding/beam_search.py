"""Beam search and beam sampling, and the diverse kind with groups."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
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
    search = _Search(reader, prompt, rules, control, returned)
    scores = search.first_scores(prompt, mask)
    while True:
        tokens = search.step(scores)
        if search.over:
            return search.results.decoded()
        scores = reader.scores(tokens[:, None])


class _Search:
    """A beam search under way over the sources that are still alive."""

    def __init__(
        self, reader: Reader, prompt: Int[Tensor, "B P"], rules: BeamRules, control: Control, returned: int
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.lean = not control.trace.wanted
        self.beams = Beams.start(prompt, rules, trace=control.trace.origins)
        self.results = Results(len(prompt), returned, rules, prompt.device, control.trace.origins)
        self.live = torch.arange(len(prompt), device=prompt.device)
        self.emitted = _Emitted(control, rules)
        self.over = False

    def first_scores(self, prompt: Int[Tensor, "B P"], mask: Tensor | None) -> Float[Tensor, "R V"]:
        """Read the prompt: once per source where its beams are equal and nobody looks at each of them."""
        rules = self.rules
        if self.lean and rules.vocab_size >= rules.candidates and not rules.sample:
            return self.reader.scores(prompt, mask)
        self.reader.expand(rules.num_beams)
        return self.reader.scores(self.beams.rows, None if mask is None else mask.repeat_interleave(rules.num_beams, 0))

    def step(self, scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
        """Choose what goes on, move the cache accordingly, let finished sources go; returns the words to read next."""
        one_row_each = len(scores) < len(self.live) * self.rules.num_beams
        ids = self.beams.rows[:: self.rules.num_beams] if one_row_each else self.beams.rows
        step = _decide(self.beams, scores, ids, self.control)
        self.emitted.put(self.beams)
        if self._retire_all(step):
            return step.tokens
        if one_row_each:
            self.reader.expand(self.rules.num_beams)
        else:
            self.reader.reorder(step.parents)
        return self._retire_some(step)

    def _retire_all(self, step: Step) -> bool:
        """End the search if no source can change any more."""
        self.over = self.beams.length >= self.rules.max_length or (self._look() and bool(step.done.all()))
        if self.over:
            self.results.take(self.live, self.beams, torch.arange(len(self.live), device=self.live.device))
            self.emitted.end(self.beams)
        return self.over

    def _retire_some(self, step: Step) -> Int[Tensor, " R"]:
        """Take sources that are done out of the batch."""
        if not (self.control.rows_may_leave and self._look() and bool(step.done.any())):
            return step.tokens
        gone = step.done.nonzero().squeeze(1)
        self.results.take(self.live[gone], self.beams, gone)
        order = self.reader.keep((~step.done).nonzero().squeeze(1).tolist())
        rows = block_rows(order, self.rules.num_beams, self.live.device)
        self.beams.keep(order)
        self.live = self.live[order]
        self.control.select(rows)
        return step.tokens[rows]

    def _look(self) -> bool:
        """Whether to ask which sources are done: at every step on a CPU, now and then on a GPU, which must wait."""
        return (self.beams.length - self.rules.prompt) % self.control.patience == 0


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
