"""From the arguments of a request to its place in the batch: checks, the encoder, keys and values of the source."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from conjoin.errors import GenerationError
from conjoin.generation import BeamSearch, Greedy, Sampling
from conjoin.torch.cpu.native.decode import Requests
from conjoin.torch.cpu.native.steps import read_sources
from conjoin.torch.generation.engine.job import Active, Job
from conjoin.torch.generation.engine.scorer import Details, Scorer
from conjoin.torch.generation.generate import Callers, Run
from conjoin.torch.generation.loop import Control
from conjoin.torch.generation.rows import Rows
from conjoin.torch.model.outputs import EncoderOutput
from conjoin.torch.model.route import kernels_of

MOST_ENCODED = 1024
"""Source tokens that are encoded between two steps of running requests."""


def checked(model: Any, inputs: dict[str, Any]) -> Run:
    """Check the arguments of a request.

    Raises:
        GenerationError: they cannot be honoured, or there are several sources.
    """
    keywords = dict(inputs)
    names = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer", "tokenizer")
    callers = Callers(*(keywords.pop(name, None) for name in (*names, "assistant_model")))
    run = Run.of(model, None, keywords.pop("generation_config", None), callers, keywords)
    if len(run.prompt) != 1:
        raise GenerationError(
            f"A request of {len(run.prompt)} sources; expected one.", hint="submit every source on its own."
        )
    return run


def may_join(run: Run) -> bool:
    """True if nothing about a request's kind stops it from running together with others; the kernels write at least one
    token, and a streamer is `generate`'s.
    """
    return (
        not run.request.outputs.as_dict
        and isinstance(run.request.mode, Greedy | BeamSearch | Sampling)
        and run.limits.max_length > run.limits.prompt
        and run.callers.streamer is None
    )


def prepare(model: Any, jobs: Sequence[Job]) -> int:
    """Encode the sources of the first job and of those behind it that share its passes; return their tokens.

    Afterwards each of them has its `active`, unless it must run alone. What a job raises is raised for the first one;
    others are left to their turn.
    """
    first, *others = jobs
    group, total = [first], _run(model, first).source_tokens
    if _shares_passes(_run(model, first)) and kernels_of(model.encoder) is not None:
        for job in others:
            if job.active is not None:
                continue
            try:
                run = _run(model, job)
            except Exception:  # it is raised in the job's turn
                continue
            if total + run.source_tokens > MOST_ENCODED or not (_shares_passes(run) and may_join(run)):
                break
            total += run.source_tokens
            group.append(job)
        if len(group) > 1:
            try:
                _encode_together(model, [_run(model, job) for job in group])
            except Exception:  # one of the sources is at fault, and says so in its own turn
                group, total = [first], _run(model, first).source_tokens
    for job in group:
        try:
            job.active = begin(job, _run(model, job))
        except Exception:
            if job is first:
                raise
    _read_together([job.active for job in group if job.active is not None])
    return total


def begin(job: Job, run: Run) -> Active | None:
    """Encode a request's source and prepare its search; None if it must run alone.

    Keys and values of the source are still to be read.
    """
    begun = native_search(run)
    if begun is None:
        return None
    control, requests = begun
    steps = run.readers[-1].steps
    assert steps is not None
    active = Active(job, run, control, requests, dtype=steps.dtype)
    if requests.scores.numel():
        copies = run.request.num_return_sequences
        active.rows = Rows(run.prompt.repeat_interleave(copies, 0), run.limits, copies)
        active.emitted = [0] * copies
        if job.seed is not None:
            active.generator = torch.Generator().manual_seed(job.seed)
    return active


def native_search(run: Run) -> tuple[Control, Requests] | None:
    """Return what the kernels need to run a request; None if they cannot."""
    if not may_join(run):
        return None
    if not run.is_encoded:
        run.encode()
    run.reads_later = True
    control = run.control()
    requests = run.native_requests(control) or run.native_requests(control, hands_out=True)
    return None if requests is None else (control, requests)


def scorer_of(run: Run, details: Details) -> Scorer:
    """Return what scores the tokens of one result of a request whose source is encoded."""
    return Scorer(run.model.decoder, run.sources, run.prompt, run.limits.max_length, details)


def _run(model: Any, job: Job) -> Run:
    if job.run is None:
        job.run = checked(model, job.inputs)
    return job.run


def _shares_passes(run: Run) -> bool:
    """True if a source is nothing but ids and a mask."""
    given = run.inputs
    return given.encoded is None and given.ids is not None and not given.keywords and not run.request.truncation


def _encode_together(model: Any, runs: list[Run]) -> None:
    """Give every call the encoder's output of its source; no bit of it depends on the others."""
    inputs = [run.inputs.with_mask(model.encoder.config) for run in runs]
    lengths = [each.source.shape[1] for each in inputs]
    shape = (len(runs), max(lengths))
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, (each, length) in enumerate(zip(inputs, lengths, strict=True)):
        ids[row, :length] = each.ids[0]
        mask[row, :length] = 1 if each.mask is None else each.mask[0]
    states = model.encoder(ids, mask).last_hidden_state
    for row, (run, each, length) in enumerate(zip(runs, inputs, lengths, strict=True)):
        run.inputs = replace(each, encoded=EncoderOutput(states[row : row + 1, :length]))


def _read_together(actives: list[Active]) -> None:
    """Compute the cross-attention's keys and values of several sources in one pass, where their caches are alike."""
    for dtype in {active.dtype for active in actives}:
        alike = [active.run.readers[-1].steps for active in actives if active.dtype == dtype]
        read_sources([steps for steps in alike if steps is not None])
