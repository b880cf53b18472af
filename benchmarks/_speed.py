"""One row of generation speed: compare tokens, race the contenders, and relate the time to the machine's limit."""

from statistics import median
from typing import Any

import torch
from _floors import Floors, least_work
from _harness import Timing, race, ratio, spread
from _peers import Cast, Run, Work
from _profile import phase_shares
from _rows import NEW_TOKENS, Speed

NOISE = 0.10
"""If a contender raced against itself spreads more, the machine is not quiet and the figure does not count."""

LEAST_S = 0.25
"""Least seconds of one turn, so that a few milliseconds of noise are a few percent."""

TRIES = 2
"""A noisy row is measured once more."""

NEAR_TIE = 1e-4
"""Logits closer than this are equal in float32 (performance protocol, rule 1)."""

AGAIN, SHORT, READING = "conjoin, again", "conjoin, one token", "reading memory"

Tokens = list[list[int]]


def sources(vocab_size: int, batch: int, length: int) -> torch.Tensor:
    """Return random ids, the same every time, without special tokens."""
    generator = torch.Generator().manual_seed(length * 100 + batch)
    return torch.randint(vocab_size // 20, vocab_size // 2, (batch, length), generator=generator)


def measure(row: Speed, cast: Cast, floors: Floors, rounds: int) -> dict[str, Any]:
    """Measure one row.

    Raises:
        Absent: a contender cannot run here.
    """
    ours = f"conjoin {row.kind}"
    model = cast.model(ours)
    work = Work(sources(model.encoder.spec.vocab_size, row.batch, row.source), NEW_TOKENS, row.beams)
    runs = {name: cast.run(name, work) for name in (ours, *row.against, *row.beside)}
    tokens = _compare(row, cast, work, runs)
    contenders = runs | {AGAIN: runs[ours]}
    if row.floor_bar is not None:
        contenders |= {SHORT: cast.run(ours, Work(work.ids, 1, row.beams)), READING: floors.reading.run}
    timings = quiet_race(contenders, ours, rounds)
    peers = {name: ratio(timings[name], timings[ours]) for name in (*row.against, *row.beside)}
    best = min(row.against, key=lambda name: timings[name].median)
    return {
        "best_peer": best,
        **peers[best],
        "peers": peers,
        "spread": spread(timings[ours], timings[AGAIN]),
        "ms_per_step": {
            name: round(t.median / NEW_TOKENS * 1000, 3) for name, t in timings.items() if name not in (SHORT, READING)
        },
        "tokens_per_s": round(row.batch * NEW_TOKENS / timings[ours].median, 1),
        "seconds": {name: [round(s, 4) for s in t.seconds] for name, t in timings.items()},
        "tokens": tokens,
        "profile": phase_shares(model, runs[ours]),
        **(_share(row, model, timings, ours, floors) if row.floor_bar is not None else {}),
    }


def quiet_race(contenders: dict[str, Run], ours: str, rounds: int) -> dict[str, Timing]:
    """Race the contenders, and once more if the machine was not quiet."""
    timings = race(contenders, rounds, least_s=LEAST_S)
    for _ in range(TRIES - 1):
        if spread(timings[ours], timings[AGAIN]) > NOISE:
            timings = race(contenders, rounds, least_s=LEAST_S)
    return timings


def _share(row: Speed, model: Any, timings: dict[str, Timing], ours: str, floors: Floors) -> dict[str, Any]:
    """Return the share of the machine's limit that is reached: by decoding (all steps but the first), and with the
    encoder.

    It is computed per round, with the bandwidth of that round.
    """
    least = least_work(model.encoder.spec, model.decoder.spec, row.kind, row.source, NEW_TOKENS)
    encode, rest = least.encode_s(floors, row.kind), NEW_TOKENS - 1
    rates = [floors.reading.size / seconds / 1e9 for seconds in timings[READING].seconds]
    floor = [least.step_s(floors, row.kind, rate) for rate in rates]
    whole = timings[ours].seconds
    taken = [(all_s - first_s) / rest for all_s, first_s in zip(whole, timings[SHORT].seconds, strict=True)]
    return {
        "floor_share": round(median(a / b for a, b in zip(floor, taken, strict=True)), 3),
        "floor_share_with_encoder": round(
            median((encode + NEW_TOKENS * a) / b for a, b in zip(floor, whole, strict=True)), 3
        ),
        "floor_ms": {"encode": round(encode * 1000, 3), "step": round(median(floor) * 1000, 3)},
        "read_gb_s": [round(rate, 1) for rate in rates],
        "first_ms": round(timings[SHORT].median * 1000, 3),
        "step_ms": round(median(taken) * 1000, 3),
    }


def _compare(row: Speed, cast: Cast, work: Work, runs: dict[str, Run]) -> dict[str, Any]:
    """Compare all outputs with those of transformers in float32, as shares of equal tokens at equal positions.

    Beam search is compared with transformers only, since CTranslate2 has other beam search rules.
    """
    judge = "transformers fp32"
    expected = (runs.get(judge) or cast.run(judge, work))()
    named = [name for name in runs if row.beams == 1 or not name.startswith("ctranslate2")]
    outputs = {name: expected if name == judge else runs[name]() for name in named}
    counts = {name: sorted({len(line) for line in lines}) for name, lines in outputs.items()}
    if any(count != [work.new_tokens] for count in counts.values()):
        raise ValueError(f"{row.name}: expected {work.new_tokens} new tokens from every contender, found {counts}.")
    record: dict[str, Any] = {
        "equal": {name: _equal(expected, lines) for name, lines in outputs.items() if name != judge},
        "different_words": len({token for line in expected for token in line}),
    }
    ours = f"conjoin {row.kind}"
    if row.kind != "fp32":
        record["forced"] = _forced(cast.model(ours), work, expected)
    elif outputs[ours] != expected and row.beams == 1:
        record["widest_tie"] = _widest_tie(cast.model(judge), work, expected, outputs[ours])
    exact = outputs[ours] == expected or record.get("widest_tie", 1.0) < NEAR_TIE
    return record | {"right": row.kind != "fp32" or exact}


def _equal(expected: Tokens, actual: Tokens) -> float:
    pairs = [pair for lines in zip(expected, actual, strict=True) for pair in zip(*lines, strict=True)]
    return round(sum(a == b for a, b in pairs) / len(pairs), 4)


@torch.inference_mode()
def _logits(model: Any, work: Work, written: Tokens) -> torch.Tensor:
    """Return the logits at every position of generated tokens, with the end token forbidden as in generation."""
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    target = torch.tensor([[start, *line[:-1]] for line in written])
    scores = model(input_ids=work.ids, attention_mask=torch.ones_like(work.ids), decoder_input_ids=target).logits
    scores = scores.float()
    scores[..., end] = -torch.inf
    return scores


def _forced(model: Any, work: Work, expected: Tokens) -> float:
    """Return the share of next tokens that agree with float32, given float32's tokens before them."""
    return _equal(expected, _logits(model, work, expected).argmax(-1).tolist())


def _widest_tie(judge: Any, work: Work, expected: Tokens, actual: Tokens) -> float:
    """Return the difference of the judge's logits where two outputs first differ; the largest over all sources."""
    scores, gaps = _logits(judge, work, expected), [0.0]
    for row, (theirs, ours) in enumerate(zip(expected, actual, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b), None)
        if at is not None:
            gaps.append(float(scores[row, at, theirs[at]] - scores[row, at, ours[at]]))
    return max(gaps)
