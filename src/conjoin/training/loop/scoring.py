"""Metrics of texts, from the evaluation room; imported when asked for, since their packages are an extra."""

from collections.abc import Sequence


def wanted_metrics(asked: str) -> list[str]:
    """Check names of metrics before a run depends on them.

    Raises:
        ConjoinError: unknown ones.
    """
    if not asked:
        return []
    from conjoin.evaluation.metrics import metric_names

    return metric_names(asked)


def score_texts(asked: str, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Metric -> value."""
    from conjoin.evaluation.metrics import score

    return dict(score(asked, predictions, references))
