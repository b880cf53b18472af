"""Base classes and the list of logits processors, and the mapping from rows to sources that some need."""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.functional.ops import Processor
from conjoin.functional.processors import PROCESSORS
from conjoin.torch.cpu.native.rules import Rule, process_rows, rule_of
from conjoin.torch.cpu.native.select import selects
from conjoin.torch.generation.processors.ops import ops_on

TokenIds = int | list[int] | tuple[int, ...] | Tensor
"""One token id or several, as transformers accepts them."""


class LogitsProcessor:
    """Base of processors, which edit scores before a token is chosen (transformers' class of the same name)."""

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Return the edited scores; `scores` itself is not changed."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it edits scores: define __call__.")


class RowwiseProcessor(LogitsProcessor):
    """A processor whose result for a row depends on that row alone, so rows may leave between calls."""

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order; a processor without state per row does nothing."""


class LogitsProcessorList(list[Any]):
    """Processors that run one after another (transformers' class of the same name)."""

    def __call__(
        self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"], **extra: Any
    ) -> Float[Tensor, "R V"]:
        """Run all processors in order.

        Args:
            extra: Further arguments by name, passed to the processors that have parameters of these names.

        Raises:
            GenerationError: a processor requires an argument that is not in `extra`.
        """
        for processor in self:
            names = _extra_arguments(processor)
            missing = [name for name, is_required in names.items() if is_required and name not in extra]
            if missing:
                raise GenerationError(
                    f"{type(processor).__name__} wants {', '.join(missing)}, which this way of decoding does not give."
                )
            scores = processor(input_ids, scores, **{name: extra[name] for name in names if name in extra})
        return scores

    def edit(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"], **extra: Any) -> Float[Tensor, "R V"]:
        """Return what a call returns; `scores` may be changed."""
        if not selects(scores):
            return self(input_ids, scores, **extra)
        rules, sources = _leading_rules(self, len(scores))
        scores = scores.contiguous()
        process_rows(rules, input_ids, scores, sources)
        return LogitsProcessorList(self[len(rules) :])(input_ids, scores, **extra)

    @property
    def rows_may_leave(self) -> bool:
        """True if every processor supports that rows leave or change places."""
        return all(hasattr(processor, "select") for processor in self)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows of the previous call, in this order."""
        for processor in self:
            if hasattr(processor, "select"):
                processor.select(rows)

    def for_rows(self, rows: Int[Tensor, " r"]) -> Self:
        """Return copies of the processors for these rows only."""
        copies = type(self)(copy.copy(processor) for processor in self)
        copies.select(rows)
        return copies


def _extra_arguments(processor: Any) -> dict[str, bool]:
    """Return the parameters after ids and scores by name; True for those that are required."""
    if inspect.isfunction(processor) or inspect.ismethod(processor):
        return _parameters_from(processor, 2)
    return _extra_of_class(type(processor))


@lru_cache(maxsize=256)
def _extra_of_class(kind: Any) -> dict[str, bool]:
    return _parameters_from(kind.__call__, 3)


def _parameters_from(function: Any, first: int) -> dict[str, bool]:
    parameters = list(inspect.signature(function).parameters.values())[first:]
    return {each.name: each.default is each.empty for each in parameters}


@dataclass(frozen=True)
class SourceOfRow:
    """The source of each row of a call; the rows of one source are next to each other.

    Args:
        rows_per_source: Number of rows per source after the first step; None infers it from each call. A first
            step on one row per source works either way.
        kept: Indices of the rows that are left among num_sources * rows_per_source; None for all.
    """

    num_sources: int
    rows_per_source: int | None = None
    kept: Tensor | None = None

    def of(self, num_rows: int, device: torch.device) -> Int[Tensor, " R"]:
        """Return the source of each of `num_rows` rows."""
        if self.kept is not None:
            assert self.rows_per_source is not None and len(self.kept) == num_rows
            return self.kept.to(device) // self.rows_per_source
        return torch.arange(num_rows, device=device) // max(num_rows // self.num_sources, 1)

    def select(self, rows: Int[Tensor, " r"]) -> "SourceOfRow":
        """Return the mapping of these rows, when the others have left."""
        if self.rows_per_source is None:
            raise GenerationError("Rows cannot leave: the processor was not told rows_per_source.")
        return replace(self, kept=rows if self.kept is None else self.kept.to(rows.device)[rows])


class RuleProcessor(RowwiseProcessor):
    """A processor that conjoin.functional defines.

    Args:
        rule: Builds the processor from array operations, `arguments` and `known`, expanded to one row per row.
        known: Tensors with one row per source; None for optional ones that are missing.
        skipped: Number of leading tokens of each row that the processor does not see.
    """

    def __init__(
        self,
        rule: Callable[..., Processor],
        *arguments: Any,
        known: Sequence[Tensor | None] = (),
        rows_per_source: int | None = None,
        skipped: int = 0,
    ) -> None:
        self._rule, self._arguments, self._known, self._skipped = rule, arguments, known, skipped
        sources = next((len(each) for each in known if each is not None), None)
        self._source_of_row = None if sources is None else SourceOfRow(sources, rows_per_source)
        self._process: Processor | None = None
        self._built_for: tuple[torch.device, int | None] | None = None

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order."""
        if self._source_of_row is not None:
            self._source_of_row, self._built_for = self._source_of_row.select(rows), None

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if selects(scores) and self.native_rule is not None:
            edited = scores.clone(memory_format=torch.contiguous_format)
            process_rows([self.native_rule], input_ids, edited, self.sources(len(scores)))
            return edited
        input_ids = input_ids[:, self._skipped :]
        built_for = scores.device, None if self._source_of_row is None else len(scores)
        if self._process is None or self._built_for != built_for:
            self._process, self._built_for = self._build(len(scores), scores.device), built_for
        return self._process(input_ids, input_ids.shape[1], scores)

    @cached_property
    def native_rule(self) -> Rule | None:
        """The processor as kernels run it; None if they cannot."""
        if type(self).__call__ is not RuleProcessor.__call__ or PROCESSORS.get(self._rule.__name__) is not self._rule:
            return None
        return rule_of(self._rule.__name__, self._arguments, self._known, self._skipped)

    def sources(self, num_rows: int) -> Int[Tensor, " R"]:
        """Return the source of each row; 0 if the processor knows no sources."""
        if self._source_of_row is None:
            return torch.zeros(num_rows, dtype=torch.long)
        return self._source_of_row.of(num_rows, torch.device("cpu"))

    def _build(self, num_rows: int, device: torch.device) -> Processor:
        known = self._known
        if self._source_of_row is not None:
            source = self._source_of_row.of(num_rows, device)
            known = [None if each is None else each.to(device)[source] for each in known]
        return self._rule(ops_on(device), *self._arguments, *known)

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_process": None}  # its functions cannot be pickled
        state.pop("native_rule", None)
        return state


def _leading_rules(processors: Sequence[Any], num_rows: int) -> tuple[list[Rule], Int[Tensor, " R"]]:
    """Return the processors that kernels can run before the first that they cannot, and the source of each row."""
    rules: list[Rule] = []
    sources: Tensor | None = None
    for each in processors:
        rule = each.native_rule if isinstance(each, RuleProcessor) else None
        if rule is None:
            break
        if rule.sources is not None:
            own = each.sources(num_rows)
            if sources is not None and not torch.equal(sources, own):
                break  # it maps rows to sources in another way
            sources = own
        rules.append(rule)
    return rules, torch.zeros(num_rows, dtype=torch.long) if sources is None else sources


def as_tuple(ids: TokenIds) -> tuple[int, ...]:
    """Return one id or several as a tuple."""
    values = ids.tolist() if isinstance(ids, Tensor) else ids
    return (values,) if isinstance(values, int) else tuple(values)
