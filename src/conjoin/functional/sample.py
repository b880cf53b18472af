"""Greedy decoding and sampling: one hypothesis per row, in a loop whose shapes never change."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from conjoin.functional.cache import Cache
from conjoin.functional.ops import Array, Ops, Processor
from conjoin.functional.reader import Reader
from conjoin.generation import FORBIDDEN

_TINY = 1e-37
"""Above float32's least normal number: smaller ones may be flushed to 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where hypotheses end.

    Args:
        room: Positions that are reserved: no less than max_length.
        max_length: Positions in all; may be known only when the program runs.
        eos: Ids that end a hypothesis.
        pad: Written behind the end.
    """

    room: int
    max_length: Int[Array, ""]
    eos: tuple[int, ...]
    pad: int


class Rows(NamedTuple):
    """What every row has written.

    Args:
        length: Positions written, the same for all rows.
        ended: Rows that go on with pads.
        last: The newest token, not read yet.
        fault: Where the row could not go on, see `fault_of`.
    """

    ids: Int[Array, "R room"]
    length: Int[Array, ""]
    ended: Bool[Array, " R"]
    last: Int[Array, " R"]
    fault: Int[Array, " R"]
    cache: Cache


class Written(NamedTuple):
    """What a program returns.

    Args:
        ids: [R, room], or of beams [B, N, room], best first.
        lengths: How many of them are written: of all rows, or of each hypothesis.
        fault: [R], of beams [B]; see `fault_of`.
        scores, filled: [B, N], of beams: log-probability / length ** length_penalty, and where a hypothesis stands.
    """

    ids: Int[Array, "..."]
    lengths: Int[Array, "..."]
    fault: Int[Array, " n"]
    scores: Float[Array, "B N"] | None = None
    filled: Bool[Array, "B N"] | None = None


def best_score(ops: Ops, scores: Float[Array, "R n"]) -> Float[Array, " R"]:
    """The best score of every row, NaN where one is NaN: XLA's maximum passes over these."""
    return ops.where(ops.any(~(scores >= 0) & ~(scores < 0), 1), math.nan, ops.max(scores, 1))


def fault_of(ops: Ops, best: Float[Array, " n"], length: Int[Array, ""], *, drawn: bool) -> Int[Array, " n"]:
    """0 where a row with this best score can go on; its length where every token is forbidden; below 0 for NaN.

    Args:
        drawn: A token is drawn, which infinite scores do not allow either.
    """
    fine = best > FORBIDDEN
    fine = fine & (best < math.inf) if drawn else fine
    return ops.where(fine, 0, ops.where(best <= FORBIDDEN, length, -length))


def is_any_of(ops: Ops, tokens: Int[Array, "*n"], wanted: tuple[int, ...]) -> Bool[Array, "*n"]:
    """Which tokens are among a few ids."""
    hits = tokens < 0
    for token in wanted:
        hits = hits | (tokens == token)
    return hits


def start_ids(ops: Ops, prompt: Int[Array, "R P"], limits: Limits) -> Int[Array, "R room"]:
    """The prompt and room for what follows it."""
    rows, length = ops.shape(prompt)
    return ops.concat((prompt, ops.full((rows, limits.room - length), limits.pad, "int32")), 1)


def gumbel(ops: Ops, rng: Array, like: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """Noise whose largest sum with log-probabilities is a draw (Gumbel 1954)."""
    uniform = ops.maximum(ops.uniform(rng, ops.shape(like)), _TINY)
    return -ops.log(ops.maximum(-ops.log(uniform), _TINY))


def sample(
    reader: Reader,
    cache: Cache,
    prompt: Int[Array, "B P"],
    mask: Bool[Array, "B P"] | None,
    limits: Limits,
    process: Processor | None,
    rng: Array | None,
    copies: int = 1,
) -> Written:
    """Extend every row word by word until an end id or the length.

    Args:
        rng: Random state; None takes the likeliest word.
        copies: Hypotheses per source.
    """
    ops = reader.here.ops

    def choose(rows: Rows, scores: Array) -> Rows:
        edited = scores if process is None else process(rows.ids, rows.length, scores)
        fault = ops.where(rows.ended, 0, fault_of(ops, best_score(ops, edited), rows.length, drawn=rng is not None))
        ended = rows.ended | (fault != 0)
        if rng is not None:
            edited = edited + gumbel(ops, ops.fold_in(rng, rows.length), edited)
        tokens = ops.where(ended, limits.pad, ops.argmax(edited))
        return Rows(
            ids=ops.write_at(rows.ids, tokens[:, None], rows.length, 1),
            length=rows.length + 1,
            ended=ended | is_any_of(ops, tokens, limits.eos),
            last=tokens,
            fault=rows.fault + fault,
            cache=rows.cache,
        )

    def goes_on(rows: Rows) -> Array:
        return (rows.length < limits.max_length) & ~ops.all(rows.ended, 0)

    def step(rows: Rows) -> Rows:
        scores, cache = reader.scores(rows.cache, rows.last[:, None])
        return choose(rows._replace(cache=cache), scores)

    scores, cache = reader.scores(cache, prompt, mask)
    prompt = ops.repeat(prompt, copies)
    begun = Rows(
        ids=start_ids(ops, prompt, limits),
        length=ops.constant(ops.shape(prompt)[1], "int32"),
        ended=prompt[:, 0] < 0,
        last=prompt[:, -1],
        fault=prompt[:, 0] * 0,
        cache=cache.repeat(ops, copies) if copies > 1 else cache,
    )
    done = ops.while_loop(goes_on, step, choose(begun, ops.repeat(scores, copies)))
    return Written(done.ids, done.length, done.fault)
