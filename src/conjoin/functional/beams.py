"""Beam search and beam sampling on arrays whose shapes never change.

The rules are those of the PyTorch backend (torch/generation/loops/beams.py), per source: a source's result does not
depend on its batch mates. There a source that is done leaves the batch, here its results are frozen.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float, Int

from conjoin.functional.cache import Cache
from conjoin.functional.ops import Array, Ops, Processor
from conjoin.functional.reader import Reader
from conjoin.functional.sample import Limits, Written, best_score, fault_of, gumbel, is_any_of, start_ids
from conjoin.generation import FORBIDDEN

NEVER = -math.inf
"""Score of a place where no hypothesis stands."""
_LEAST = -3.4028234663852886e38
_SMALL = 1e-37


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamRules:
    """What a beam search follows.

    Args:
        early_stopping: True ends a source when num_beams hypotheses are finished, False when the best running one can
            hardly win any more, "never" when it cannot.
    """

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]


class Beams(NamedTuple):
    """Running and finished hypotheses of every source.

    A hypothesis that has ended, or whose every token is forbidden, does not run. The best one that runs stands in the
    places left over, too, with a score of -inf; in a source where none runs, the last ones stand on, with pads.

    Args:
        parents, last: The row that each running one continues, and its newest token, not read yet.
        done: Sources whose result no later step can change.
        fault: Where a source could not go on, see `fault_of`.
    """

    length: Int[Array, ""]
    running: Int[Array, "B N room"]
    scores: Float[Array, "B N"]
    finished: Int[Array, "B N room"]
    finished_scores: Float[Array, "B N"]
    is_finished: Bool[Array, "B N"]
    finished_lengths: Int[Array, "B N"]
    improvable: Bool[Array, "B 1"]
    done: Bool[Array, " B"]
    fault: Int[Array, " B"]
    parents: Int[Array, " R"]
    last: Int[Array, " R"]
    cache: Cache


def beam_search(
    reader: Reader,
    cache: Cache,
    prompt: Int[Array, "B P"],
    mask: Bool[Array, "B P"] | None,
    limits: Limits,
    rules: BeamRules,
    process: Processor | None,
    rng: Array | None,
) -> Written:
    """The best hypotheses of every source.

    Args:
        rng: Random state of beam sampling; None takes the best continuations.
    """
    search = _Search(reader, limits, rules, process, rng, prompt=reader.here.ops.shape(prompt)[1])
    ops = reader.here.ops
    scores, cache = reader.scores(cache, prompt, mask)
    begun = search.start(prompt, cache.repeat(ops, rules.num_beams))
    beams = ops.while_loop(search.goes_on, search.step, search.advance(begun, ops.repeat(scores, rules.num_beams)))
    return Written(
        beams.finished, beams.finished_lengths, beams.fault, scores=beams.finished_scores, filled=beams.is_finished
    )


class _Search:
    """One beam search; everything that changes is in `Beams`."""

    def __init__(
        self,
        reader: Reader,
        limits: Limits,
        rules: BeamRules,
        process: Processor | None,
        rng: Array | None,
        *,
        prompt: int,
    ) -> None:
        self.reader, self.limits, self.rules, self.process, self.rng = reader, limits, rules, process, rng
        self.prompt = prompt
        self.ops: Ops = reader.here.ops

    def start(self, prompt: Int[Array, "B P"], cache: Cache) -> Beams:
        """One hypothesis per source, in beam 0; the other beams exist, but cannot win."""
        ops, count = self.ops, self.rules.num_beams
        batch, length = ops.shape(prompt)
        rows = ops.repeat(start_ids(ops, prompt, self.limits), count)
        running = ops.reshape(rows, (batch, count, self.limits.room))
        first = (ops.arange(count) == 0)[None]
        return Beams(
            length=ops.constant(length, "int32"),
            running=running,
            scores=ops.broadcast(ops.where(first, 0.0, NEVER), (batch, count)),
            finished=running,
            finished_scores=ops.full((batch, count), NEVER, "float32"),
            is_finished=ops.full((batch, count), False, "bool"),
            finished_lengths=ops.full((batch, count), length, "int32"),
            improvable=ops.full((batch, 1), True, "bool"),
            done=ops.full((batch,), False, "bool"),
            fault=ops.full((batch,), 0, "int32"),
            parents=ops.arange(batch * count),
            last=rows[:, length - 1],
            cache=cache,
        )

    def goes_on(self, beams: Beams) -> Array:
        """Whether a source can change any more."""
        return (beams.length < self.limits.max_length) & ~self.ops.all(beams.done, 0)

    def step(self, beams: Beams) -> Beams:
        """Read the newest tokens and choose what goes on."""
        scores, cache = self.reader.scores(beams.cache.rows(self.ops, beams.parents), beams.last[:, None])
        return self.advance(beams._replace(cache=cache), scores)

    def advance(self, beams: Beams, scores: Float[Array, "R V"]) -> Beams:
        """Take the candidates of one step."""
        ops, count, eos = self.ops, self.rules.num_beams, self.limits.eos
        values, parents, tokens, best = self._candidates(beams, scores)
        beams = self._noted(beams, best)
        ends, possible = is_any_of(ops, tokens, eos), values > FORBIDDEN
        open_scores, rank = ops.top_k(ops.where(ends | ~possible, NEVER, values), count)
        last = beams.length + 1 >= self.limits.max_length
        after = self._finish(beams, values, parents, tokens, (ends | last) & possible)
        parents, tokens = self._running(open_scores, ops.gather(parents, rank, 1), ops.gather(tokens, rank, 1))
        after = after._replace(
            running=self._continued(beams, parents, tokens),
            scores=ops.where(last, NEVER, open_scores),
            length=beams.length + 1,
        )
        after = after._replace(improvable=self._improvable(after))
        done = beams.done | ~after.improvable[:, 0]
        if self.rules.early_stopping is True:
            done = done | ops.all(after.is_finished, 1)
        offsets = ops.arange(ops.shape(parents)[0])[:, None] * count
        return after._replace(done=done, parents=ops.reshape(parents + offsets, (-1,)), last=ops.reshape(tokens, (-1,)))

    def _noted(self, beams: Beams, best: Float[Array, " B"]) -> Beams:
        """Sources that have neither a candidate nor a result, and those whose scores are not numbers, are done."""
        ops = self.ops
        fault = fault_of(ops, best, beams.length, drawn=True)
        over = beams.done | (ops.any(beams.is_finished, 1) & (fault > 0))
        fault = ops.where(over, 0, fault)
        return beams._replace(fault=beams.fault + fault, done=beams.done | (fault != 0))

    def _running(self, scores: Array, parents: Array, tokens: Array) -> tuple[Array, Array]:
        """What goes on, the best first; it stands in the places of what does not, too."""
        ops, runs = self.ops, scores > FORBIDDEN
        parents, tokens = (ops.where(runs, held, held[:, :1]) for held in (parents, tokens))
        places = ops.broadcast(ops.arange(self.rules.num_beams)[None], ops.shape(parents))
        return ops.where(runs[:, :1], parents, places), ops.where(runs[:, :1], tokens, self.limits.pad)

    def _candidates(self, beams: Beams, scores: Array) -> tuple[Array, Array, Array, Array]:
        """The best (or sampled) continuations of each source: scores, parent beams and tokens, each [B, C].

        Enough that num_beams of them do not end. And the best score of all, [B]; NaN where one is NaN.
        """
        ops, count = self.ops, self.rules.num_beams
        batch, words = ops.shape(beams.scores)[0], ops.shape(scores)[1]
        logs = ops.log_softmax(scores)
        if self.process is not None:
            rows = ops.reshape(beams.running, (batch * count, self.limits.room))
            logs = self.process(rows, beams.length, logs)
        runs = (beams.scores > FORBIDDEN)[..., None]
        tops = ops.reshape(best_score(ops, logs), (batch, count)) + beams.scores
        best = best_score(ops, ops.where(runs[..., 0], tops, NEVER))
        wanted = min(max(2, 1 + len(self.limits.eos)) * count, count * words)
        if self.rng is not None:
            total = ops.reshape(logs, (batch, count, words)) + beams.scores[..., None]
            total = ops.reshape(ops.where(runs, total, NEVER), (batch, count * words))
            _, picked = ops.top_k(total + gumbel(ops, ops.fold_in(self.rng, beams.length), total), wanted)
            return ops.gather(total, picked, 1), picked // words, picked % words, best
        few = min(wanted, words)
        likely, tokens = ops.top_k(logs, few)
        total = ops.where(runs, ops.reshape(likely, (batch, count, few)) + beams.scores[..., None], NEVER)
        values, picked = ops.top_k(ops.reshape(total, (batch, count * few)), wanted)
        return values, picked // few, ops.gather(ops.reshape(tokens, (batch, count * few)), picked, 1), best

    def _finish(self, beams: Beams, values: Array, parents: Array, tokens: Array, ends: Array) -> Beams:
        """Merge what ended into the finished hypotheses. Only the first num_beams candidates may end."""
        ops, count = self.ops, self.rules.num_beams
        ended, here = ends[:, :count], parents[:, :count]
        generated = ops.cast(beams.length + 1 - self.prompt, "float32")
        scores = values[:, :count] / ops.maximum(generated**self.rules.length_penalty, _SMALL)
        frozen = ~beams.improvable | beams.done[:, None]
        if self.rules.early_stopping is True:
            frozen = frozen | ops.all(beams.is_finished, 1, keepdims=True)
        ended = ended & ~frozen
        scores = ops.where(ended, ops.maximum(scores, _LEAST), NEVER)
        finished_scores, picked = ops.top_k(ops.concat((beams.finished_scores, scores), 1), count)
        new = self._continued(beams, here, tokens[:, :count])
        lengths = ops.broadcast(ops.reshape(beams.length + 1, (1, 1)), ops.shape(here))
        merged = beams._replace(
            finished_scores=finished_scores,
            is_finished=ops.gather(ops.concat((beams.is_finished, ended), 1), picked, 1),
            finished=self._gathered(ops.concat((beams.finished, new), 1), picked),
            finished_lengths=ops.gather(ops.concat((beams.finished_lengths, lengths), 1), picked, 1),
        )
        return self._unless_done(beams, merged)

    def _unless_done(self, beams: Beams, merged: Beams) -> Beams:
        """What was found, where the source was not done before."""
        where, done = self.ops.where, beams.done[:, None]
        return merged._replace(
            finished_scores=where(done, beams.finished_scores, merged.finished_scores),
            is_finished=where(done, beams.is_finished, merged.is_finished),
            finished=where(done[..., None], beams.finished, merged.finished),
            finished_lengths=where(done, beams.finished_lengths, merged.finished_lengths),
        )

    def _continued(self, beams: Beams, parents: Array, tokens: Array) -> Int[Array, "B n room"]:
        """The running hypotheses `parents`, each with one token more."""
        return self.ops.write_at(self._gathered(beams.running, parents), tokens[..., None], beams.length, 2)

    def _gathered(self, held: Array, beams: Array) -> Array:
        """held[b, beams[b, i]] for every i."""
        ops = self.ops
        index = ops.broadcast(beams[..., None], (*ops.shape(beams), ops.shape(held)[2]))
        return ops.gather(held, index, 1)

    def _improvable(self, after: Beams) -> Bool[Array, "B 1"]:
        """Whether the best running hypothesis may still beat the worst finished one."""
        ops, rules = self.ops, self.rules
        furthest = rules.early_stopping == "never" and rules.length_penalty > 0.0
        length = ops.cast((self.limits.max_length if furthest else after.length) - self.prompt, "float32")
        best = ops.max(after.scores, 1, keepdims=True) / ops.maximum(length**rules.length_penalty, _SMALL)
        lowest = ops.min(after.finished_scores, 1, keepdims=True)
        worst = ops.where(after.is_finished, lowest, NEVER)
        return after.improvable & ops.any(best > worst, 1, keepdims=True)
