"""How logits processors are called, and how those that know the sources follow their rows."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.functional.ops import Processor
from conjoin.torch.generation.processors.ops import ops_on

TokenIds = int | list[int] | tuple[int, ...] | Tensor
"""One id or several, as transformers takes them."""


class LogitsProcessor:
    """Base of what edits scores before a token is chosen (transformers' class of the same name)."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Scores after the edit; the given ones stay as they are."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it edits scores: define __call__.")


class RowwiseProcessor(LogitsProcessor):
    """A processor whose result for a row depends on that row alone, so rows may leave between calls."""

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order; nothing to do where nothing is known of rows."""


class LogitsProcessorList(list[Any]):
    """Processors that run one after another (transformers' class of the same name)."""

    def __call__(
        self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"], **extra: Any
    ) -> Float[Tensor, "R V"]:
        """Run all of them.

        Args:
            extra: Given to processors that name more arguments than these two; what is missing keeps its default.

        Raises:
            GenerationError: a processor names an argument that is not there.
        """
        for processor in self:
            names = _extra_arguments(processor)
            missing = [name for name, needed in names.items() if needed and name not in extra]
            if missing:
                raise GenerationError(
                    f"{type(processor).__name__} wants {', '.join(missing)}, which this way of decoding does not give."
                )
            scores = processor(input_ids, scores, **{name: extra[name] for name in names if name in extra})
        return scores

    @property
    def rows_may_leave(self) -> bool:
        """Whether every processor can follow when rows leave or change places."""
        return all(hasattr(processor, "select") for processor in self)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows of the call before, in this order."""
        for processor in self:
            if hasattr(processor, "select"):
                processor.select(rows)

    def for_rows(self, rows: Int[Tensor, " r"]) -> Self:
        """Processors for these rows only; this list stays as it is."""
        fewer = type(self)(copy.copy(processor) for processor in self)
        fewer.select(rows)
        return fewer


def _extra_arguments(processor: Any) -> dict[str, bool]:
    """The arguments behind ids and scores, and which of them must be given."""
    if inspect.isfunction(processor) or inspect.ismethod(processor):
        return _named(processor, 2)
    return _extra_of_class(type(processor))


@lru_cache(maxsize=256)
def _extra_of_class(kind: Any) -> dict[str, bool]:
    return _named(kind.__call__, 3)


def _named(function: Any, first: int) -> dict[str, bool]:
    parameters = list(inspect.signature(function).parameters.values())[first:]
    return {each.name: each.default is each.empty for each in parameters}


@dataclass(frozen=True)
class SourceOfRow:
    """Which source each row of a call belongs to: rows of one source stand side by side.

    Args:
        rows_per_source: Rows of a source once all run; None takes it from each call. A first step that runs one row
            per source is understood either way.
        kept: Rows that are left, counted among num_sources * rows_per_source; None for all.
    """

    num_sources: int
    rows_per_source: int | None = None
    kept: Tensor | None = None

    def of(self, num_rows: int, device: torch.device) -> Int[Tensor, " R"]:
        """The source of each of `num_rows` rows."""
        if self.kept is not None:
            assert self.rows_per_source is not None and len(self.kept) == num_rows
            return self.kept.to(device) // self.rows_per_source
        return torch.arange(num_rows, device=device) // max(num_rows // self.num_sources, 1)

    def select(self, rows: Int[Tensor, " r"]) -> "SourceOfRow":
        """Where rows belong once only these are left."""
        if self.rows_per_source is None:
            raise GenerationError("Rows cannot leave: the processor was not told rows_per_source.")
        return replace(self, kept=rows if self.kept is None else self.kept.to(rows.device)[rows])


class RuleProcessor(RowwiseProcessor):
    """A processor whose rule is one of conjoin.functional's.

    Args:
        rule: Makes the processor, of operations, the arguments, and what is known of the source of each row.
        known: What is known, one row per source; parts of it may be missing.
    """

    def __init__(
        self,
        rule: Callable[..., Processor],
        *arguments: Any,
        known: Sequence[Tensor | None] = (),
        rows_per_source: int | None = None,
    ) -> None:
        self._rule, self._arguments, self._known = rule, arguments, known
        sources = next((len(each) for each in known if each is not None), None)
        self._source_of_row = None if sources is None else SourceOfRow(sources, rows_per_source)
        self._process: Processor | None = None
        self._made_for: tuple[torch.device, int | None] | None = None

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order."""
        if self._source_of_row is not None:
            self._source_of_row, self._made_for = self._source_of_row.select(rows), None

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        made_for = scores.device, None if self._source_of_row is None else len(scores)
        if self._process is None or self._made_for != made_for:
            self._process, self._made_for = self._made(len(scores), scores.device), made_for
        return self._process(input_ids, input_ids.shape[1], scores)

    def _made(self, num_rows: int, device: torch.device) -> Processor:
        known = self._known
        if self._source_of_row is not None:
            source = self._source_of_row.of(num_rows, device)
            known = [None if each is None else each.to(device)[source] for each in known]
        return self._rule(ops_on(device), *self._arguments, *known)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None}  # its functions cannot be pickled


def as_tuple(ids: TokenIds) -> tuple[int, ...]:
    """Ids as transformers takes them, as a tuple."""
    plain = ids.tolist() if isinstance(ids, Tensor) else ids
    return (plain,) if isinstance(plain, int) else tuple(plain)
