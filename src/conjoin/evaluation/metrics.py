"""Scores of texts and tokens, each kept as one row of statistics per pair, so that any subset of pairs can be scored.

Scores are in percent, except `loss` (nats per token). Higher is better, except for `loss` and `ter`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from conjoin.errors import ConfigError, MissingBackend, warn

Scores = dict[str, float]
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SACREBLEU = ("bleu", "chrf", "chrf++", "ter")
TEXT_METRICS = (*ROUGE, *SACREBLEU, "exact_match")
GROUPS = {"rouge": ROUGE}
DEFAULT_METRICS = ("exact_match", "bleu", "chrf", "rouge")
LOW_IS_GOOD = ("loss", "ter")


@dataclass(frozen=True, slots=True)
class Measure:
    """A score of a corpus, with the statistics of each pair.

    Args:
        name: Name of the metric.
        rows: Statistics of every pair; sum the rows of the pairs to score.
        finish: Computes the score from the summed rows.
        signature: Options of the computation in sacrebleu's form; "" if there are none.
    """

    name: str
    rows: Float[np.ndarray, "n k"]
    finish: Callable[[Float[np.ndarray, "k"]], float]
    signature: str = ""

    @property
    def value(self) -> float:
        """The score of all pairs."""
        return self.finish(self.rows.sum(0))

    @property
    def high_is_good(self) -> bool:
        """True if higher is better."""
        return self.name not in LOW_IS_GOOD


def metric_names(metrics: str | Sequence[str]) -> list[str]:
    """Return the names of metrics: "rouge" stands for four, and a string may hold several, separated by commas.

    Raises:
        ConfigError: names are unknown; the error lists them all, and the known ones.
    """
    listed = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
    names = [name for group in listed if group for name in GROUPS.get(group, (group,))]
    unknown = [name for name in names if name not in TEXT_METRICS]
    if unknown:
        raise ConfigError(
            f"No metric is called {', '.join(map(repr, unknown))}.\nExpected any of: rouge, {', '.join(TEXT_METRICS)}."
        )
    return list(dict.fromkeys(names))


def score(metrics: str | Sequence[str], predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """Return the scores of predictions by name, as an evaluation during training logs them.

    Raises:
        ConfigError: metrics are unknown, or the lists differ in length.
        MissingBackend: rouge-score or sacrebleu is not installed.
    """
    return {measure.name: measure.value for measure in measure_texts(metrics, predictions, references)}


def measure_texts(metrics: str | Sequence[str], predictions: Sequence[str], references: Sequence[str]) -> list[Measure]:
    """Compare predictions with references by every metric.

    Raises:
        ConfigError: metrics are unknown, there are no pairs, or the lists differ in length.
        MissingBackend: rouge-score or sacrebleu is not installed.
    """
    names = metric_names(metrics)
    if not predictions or len(predictions) != len(references):
        raise ConfigError(
            f"{len(predictions)} predictions for {len(references)} references; expected as many, and some."
        )
    measures = _rouge([name for name in names if name in ROUGE], predictions, references)
    measures |= {name: _sacrebleu(name, predictions, references) for name in names if name in SACREBLEU}
    if "exact_match" in names:
        matches = [p.strip() == r.strip() for p, r in zip(predictions, references, strict=True)]
        measures["exact_match"] = mean_measure("exact_match", np.array(matches, float))
    return [measures[name] for name in names]


def mean_measure(name: str, values: Float[np.ndarray, "n"], signature: str = "") -> Measure:
    """Return a score that is the mean of one value per pair (1.0 = 100 %)."""
    return Measure(name, np.stack((values, np.ones(len(values))), 1), _percent, signature)


def token_measures(
    nll: Float[np.ndarray, "n"], correct: Float[np.ndarray, "n"], counted: Float[np.ndarray, "n"]
) -> list[Measure]:
    """Return loss and token accuracy over the labels of all pairs; long targets weigh more, as in training.

    Args:
        nll: Negative log-likelihood of each target, summed over its labels.
        correct: Number of labels that the model scores highest, given the true labels before them.
        counted: Number of labels of each target.
    """
    return [
        Measure("loss", np.stack((nll, counted), 1), _ratio),
        Measure("token_accuracy", np.stack((correct, counted), 1), _percent),
    ]


def _ratio(total: Float[np.ndarray, "2"]) -> float:
    return float(total[0] / max(total[1], 1.0))


def _percent(total: Float[np.ndarray, "2"]) -> float:
    return 100 * _ratio(total)


def _rouge(names: list[str], predictions: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """Return F-measures with Porter's stemmer, as papers report them; rougeLsum needs one sentence per line."""
    if not names:
        return {}
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingBackend("ROUGE needs rouge-score: pip install 'conjoin[train]'") from None
    _warn_of_ignored_letters(references)
    scorer: Any = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
    return {
        name: mean_measure(name, np.array([each[name].fmeasure for each in scores], float), "stemmer:porter")
        for name in names
    }


def _warn_of_ignored_letters(references: Sequence[str]) -> None:
    letters = [letter for text in references for letter in text if letter.isalpha()]
    dropped = sum(not letter.isascii() for letter in letters)
    if dropped > 0.05 * len(letters):
        warn(
            f"ROUGE counts a to z and 0 to 9 only, and {100 * dropped / len(letters):.0f} % of the letters in the "
            "references are others. chrf counts every letter."
        )


def _sacrebleu(name: str, predictions: Sequence[str], references: Sequence[str]) -> Measure:
    """Return sacrebleu's statistics per sentence, whose sum gives its corpus score."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ImportError:
        raise MissingBackend(f"{name} needs sacrebleu: pip install 'conjoin[train]'") from None
    kinds: dict[str, Callable[[], Any]] = {
        "bleu": BLEU,
        "chrf": CHRF,
        "chrf++": lambda: CHRF(word_order=2),
        "ter": TER,
    }
    metric = kinds[name]()
    # The two methods that sacrebleu's own significance tests use; it has no public ones.
    rows = metric._extract_corpus_statistics(list(predictions), [list(references)])
    has_counts = name != "ter"

    def finish(total: Float[np.ndarray, "k"]) -> float:
        numbers: Any = [int(number) for number in total] if has_counts else list(total)
        return float(metric._compute_score_from_stats(numbers).score)

    return Measure(name, np.array(rows, float), finish, str(metric.get_signature()))
