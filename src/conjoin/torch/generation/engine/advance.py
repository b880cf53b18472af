"""What happens to a request between two steps: tokens that the caller draws, who is told, its result."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.generation import FORBIDDEN, Sampling
from conjoin.torch.cpu.native.decode import DONE, NO_TOKEN
from conjoin.torch.generation.engine.job import Active, Job, Outcome, Progress
from conjoin.torch.generation.engine.requests import scorer_of
from conjoin.torch.generation.engine.scorer import TokenScore
from conjoin.torch.generation.generate import Run, generate
from conjoin.torch.generation.loops.native import result_of
from conjoin.torch.generation.loops.sample import pick_best, pick_randomly
from conjoin.torch.generation.streamers import stable_prefix


def draw(active: Active) -> None:
    """Choose a token for every hypothesis of a request, as `sample` does."""
    rows, entry, control = active.rows, active.requests.entries, active.control
    assert rows is not None
    try:
        scores = control.processed(rows.ids, active.requests.scores[0], ~rows.ended)
        if isinstance(active.run.request.mode, Sampling):
            tokens = pick_randomly(scores, rows, control.watch, active.generator)
        else:
            tokens = pick_best(scores, rows, control.watch)
        tokens = rows.add(tokens)
        control.put(tokens)
        rows.end(tokens, control.stopped(rows.ids))
    except Exception as error:  # of the caller's own processors and criteria, too
        active.job.error = error
        entry["state"] = NO_TOKEN
        return
    active.requests.tokens[0, :, rows.length - 1] = tokens
    entry["total"] = rows.length
    if rows.at_limit or rows.all_ended:
        control.end_stream()
        entry["state"] = DONE


def emit(active: Active) -> None:
    """Pass on the tokens that became certain, if anybody follows the request."""
    if not active.job.listeners:
        return
    try:
        _tell(active)
    except Exception as error:  # belongs to this request alone
        active.job.error = error


def _tell(active: Active) -> None:
    for row, (known, guess) in enumerate(_known(active)):
        new = known[active.emitted[row] :].tolist()
        if new or guess:
            active.emitted[row] += len(new)
            active.job.tell(Progress(row=row, tokens=new, guess=guess, scores=_scores(active, row, new)))


def _known(active: Active) -> list[tuple[Int[Tensor, " t"], list[int]]]:
    """Return, for each result that can be followed, its certain tokens and the guess behind them."""
    requests, prompt, length = active.requests, active.run.limits.prompt, active.length
    if active.rows is not None:
        ends = [_end(row, active) for row in active.rows.ids]
        return [(row[prompt:end], []) for row, end in zip(active.rows.ids, ends, strict=True)]
    if active.run.request.num_beams == 1:
        return [(requests.tokens[0, 0, prompt:length], [])]
    if not active.is_running:
        return [(requests.finished[0, 0, prompt : int(requests.finished_lengths[0, 0])], [])]
    ids, scores = requests.running(0)
    running = ids[scores > FORBIDDEN][:, :length]
    if not len(running):
        return []
    best = [requests.finished[0, 0, : int(requests.finished_lengths[0, 0])]] * bool(requests.is_finished[0, 0])
    certain = stable_prefix(running, best)
    return [(running[0, prompt:certain], running[0, certain:].tolist())]


def _end(row: Tensor, active: Active) -> int:
    """Return where a row ends: behind its first end id, or at its length."""
    prompt = active.run.limits.prompt
    for place, token in enumerate(row[prompt:].tolist(), prompt + 1):
        if token in active.run.limits.eos:
            return place
    return len(row)


def _scores(active: Active, row: int, tokens: list[int]) -> list[TokenScore] | None:
    if active.job.details is None:
        return None
    while len(active.scorers) <= row:
        active.scorers.append(scorer_of(active.run, active.job.details))
    return active.scorers[row].read(tokens)


def hand_out(active: Active) -> None:
    """Give a request that has stopped its result, or its error."""
    job = active.job
    error = job.error
    if error is None:
        try:
            outcome = _outcome(active)
            job.finish(outcome.sequences, outcome=outcome)
            return
        except Exception as problem:  # no token left, or a fault: either belongs to this request alone
            error = problem
    job.finish(None, error)


def _outcome(active: Active) -> Outcome:
    run = active.run
    if active.rows is not None:
        sequences, scores = active.rows.result(), None
    else:
        decoded = result_of(active.requests, active.control, run.request.num_return_sequences)
        sequences, scores = decoded.sequences, decoded.scores
    with torch.inference_mode(False):  # the caller may use the ids in training
        sequences, scores = sequences.clone(), None if scores is None else scores.clone()
    return outcome_of(active.job, run, sequences, scores, active)


def outcome_of(job: Job, run: Run, sequences: Tensor, scores: Tensor | None, active: Active | None) -> Outcome:
    """Return a request's outcome, its tokens scored if that was asked for."""
    limits = run.limits
    outcome = Outcome(
        sequences=sequences,
        scores=scores,
        prompt=limits.prompt,
        limit=limits.max_length,
        eos=limits.eos,
        times=job.times,
    )
    if job.details is None:
        return outcome
    known = [] if active is None else active.scorers
    scored: list[list[TokenScore]] = []
    for row in range(len(sequences)):
        tokens = outcome.tokens(row)
        scorer = known[row] if row < len(known) else scorer_of(run, job.details)
        scored.append([*scorer.scores, *scorer.read(tokens[len(scorer.scores) :])])
    return replace(outcome, details=scored)


def run_alone(model: Any, job: Job, run: Run) -> None:
    """Run a request that cannot join, to its end; one that is given up meanwhile stops after the step that it is in."""
    inputs = dict(job.inputs)
    inputs["stopping_criteria"] = [*(inputs.get("stopping_criteria") or ()), lambda ids, _: _given_up(job, ids)]
    try:
        with torch.inference_mode(False), torch.random.fork_rng(enabled=job.seed is not None):
            if job.seed is not None:
                torch.manual_seed(job.seed)
            result = generate(model, **inputs)
        if job.cancelled is not None:
            raise job.cancelled
        sequences = result if isinstance(result, Tensor) else result.sequences
        assert sequences is not None
        if job.details is not None and not run.is_encoded:
            run.encode()
        outcome = outcome_of(job, run, sequences, getattr(result, "sequences_scores", None), None)
    except Exception as error:
        job.finish(None, error)
        return
    for row in range(len(sequences)):
        scores = None if outcome.details is None else outcome.details[row]
        job.tell(Progress(row=row, tokens=outcome.tokens(row), scores=scores))
    job.finish(result, outcome=outcome)


def _given_up(job: Job, ids: Tensor) -> Tensor:
    return torch.full((len(ids),), job.cancelled is not None, device=ids.device)
