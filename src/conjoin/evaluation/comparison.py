"""Several runs on the same pairs: what each scores, how sure the differences are, and where the texts differ."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from conjoin.errors import ConfigError, DataError, listing, shown
from conjoin.evaluation.evaluate import Evaluation, evaluate_texts
from conjoin.evaluation.metrics import Measure
from conjoin.evaluation.resampling import Comparison, Method
from conjoin.texts.sources import SourceFile

SORTS = ("chrf", "chrf++", "rougeL", "rougeLsum", "rouge1", "rouge2", "bleu", "ter", "exact_match")
"""Metrics by which texts are sorted, the best for single texts first."""


@dataclass(frozen=True, slots=True)
class Versus:
    """The differences between two runs.

    Args:
        first, second: Their names; `metrics` are second - first.
    """

    first: str
    second: str
    metrics: Sequence[Comparison]


@dataclass(frozen=True, slots=True)
class Difference:
    """A pair for which the runs wrote different texts.

    Args:
        index: Its place in the data, from 0.
        texts: What each run wrote.
        scores: Score of each text.
    """

    index: int
    source: str
    reference: str
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    high_is_good: bool

    @property
    def best(self) -> int | None:
        """The run whose text scores best; None if several do."""
        wanted = max(self.scores) if self.high_is_good else min(self.scores)
        winners = [run for run, score in enumerate(self.scores) if score == wanted]
        return winners[0] if len(winners) == 1 else None

    @property
    def spread(self) -> float:
        """Difference between the best score and the worst."""
        return max(self.scores) - min(self.scores)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Runs that were evaluated on the same pairs; the first is what the others are compared with.

    Args:
        names: Names of the runs, different ones.
        evaluations: Their evaluations, in the same order.

    Raises:
        ConfigError: fewer than two runs, equal names, or evaluations of different pairs.
    """

    names: Sequence[str]
    evaluations: Sequence[Evaluation]

    def __post_init__(self) -> None:
        """Check the runs."""
        if len(self.names) < 2 or len(self.names) != len(self.evaluations):
            raise ConfigError(f"{len(self.names)} runs to compare; expected two or more.")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"Two runs have one name: {', '.join(self.names)}.")
        for one, other in pairwise(self.evaluations):
            one.require_same_pairs(other)

    def versus(self, method: Method = "bootstrap") -> list[Versus]:
        """Test every run against the first, by paired bootstrap or approximate randomisation.

        With several runs, a p-value holds for its comparison alone: among 20 that differ by chance, one is below 0.05.
        """
        first = self.evaluations[0]
        return [
            Versus(self.names[0], name, first.compare(other, method=method))
            for name, other in zip(self.names[1:], self.evaluations[1:], strict=True)
        ]

    @property
    def different_texts(self) -> int:
        """Number of pairs for which not all runs wrote the same."""
        texts = zip(*(each.predictions for each in self.evaluations), strict=True)
        return sum(len(set(written)) > 1 for written in texts)

    def sort_metric(self, name: str | None = None) -> str:
        """Return the metric by which texts are sorted; see `sort_metric`."""
        return sort_metric([measure.name for measure in self.evaluations[0].measures], name)

    def differences(self, metric: str | None = None) -> list[Difference]:
        """Return the pairs for which not all runs wrote the same, those with the largest difference in score first.

        Args:
            metric: Metric that scores single texts; see `sort_metric`.
        """
        name = self.sort_metric(metric)
        measures = [next(m for m in each.measures if m.name == name) for each in self.evaluations]
        scores = [single_scores(measure) for measure in measures]
        first = self.evaluations[0]
        found = [
            Difference(
                index=row,
                source=first.sources[row],
                reference=first.references[row],
                texts=texts,
                scores=tuple(float(each[row]) for each in scores),
                high_is_good=measures[0].high_is_good,
            )
            for row, texts in enumerate(zip(*(each.predictions for each in self.evaluations), strict=True))
            if len(set(texts)) > 1
        ]
        return sorted(found, key=lambda each: (-each.spread, each.index))

    def to_dict(self, method: Method = "bootstrap") -> dict[str, Any]:
        """Return scores with intervals, and comparisons, as `conjoin compare --json` prints them."""
        return {
            "pairs": len(self.evaluations[0].references),
            "runs": [
                {"name": name, "scores": result.to_dict()["scores"]}
                for name, result in zip(self.names, self.evaluations, strict=True)
            ],
            "test": method,
            "comparisons": [
                {"first": each.first, "second": each.second, "metrics": [asdict(row) for row in each.metrics]}
                for each in self.versus(method)
            ],
            "different_texts": self.different_texts,
        }


def sort_metric(computed: Sequence[str], name: str | None = None) -> str:
    """Return the metric by which texts are sorted: the named one, or the best for single texts of those computed.

    Raises:
        ConfigError: it is not computed or scores no single texts, or no such metric is computed.
    """
    known = [each for each in SORTS if each in computed]
    if not known or (name is not None and name not in known):
        wanted = "Texts cannot be sorted" + ("" if name is None else f" by {shown(name)}")
        raise ConfigError(
            f"{wanted}; expected one of {', '.join(known or SORTS)}.",
            hint=None if known else f"compute one of them too: --metrics {SORTS[0]}",
        )
    return known[0] if name is None else name


def single_scores(measure: Measure) -> Float[np.ndarray, "n"]:
    """Return the score of every pair on its own."""
    finish: Callable[[Any], float] = measure.finish
    return np.array([finish(row) for row in measure.rows])


def read_run(
    path: str | os.PathLike[str],
    sources: Sequence[str],
    references: Sequence[str],
    *,
    metrics: str | Sequence[str],
    column: str = "prediction",
    source_column: str = "source",
    limit: int | None = None,
) -> Evaluation:
    """Evaluate texts that a run wrote, in the order of the pairs.

    Args:
        path: What `conjoin generate` or `conjoin evaluate --predictions` wrote (.jsonl, .csv, .tsv or .parquet), or a
            file with one text per line.
        column: Column of the texts.
        source_column: Column of the sources; where the file has it, it must hold the sources of the pairs.
        limit: Use only the first texts.

    Raises:
        DataError: the file cannot be read, or does not hold one text for every pair.
    """
    file = SourceFile.of(str(path), None, column, "--prediction-column")
    file.check()
    rows = [(text, row.get(source_column)) for text, row in file.rows()][:limit]
    if len(rows) != len(sources):
        raise DataError(f"{path} holds {len(rows):,} texts, and there are {len(sources):,} pairs; expected as many.")
    apart = [
        f"text {number}: {_shortened(source)} instead of {_shortened(expected)}"
        for number, ((_, source), expected) in enumerate(zip(rows, sources, strict=True), 1)
        if isinstance(source, str) and source != expected and file.kind != "text"
    ]
    if apart:
        raise DataError(f"{path} holds the texts of other sources:\n{listing(apart)}")
    return evaluate_texts([text for text, _ in rows], sources, references, metrics=metrics)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
