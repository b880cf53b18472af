"""A checked request of generate as what the decoding loops follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from conjoin import spec
from conjoin.errors import GenerationError
from conjoin.functional.beams import BeamRules
from conjoin.functional.inputs import bucket
from conjoin.functional.ops import Array, Ops
from conjoin.functional.processors import ProcessorContext, check_plan
from conjoin.generation import (
    BeamSampling,
    BeamSearch,
    Greedy,
    ProcessorSpec,
    Request,
    Sampling,
)


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How targets are decoded; programs are compiled for it.

    Args:
        beams: None without beams.
        copies: Hypotheses per source without beams.
        draws: Whether tokens are drawn.
        room: Positions reserved; the longest length itself is told when the program runs.
        callers: The caller's own processors.
    """

    beams: BeamRules | None
    copies: int
    draws: bool
    room: int
    eos: tuple[int, ...]
    pad: int
    plan: tuple[ProcessorSpec, ...]
    callers: tuple[Callable[..., Any], ...] = ()

    @property
    def rows(self) -> int:
        """Rows that are written per source."""
        return self.copies if self.beams is None else self.beams.num_beams

    def context(self, ops: Ops, batch: Mapping[str, Array], source_mask: Array | None) -> ProcessorContext:
        """What processors know of a batch, for every row that is written.

        Args:
            source_mask: [B, S], True at real source tokens.
        """
        prompt_mask = batch.get("prompt_mask")

        def rows(x: Array | None) -> Array | None:
            return None if x is None else ops.repeat(x, self.rows)

        return ProcessorContext(
            source_ids=rows(batch.get("input_ids")),
            source_mask=rows(source_mask),
            first=rows(None if prompt_mask is None else ops.argmax(prompt_mask)[:, None]),
            callers=self.callers,
        )


def decode_settings(
    request: Request, decoder: spec.StackSpec, multiple: int, callers: tuple[Callable[..., Any], ...], backend: str
) -> DecodeSettings:
    """How the targets of a request are decoded.

    Args:
        multiple: The room is a multiple of it.
        backend: Its name, for errors.

    Raises:
        GenerationError: the request asks for what a compiled program does not do.
    """
    _check(request, backend)
    plan, mode = request.plan, request.mode
    check_plan(plan)
    pad, limit = request.tokens.pad, decoder.max_positions
    beams = None
    if isinstance(mode, BeamSearch | BeamSampling):
        beams = BeamRules(
            num_beams=mode.num_beams, length_penalty=mode.length_penalty, early_stopping=mode.early_stopping
        )
    return DecodeSettings(
        beams=beams,
        copies=1 if beams else request.num_return_sequences,
        draws=isinstance(mode, Sampling | BeamSampling),
        room=bucket(request.lengths.longest, multiple, None if limit is None else limit + 1),
        eos=request.tokens.eos,
        pad=0 if pad is None else pad,
        plan=plan,
        callers=callers,
    )


def _check(request: Request, backend: str) -> None:
    """Refuse what a compiled program does not do.

    Raises:
        GenerationError: naming all of it.
    """
    wrong: list[str] = []
    if not isinstance(request.mode, Greedy | Sampling | BeamSearch | BeamSampling):
        wrong.append(f"{type(request.mode).__name__} (greedy, sampling, beam search and beam sampling are there)")
    wrong += [
        name
        for name, asked in {
            "max_time": request.max_time_s is not None,
            "stop_strings": bool(request.stop_strings),
            "output_scores": request.outputs.scores,
            "output_logits": request.outputs.logits,
            "output_attentions": request.outputs.attentions,
            "output_hidden_states": request.outputs.hidden_states,
            "cache_implementation='quantized'": request.cache == "quantized",
        }.items()
        if asked
    ]
    if wrong:
        raise GenerationError(
            f"Not possible on {backend}, where generation is one compiled program: {', '.join(wrong)}.",
            hint="the PyTorch model of the same checkpoint does it.",
        )
