"""Beam search in groups that avoid each other's tokens (Vijayakumar et al. 2016, arXiv:1610.02424)."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.beam_search import stopped
from conjoin.torch.generation.loops.beams import NEVER, NO_WORD, BeamRules, Beams, Finished, best_of, gather_beams
from conjoin.torch.generation.loops.live import Live
from conjoin.torch.generation.reader import Reader, block_rows


def diverse_beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    *,
    groups: int,
    returned: int = 1,
    mask: Tensor | None = None,
) -> Decoded:
    """Return the best hypotheses of all groups together, as transformers 4 did.

    At each step the groups choose one after another. Processors run once per group, on its rows, and receive the tokens
    that the beams of earlier groups chose, whose scores HammingDiversity lowers. A group that is done no longer affects
    later groups. A hypothesis that one group finishes is not finished by a later group (transformers 4 returns it
    twice).

    Args:
        groups: Number of groups, each of num_beams / groups beams.
        returned: Number of hypotheses to return per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    search = _Search(reader, prompt, rules, control, groups, returned)
    tokens = search.step(search.first_scores(prompt, mask))
    while tokens is not None:
        tokens = search.step(reader.scores(tokens[:, None]))
    return search.live.finish(search.merged())


class _Search:
    """State of a diverse beam search over the sources that are not done."""

    def __init__(
        self,
        reader: Reader,
        prompt: Int[Tensor, "B P"],
        rules: BeamRules,
        control: Control,
        groups: int,
        returned: int,
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.size = rules.num_beams // groups
        inner = replace(rules, num_beams=self.size, grouped=True)
        self.groups = [Beams.start(prompt, inner, trace=control.trace.origins) for _ in range(groups)]
        self.done = torch.zeros(len(prompt), groups, dtype=torch.bool, device=prompt.device)
        self.live = Live(reader, prompt, rules, control, returned)

    def first_scores(self, prompt: Int[Tensor, "B P"], mask: Tensor | None) -> Float[Tensor, "R V"]:
        """Read the prompt."""
        return self.reader.first_scores(prompt, mask, self.rules.num_beams, together=self.control.rows_may_leave)

    def step(self, scores: Float[Tensor, "R V"]) -> Int[Tensor, " R2"] | None:
        """Choose the continuations of every group, reorder the cache, drop finished sources.

        Returns:
            The tokens to read next; None if the search is over.
        """
        parents, tokens = self._choose(scores.float())
        self.live.emitted.put(*self.groups)
        done, length = self.done.all(1), self.groups[0].length
        if self.live.is_over(length, done):
            return None
        self.reader.reorder(parents.flatten())
        if not self.live.shrinks(length, done):
            return tokens.flatten()
        order = self.live.let_go(self.merged(), done)
        for group in self.groups:
            group.keep(order)
        self.done = self.done[order]
        self.control.select(block_rows(order, self.size, scores.device))
        return tokens[order].flatten()

    def _choose(self, logits: Float[Tensor, "R V"]) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
        """Return the parents, as rows of the whole batch, and the tokens of all beams."""
        sources, beams, size = len(self.live.sources), self.rules.num_beams, self.size
        log_probs = logits.log_softmax(-1).view(sources, len(self.groups), size, -1)
        starts = torch.arange(sources, device=logits.device)[:, None]
        chosen_tokens = torch.full((sources, beams), NO_WORD, device=logits.device)
        parents, tokens, edited, best = [], [], [], []
        done = self.done.all(1)
        for index, group in enumerate(self.groups):
            scores = log_probs[:, index].flatten(0, 1)
            extra = {"current_tokens": chosen_tokens.flatten(), "beam_group_idx": index}
            scores = self.control.processed(group.rows, scores, group.runs.flatten(), **extra)
            candidates = group.candidates(self._without_repeats(index, scores))
            best.append(best_of(candidates[0]))
            step = group.advance(*candidates, stopped(group, self.control, *candidates))
            group_tokens = step.words.masked_fill(self.done[:, index, None], NO_WORD)
            chosen_tokens[:, index * size : (index + 1) * size] = group_tokens
            self.done[:, index] |= step.done
            parents.append(step.parents.view(sources, size) + starts * (beams - size) + index * size)
            tokens.append(step.tokens.view(sources, size))
            edited.append(scores.view(sources, size, -1))
        self.live.see(torch.stack(best).amax(0), self.groups[0].length - 1, done, *self.groups)
        self.control.trace.note(logits, torch.cat(edited, 1).flatten(0, 1))
        return torch.cat(parents, 1), torch.cat(tokens, 1)

    def _without_repeats(self, index: int, scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Return a group's scores; tokens that would repeat a hypothesis finished by an earlier group get -inf."""
        group = self.groups[index]
        own = group.running[:, :, : group.length]
        for earlier in self.groups[:index]:
            ids, is_new = earlier.finished_now()
            if is_new.device.type == "cpu" and not is_new.any():  # not checked on a GPU, which would have to wait
                continue
            same = (own[:, :, None] == ids[:, None, :, :-1]).all(-1) & is_new[:, None]
            repeats = scores.new_zeros(*own.shape[:2], scores.shape[1])
            repeats.scatter_add_(2, ids[:, None, :, -1].expand(same.shape), same.to(repeats.dtype))
            scores = scores.masked_fill(repeats.flatten(0, 1) > 0, NEVER)
        return scores

    def merged(self) -> Finished:
        """Return the finished hypotheses of all groups, best first."""
        parts = [group.found for group in self.groups]
        scores, order = torch.sort(torch.cat([each.scores for each in parts], 1), dim=1, descending=True, stable=True)
        origins = self._origins()
        return Finished(
            gather_beams(torch.cat([each.ids for each in parts], 1), order),
            scores,
            torch.cat([each.lengths for each in parts], 1).gather(1, order),
            None if origins is None else gather_beams(origins, order),
            torch.cat([each.filled for each in parts], 1).gather(1, order),
        )

    def _origins(self) -> Int[Tensor, "B N O"] | None:
        """Return the rows that tokens of finished hypotheses came from, as rows of the whole batch."""
        beams, size, origins = self.rules.num_beams, self.size, []
        for index, group in enumerate(self.groups):
            if group.finished_origins is None:
                return None
            rows = group.finished_origins
            origins.append(torch.where(rows < 0, rows, rows // size * beams + index * size + rows % size))
        return torch.cat(origins, 1)
