"""Evaluation: scores and how sure they are, texts in bulk, and the report of a run. Loads no framework by itself."""

from conjoin._lazy import public_dir
from conjoin.evaluation.evaluate import Evaluation, evaluate
from conjoin.evaluation.mbr import MBR
from conjoin.evaluation.metrics import DEFAULT_METRICS, TEXT_METRICS, Measure, measure_texts, metric_names, score
from conjoin.evaluation.resampling import Comparison, Estimate, compare, estimate
from conjoin.evaluation.texts import Failed, Generated, TextSettings, generate_outcomes, generate_stream, generate_texts
from conjoin.evaluation.utilities import UTILITIES, Utility, utility_matrix

__all__ = [
    "DEFAULT_METRICS",
    "MBR",
    "TEXT_METRICS",
    "UTILITIES",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Failed",
    "Generated",
    "Measure",
    "TextSettings",
    "Utility",
    "compare",
    "estimate",
    "evaluate",
    "generate_outcomes",
    "generate_stream",
    "generate_texts",
    "measure_texts",
    "metric_names",
    "score",
    "utility_matrix",
]

__dir__ = public_dir(__all__)
