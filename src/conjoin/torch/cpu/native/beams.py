"""Beam search as kernels: the candidates of a step, and what becomes of the beams."""

from collections.abc import Sequence
from ctypes import Structure, c_double, c_int, c_int64, c_void_p, pointer
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.torch.cpu.native.checks import on_cpu, refuse
from conjoin.torch.cpu.native.kernels import compiled_function
from conjoin.torch.cpu.native.select import rows_of

_EARLY_STOPPING: dict[bool | str, int] = {False: 0, True: 1, "never": 2}


class _Rules(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("beams", "candidates", "prompt", "max_length", "pad")),
        ("eos", c_void_p),
        ("eos_count", c_int64),
        ("length_penalty", c_double),
        ("early_stopping", c_int64),
    )


class BeamTensors(NamedTuple):
    """State of the searches of B sources, in the order of native/beams.h; steps change it in place.

    Args:
        spare_ids, spare_origins: Where a step writes the ids and origins of the beams that go on.
        origins: None if they are not traced, as the other origins.
    """

    ids: Int[Tensor, "B N L"]
    spare_ids: Int[Tensor, "B N L"]
    origins: Int[Tensor, "B N O"] | None
    spare_origins: Int[Tensor, "B N O"] | None
    scores: Float[Tensor, "B N"]
    finished_ids: Int[Tensor, "B N L"]
    finished_origins: Int[Tensor, "B N O"] | None
    finished_scores: Float[Tensor, "B N"]
    finished_lengths: Int[Tensor, "B N"]
    is_finished: Bool[Tensor, "B N"]
    improvable: Bool[Tensor, "B 1"]
    done: Bool[Tensor, " B"]


class _State(Structure):
    _fields_ = (("length", c_int64), *((name, c_void_p) for name in BeamTensors._fields))


class _Candidates(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("values", "parents", "tokens"))


class NativeBeams:
    """Settings of a beam search, and its steps.

    Args:
        candidates: Continuations of a source that a step looks at.
    """

    def __init__(
        self,
        *,
        num_beams: int,
        candidates: int,
        prompt: int,
        max_length: int,
        pad: int,
        eos: Sequence[int],
        length_penalty: float,
        early_stopping: bool | Literal["never"],
    ) -> None:
        self._eos = torch.tensor(eos, dtype=torch.int64)
        self._rules = _Rules(num_beams, candidates, prompt, max_length, pad, self._eos.data_ptr(), len(eos))
        self._rules.length_penalty = length_penalty
        self._rules.early_stopping = _EARLY_STOPPING[early_stopping]

    def candidates(
        self, state: BeamTensors, length: int, scores: Float[Tensor, "R V"], *, raw: bool
    ) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B C"], Int[Tensor, "B C"]]:
        """Return the best continuations of each source: scores, parent beams and tokens.

        Args:
            length: Tokens of the running hypotheses.
            scores: One row per beam, or one per source.
            raw: True if they are not log-probabilities yet.
        """
        scores = rows_of("find_candidates", scores).contiguous()
        batch, beams = state.scores.shape
        rows, vocab_size = len(scores), scores.shape[1]
        if rows not in (batch, batch * beams):
            refuse("find_candidates", scores=scores, beams=state.scores)
        count = min(self._rules.candidates, beams * vocab_size)
        few = min(count, vocab_size)
        row_values, row_tokens = scores.new_empty(rows, few), torch.empty(rows, few, dtype=torch.int64)
        values = scores.new_empty(batch, count)
        parents, tokens = torch.empty(2, batch, count, dtype=torch.int64)
        if not batch:
            return values, parents, tokens
        found = _Candidates(values.data_ptr(), parents.data_ptr(), tokens.data_ptr())
        types = (*(c_void_p,) * 2, c_int64, c_void_p, c_int64, c_int64, c_int, *(c_void_p,) * 3, c_int)
        compiled_function("conjoin_find_candidates", *types)(
            pointer(self._rules),
            pointer(self._state(state, length)),
            batch,
            scores.data_ptr(),
            rows // batch,
            vocab_size,
            raw,
            row_values.data_ptr(),
            row_tokens.data_ptr(),
            pointer(found),
            torch.get_num_threads(),
        )
        return values, parents, tokens

    def advance(
        self,
        state: BeamTensors,
        length: int,
        values: Float[Tensor, "B C"],
        parents: Int[Tensor, "B C"],
        tokens: Int[Tensor, "B C"],
        stops: Bool[Tensor, "B C"] | None = None,
        rank: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"], Int[Tensor, "B N"]]:
        """Extend, finish and drop hypotheses.

        Args:
            length: Tokens of the running hypotheses before this step.
            stops: True for candidates that a stopping criterion ends.
            rank: The candidates that go on; None for the best that do not end.

        Returns:
            The parents of the beams as rows of the batch, their next tokens, and the tokens that were chosen before the
            length limit, -1 where none was.
        """
        batch, beams = state.scores.shape
        count = values.shape[1]
        values, parents, tokens = values.contiguous(), parents.contiguous(), tokens.contiguous()
        stops, rank = (None if each is None else each.contiguous() for each in (stops, rank))
        fits = values.dtype == torch.float32 and parents.dtype == tokens.dtype == torch.int64
        fits = fits and values.shape == parents.shape == tokens.shape and on_cpu(parents, tokens, stops, rank)
        if not (fits and length < self._rules.max_length and _is_below(parents, beams) and _is_below(rank, count)):
            refuse("advance_beams", values=values, parents=parents, tokens=tokens, stops=stops, rank=rank)
        candidates = _Candidates(values.data_ptr(), parents.data_ptr(), tokens.data_ptr())
        next_parents, next_tokens, words = torch.empty(3, batch, beams, dtype=torch.int64)
        types = (*(c_void_p,) * 2, c_int64, c_void_p, c_int64, *(c_void_p,) * 5)
        compiled_function("conjoin_advance_beams", *types)(
            pointer(self._rules),
            pointer(self._state(state, length)),
            batch,
            pointer(candidates),
            count,
            None if stops is None else stops.data_ptr(),
            None if rank is None else rank.data_ptr(),
            next_parents.data_ptr(),
            next_tokens.data_ptr(),
            words.data_ptr(),
        )
        return next_parents, next_tokens, words

    def _state(self, state: BeamTensors, length: int) -> _State:
        batch = len(state.scores)
        beams, longest = (batch, self._rules.beams), self._rules.max_length
        ids, origins = (*beams, longest), (*beams, longest - self._rules.prompt)
        shapes = (ids, ids, origins, origins, beams, ids, origins, beams, beams, beams, (batch, 1), (batch,))
        for tensor, shape in zip(state, shapes, strict=True):
            if tensor is not None and not (tensor.shape == shape and tensor.is_contiguous() and tensor.is_cpu):
                refuse("beams", **state._asdict())
        return _State(length, *(None if tensor is None else tensor.data_ptr() for tensor in state))


def _is_below(index: Tensor | None, count: int) -> bool:
    """True if all indices are in [0, count)."""
    if index is None or not index.numel():
        return True
    lowest, highest = index.aminmax()
    return int(lowest) >= 0 and int(highest) < count
