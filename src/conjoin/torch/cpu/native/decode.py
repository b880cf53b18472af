"""Decoding of requests by our kernels: many steps per call, without Python between them.

A request is one source and its hypotheses. `run` lets several advance together; what a request becomes does not
depend on the others.
"""

from collections.abc import Sequence
from ctypes import Structure, addressof, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu.clock import NativeSeconds, running
from conjoin.torch.cpu.native.checks import refuse
from conjoin.torch.cpu.native.layouts import CACHES, SOURCE
from conjoin.torch.cpu.native.library import library
from conjoin.torch.cpu.native.rules import Rule, rule_array
from conjoin.torch.cpu.native.stack import NativeStack

GREEDY, BEAMS, CALLER = range(3)
RUNNING, DONE, NO_TOKEN, NO_NUMBERS = range(4)
_LONG: dict[str, Any] = {"dtype": torch.long}
_FLOAT: dict[str, Any] = {"dtype": torch.float32}
_BOOL: dict[str, Any] = {"dtype": torch.bool}
"""What the kernels read and write, whatever PyTorch's default dtype is."""
_FIELDS = (
    *SOURCE, "mode", "state", "hypotheses", "prompt", "total", "limit", "cached", "tokens", "row_slots", "eos",
    "eos_count", "rules", "rule_count", "rule_source", "beam_rules", "beams", "scores",
)  # fmt: skip
REQUEST = np.dtype([(name, np.int64) for name in _FIELDS])
"""`Request` in decode.h; all fields have 8 bytes."""
_BEAMS = (
    "length", "ids", "spare_ids", "origins", "spare_origins", "scores", "finished_ids", "finished_origins",
    "finished_scores", "finished_lengths", "is_finished", "improvable", "done",
)  # fmt: skip
_STATE = np.dtype([(name, np.int64) for name in _BEAMS])
_EARLY: dict[bool | str, int] = {False: 0, True: 1, "never": 2}


class _BeamRules(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("beams", "candidates", "prompt", "max_length", "pad")),
        ("eos", c_void_p),
        ("eos_count", c_int64),
        ("length_penalty", c_double),
        ("early_stopping", c_int64),
    )


class _Call(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("stack", "requests", "seconds", "interrupt")),
        *((name, c_int64) for name in ("count", "most_steps", "until_all", "threads")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the tokens of a request are chosen.

    Args:
        limit: Tokens of a hypothesis at most, its prompt included.
        rules: Edit scores before tokens are chosen.
        num_beams: More than 1 searches with beams.
        hands_out: True if the caller chooses the tokens, by the scores after the rules.
        copies: Number of hypotheses, where the caller chooses.
    """

    prompt: int
    limit: int
    eos: tuple[int, ...]
    pad: int
    rules: Sequence[Rule] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    hands_out: bool = False
    copies: int = 1

    @property
    def rows(self) -> int:
        """Number of hypotheses."""
        return max(self.num_beams, self.copies)

    @property
    def candidates(self) -> int:
        """Number of continuations that a step of a beam search looks at."""
        return max(2, 1 + len(self.eos)) * self.num_beams


@dataclass(slots=True)
class Requests:
    """Requests of one search, and the memory of their hypotheses.

    Args:
        tokens: [B, L]: prompts, and what greedy search or the caller appends; [B, copies, L] with copies.
        finished: [B, N, L]: ids of finished beams, best first, padded after their ends.
        finished_scores, finished_lengths, is_finished: [B, N].
        scores: [B, copies, V], where the caller chooses.
    """

    entries: np.ndarray
    tokens: Int[Tensor, "B *any L"]
    finished: Int[Tensor, "B N L"]
    finished_scores: Float[Tensor, "B N"]
    finished_lengths: Int[Tensor, "B N"]
    is_finished: Tensor
    scores: Float[Tensor, "B C V"]
    _running: tuple[Tensor, Tensor, Tensor] | None = None
    _states: np.ndarray | None = None
    _held: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, sources: np.ndarray, prompts: Int[Tensor, "B P"], search: Search, vocab_size: int) -> "Requests":
        """Return requests that have read nothing yet.

        Args:
            sources: Entries of SOURCE_DTYPE that say where the caches are.
        """
        batch, rows, limit, beams = len(prompts), search.rows, search.limit, search.num_beams > 1
        if any(rule.sources is not None and rule.sources < batch for rule in search.rules):
            refuse("decode", prompts=prompts)
        entries = np.zeros(batch, REQUEST)
        for name in SOURCE:
            entries[name] = sources[name]
        tokens = torch.full((batch, 1 if beams else rows, limit), search.pad, **_LONG)
        tokens[:, :, : search.prompt] = prompts[:, None]
        slots, eos = torch.empty(batch, rows, **_LONG), torch.tensor(search.eos, **_LONG)
        kept = (batch, rows if beams else 0)
        requests = cls(
            entries,
            tokens,
            torch.empty(*kept, limit, **_LONG),
            torch.empty(kept, **_FLOAT),
            torch.empty(kept, **_LONG),
            torch.zeros(kept, **_BOOL),
            torch.empty(batch, rows if search.hands_out else 0, vocab_size, **_FLOAT),
        )
        entries["mode"] = BEAMS if beams else CALLER if search.hands_out else GREEDY
        entries["hypotheses"], entries["limit"] = rows, limit
        entries["prompt"] = entries["total"] = search.prompt
        entries["tokens"], entries["row_slots"] = _each(tokens), _each(slots)
        entries["eos"], entries["eos_count"] = eos.data_ptr(), len(eos)
        rules = rule_array(search.rules, vocab_size)
        entries["rules"], entries["rule_count"] = addressof(rules), len(search.rules)
        entries["rule_source"] = np.arange(batch)
        if search.hands_out:
            entries["scores"] = _each(requests.scores)
        requests._held += [slots, eos, rules, search.rules]
        if beams:
            requests._search_with_beams(search, eos)
        return requests

    def _search_with_beams(self, search: Search, eos: Tensor) -> None:
        batch, beams, limit = self.finished.shape
        rules = _BeamRules(
            beams=beams,
            candidates=search.candidates,
            prompt=search.prompt,
            max_length=limit,
            pad=search.pad,
            eos=eos.data_ptr(),
            eos_count=len(eos),
            length_penalty=search.length_penalty,
            early_stopping=_EARLY[search.early_stopping],
        )
        running, spare = torch.empty_like(self.finished), torch.empty_like(self.finished)
        scores, flags = torch.empty(batch, beams, **_FLOAT), torch.empty(batch, 2, **_BOOL)
        states = np.zeros(batch, _STATE)
        for name, tensor in (
            ("ids", running),
            ("spare_ids", spare),
            ("scores", scores),
            ("finished_ids", self.finished),
            ("finished_scores", self.finished_scores),
            ("finished_lengths", self.finished_lengths),
            ("is_finished", self.is_finished),
            ("improvable", flags),
        ):
            states[name] = _each(tensor)
        states["done"] = states["improvable"] + 1
        self.entries["beam_rules"] = addressof(rules)
        self.entries["beams"] = states.ctypes.data + np.arange(batch) * _STATE.itemsize
        self._running, self._states = (running, spare, scores), states
        self._held += [rules, flags]

    def running(self, source: int) -> tuple[Int[Tensor, "N L"], Float[Tensor, " N"]]:
        """Return the ids and scores of a source's running beams."""
        assert self._running is not None and self._states is not None
        ids, spare, scores = (tensor[source] for tensor in self._running)
        return (ids if int(self._states["ids"][source]) == ids.data_ptr() else spare), scores

    @property
    def has_beams(self) -> bool:
        """True for a beam search."""
        return self._running is not None

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Tokens of every request's hypotheses."""
        return torch.from_numpy(self.entries["total"].copy())

    @property
    def rows(self) -> int:
        """Hypotheses of all requests."""
        return int(self.entries["hypotheses"].sum())

    @property
    def addresses(self) -> list[int]:
        """Address of each request."""
        return (self.entries.ctypes.data + np.arange(len(self.entries)) * REQUEST.itemsize).tolist()


def run(
    stack: NativeStack,
    dtype: torch.dtype,
    addresses: Sequence[int],
    rows: int,
    *,
    steps: int = 2**62,
    until_all: bool = True,
    interrupt: c_int64 | None = None,
) -> int:
    """Advance requests together, and return the number of steps.

    Args:
        dtype: Of their caches.
        addresses: Of requests, whose memory the caller keeps.
        rows: Hypotheses of them all.
        steps: Return after so many.
        until_all: Go on until none runs; else return when one has stopped. Where the caller chooses tokens, or where a
            request has no token left, the call returns after the step.
        interrupt: Another thread that sets it to 1 lets the call return after the step.
    """
    array = (c_void_p * len(addresses))(*addresses)
    call = _Call(
        stack=stack.address,
        requests=addressof(array),
        interrupt=None if interrupt is None else addressof(interrupt),
        count=len(addresses),
        most_steps=steps,
        until_all=until_all,
        threads=stack.threads(rows, rows),
    )
    compiled, clock = library(), running()
    assert compiled is not None
    seconds = None if clock is None else NativeSeconds()
    call.seconds = None if seconds is None else addressof(seconds)
    function = compiled[f"conjoin_decode_{CACHES[dtype]}"]
    function.restype = c_int64
    taken: int = function(byref(call))
    if clock is not None and seconds is not None:
        clock.divide([*seconds])
    return taken


def _each(tensor: Tensor) -> np.ndarray:
    """Return the address of each entry of a contiguous tensor."""
    return tensor.data_ptr() + np.arange(len(tensor)) * (tensor.stride(0) * tensor.element_size())
