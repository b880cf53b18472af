"""Evaluation: scores and how sure they are, texts in bulk, and the report of a run. Loads no framework by itself."""

from conjoin._lazy import public_dir
from conjoin.evaluation.evaluate import Evaluation, evaluate
from conjoin.evaluation.metrics import DEFAULT_METRICS, TEXT_METRICS, Measure, measure_texts, metric_names, score
from conjoin.evaluation.resampling import Comparison, Estimate, compare, estimate
from conjoin.evaluation.texts import Failed, Generated, TextSettings, generate_outcomes, generate_stream, generate_texts

__all__ = [
    "DEFAULT_METRICS",
    "TEXT_METRICS",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Failed",
    "Generated",
    "Measure",
    "TextSettings",
    "compare",
    "estimate",
    "evaluate",
    "generate_outcomes",
    "generate_stream",
    "generate_texts",
    "measure_texts",
    "metric_names",
    "score",
]

__dir__ = public_dir(__all__)
