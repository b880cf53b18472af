"""Beam search in groups that keep away from each other's words (Vijayakumar et al. 2016, arXiv:1610.02424)."""

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
    """The best hypotheses of all groups together, as transformers 4 searched for them.

    At each step the groups choose one after another. Processors run once per group, on its rows, and are told which
    words the earlier groups' beams chose; HammingDiversity, in its place among them, lowers these. A group that is done
    goes on unseen: it keeps nobody from its words. What one group finishes, no later group finishes too (transformers 4
    returns such a hypothesis twice).

    Args:
        groups: Each has num_beams / groups beams.
        returned: Hypotheses per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    search = _Search(reader, prompt, rules, control, groups, returned)
    tokens = search.step(search.first_scores(prompt, mask))
    while tokens is not None:
        tokens = search.step(reader.scores(tokens[:, None]))
    return search.live.finish(search.merged())


class _Search:
    """A diverse beam search under way over the sources that are still alive."""

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
        """Let every group choose, move the cache accordingly, let finished sources go.

        Returns:
            The words to read next; None where the search is over.
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
        """Parents, as rows of the whole batch, and words of all beams."""
        sources, beams, size = len(self.live.sources), self.rules.num_beams, self.size
        log_probs = logits.log_softmax(-1).view(sources, len(self.groups), size, -1)
        starts = torch.arange(sources, device=logits.device)[:, None]
        taken = torch.full((sources, beams), NO_WORD, device=logits.device)
        parents, tokens, edited, best = [], [], [], []
        done = self.done.all(1)
        for index, group in enumerate(self.groups):
            scores = log_probs[:, index].flatten(0, 1)
            others = {"current_tokens": taken.flatten(), "beam_group_idx": index}
            scores = self.control.processed(group.rows, scores, group.runs.flatten(), **others)
            chosen = group.candidates(self._unlike_earlier(index, scores))
            best.append(best_of(chosen[0]))
            step = group.advance(*chosen, stopped(group, self.control, *chosen))
            words = step.words.masked_fill(self.done[:, index, None], NO_WORD)
            taken[:, index * size : (index + 1) * size] = words
            self.done[:, index] |= step.done
            parents.append(step.parents.view(sources, size) + starts * (beams - size) + index * size)
            tokens.append(step.tokens.view(sources, size))
            edited.append(scores.view(sources, size, -1))
        self.live.see(torch.stack(best).amax(0), self.groups[0].length - 1, done, *self.groups)
        self.control.trace.note(logits, torch.cat(edited, 1).flatten(0, 1))
        return torch.cat(parents, 1), torch.cat(tokens, 1)

    def _unlike_earlier(self, index: int, scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """A group's scores, without what would end as a hypothesis that an earlier group finished at this step."""
        group = self.groups[index]
        own = group.running[:, :, : group.length]
        for each in self.groups[:index]:
            ids, now = each.finished_now()
            if now.device.type == "cpu" and not now.any():  # of a GPU this is not asked: it would wait
                continue
            same = (own[:, :, None] == ids[:, None, :, :-1]).all(-1) & now[:, None]
            taken = scores.new_zeros(*own.shape[:2], scores.shape[1])
            taken.scatter_add_(2, ids[:, None, :, -1].expand(same.shape), same.to(taken.dtype))
            scores = scores.masked_fill(taken.flatten(0, 1) > 0, NEVER)
        return scores

    def merged(self) -> Finished:
        """Finished hypotheses of all groups, best first."""
        found = [group.found for group in self.groups]
        scores, order = torch.sort(torch.cat([each.scores for each in found], 1), dim=1, descending=True, stable=True)
        origins = self._origins()
        return Finished(
            gather_beams(torch.cat([each.ids for each in found], 1), order),
            scores,
            torch.cat([each.lengths for each in found], 1).gather(1, order),
            None if origins is None else gather_beams(origins, order),
            torch.cat([each.filled for each in found], 1).gather(1, order),
        )

    def _origins(self) -> Int[Tensor, "B N O"] | None:
        """Where finished hypotheses came from, as rows of the whole batch."""
        beams, size, found = self.rules.num_beams, self.size, []
        for index, group in enumerate(self.groups):
            if group.finished_origins is None:
                return None
            rows = group.finished_origins
            found.append(torch.where(rows < 0, rows, rows // size * beams + index * size + rows % size))
        return torch.cat(found, 1)
