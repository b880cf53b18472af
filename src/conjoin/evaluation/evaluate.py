"""The evaluation of a model on pairs: its predictions, its loss on the references, and scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from conjoin.errors import ConfigError
from conjoin.evaluation.metrics import DEFAULT_METRICS, Measure, measure_texts, metric_names, token_measures
from conjoin.evaluation.resampling import Comparison, Estimate, Method, compare, estimate
from conjoin.evaluation.texts import TextSettings, evaluating, generate_stream, limit_of, pad_sources
from conjoin.texts.writing import json_line, results_file

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

Progress = Callable[[int], object]
"""Called with the number of pairs that were just processed."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        sources, references, predictions: Texts of every pair, in order.
        losses: Mean loss per label of every pair.
        measures: Scores, with the statistics of each pair.
        cut: Number of pairs whose source or target was truncated.
    """

    sources: Sequence[str]
    references: Sequence[str]
    predictions: Sequence[str]
    losses: Float[np.ndarray, "n"]
    measures: list[Measure]
    cut: int

    def __getitem__(self, name: str) -> float:
        """Return the score of a metric."""
        return next(measure.value for measure in self.measures if measure.name == name)

    def estimates(self) -> list[Estimate]:
        """Return every score with its confidence interval."""
        return [estimate(measure) for measure in self.measures]

    def compare(self, other: "Evaluation", *, method: Method = "bootstrap") -> list[Comparison]:
        """Test every score that both have against another model's on the same pairs.

        Losses of models that tokenize targets differently cannot be compared and are left out.

        Raises:
            ConfigError: the other evaluation is of other pairs.
        """
        self.require_same_pairs(other)
        theirs = {measure.name: measure for measure in other.measures}
        alike = [m for m in self.measures if m.name in theirs and _same_tokens(m, theirs[m.name])]
        return [compare(measure, theirs[measure.name], method=method) for measure in alike]

    def require_same_pairs(self, other: "Evaluation") -> None:
        """Raise ConfigError if another evaluation is of other pairs."""
        if list(self.references) != list(other.references) or list(self.sources) != list(other.sources):
            raise ConfigError("The two evaluations are of different pairs.")

    def to_dict(self) -> dict[str, Any]:
        """Return scores with intervals, as `conjoin evaluate --json` prints them."""
        signatures = {measure.name: measure.signature for measure in self.measures}
        return {
            "pairs": len(self.references),
            "cut": self.cut,
            "scores": {
                each.name: {
                    "value": each.value,
                    "low": each.low,
                    "high": each.high,
                    "signature": signatures[each.name],
                }
                for each in self.estimates()
            },
        }

    def save_predictions(self, path: str | PathLike[str]) -> None:
        """Write one JSON object per pair: source, target, prediction, loss. A file that is called .gz is packed.

        Raises:
            FileError: the file cannot be written.
        """
        rows = zip(self.sources, self.references, self.predictions, self.losses, strict=True)
        with results_file(Path(path)) as file:
            for source, target, prediction, loss in rows:
                row = {"source": source, "target": target, "prediction": prediction, "loss": round(float(loss), 6)}
                file.write(f"{json_line(row)}\n".encode())


def _same_tokens(one: Measure, other: Measure) -> bool:
    counts = one.name in ("loss", "token_accuracy")
    return not counts or np.array_equal(one.rows[:, 1], other.rows[:, 1])


def evaluate(
    model: "EncoderDecoderModel",
    sources: Sequence[str],
    references: Sequence[str],
    *,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    settings: TextSettings | None = None,
    progress: Progress = lambda done: None,
) -> Evaluation:
    """Generate for every source, and score the texts and the model's loss.

    Args:
        metrics: Metrics of texts; `loss` and `token_accuracy` are always computed.
        progress: Called with the number of pairs processed; each is processed twice, for its loss and its prediction.

    Raises:
        ConfigError: unknown metrics, or no pairs.
        MissingBackend: rouge-score or sacrebleu is not installed.
        GenerationError, TokenizerError: as in `generate` and the tokenizer.
    """
    names = metric_names(metrics)
    settings = settings or TextSettings()
    if not references or len(sources) != len(references):
        raise ConfigError(f"{len(sources)} sources for {len(references)} references; expected as many, and some.")
    with evaluating(model):
        tokens = _token_statistics(model, sources, references, settings, progress)
        predictions, cut = _predictions(model, sources, settings, progress)
    measures = measure_texts(names, predictions, references) + token_measures(*tokens.T)
    losses = tokens[:, 0] / np.maximum(tokens[:, 2], 1)
    return Evaluation(sources, references, predictions, losses, measures, cut)


def evaluate_texts(
    predictions: Sequence[str],
    sources: Sequence[str],
    references: Sequence[str],
    *,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
) -> Evaluation:
    """Score texts that were generated before, by metrics of texts alone; their losses are NaN.

    Raises:
        ConfigError: unknown metrics, or lists of different lengths.
        MissingBackend: rouge-score or sacrebleu is not installed.
    """
    measures = measure_texts(metric_names(metrics), predictions, references)
    return Evaluation(sources, references, predictions, np.full(len(predictions), np.nan), measures, 0)


def _predictions(
    model: "EncoderDecoderModel", sources: Sequence[str], settings: TextSettings, progress: Progress
) -> tuple[list[str], int]:
    predictions, cut = [""] * len(sources), 0
    for batch in generate_stream(model, enumerate(sources), settings):
        for generated in batch:
            predictions[generated.index] = generated.texts[0]
            cut += generated.cut
        progress(len(batch))
    return predictions, cut


def _token_statistics(
    model: "EncoderDecoderModel",
    sources: Sequence[str],
    references: Sequence[str],
    settings: TextSettings,
    progress: Progress,
) -> Float[np.ndarray, "n 3"]:
    """Return summed loss, correct labels and counted labels of every pair, with the true labels as decoder inputs."""
    tokenizer: Any = model.tokenizer
    limit, room = limit_of(model, settings), model.decoder.spec.max_positions
    read = tokenizer(list(sources), **_cut_to(limit))["input_ids"]
    labels = tokenizer(text_target=list(references), **_cut_to(room))["input_ids"]
    if room is not None and model.decoder.spec.continues_source:  # both stand in one table of positions
        labels = [row[: room - len(source)] for row, source in zip(labels, read, strict=True)]
    order = sorted(range(len(read)), key=lambda row: -len(read[row]) - len(labels[row]))
    statistics = np.zeros((len(read), 3))
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        statistics[rows] = _score_batch(model, [read[row] for row in rows], [labels[row] for row in rows])
        progress(len(rows))
    return statistics


def _cut_to(limit: int | None) -> dict[str, Any]:
    return {"truncation": limit is not None, "max_length": limit, "verbose": False}


def _score_batch(
    model: "EncoderDecoderModel", sources: Sequence[Sequence[int]], labels: Iterable[Sequence[int]]
) -> Float[np.ndarray, "b 3"]:
    import torch
    from torch.nn import functional as F

    rows = [torch.tensor(row) for row in labels]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(model.device)
    with torch.inference_mode():
        output: Any = model(**pad_sources(model, sources), labels=padded)
    logits = output.logits.float()
    nll = F.cross_entropy(logits.flatten(0, 1), padded.flatten(), ignore_index=-100, reduction="none")
    counted = padded != -100
    correct = (logits.argmax(-1) == padded) & counted
    sums = torch.stack((nll.view_as(padded).sum(1), correct.sum(1), counted.sum(1)), 1)
    return sums.double().cpu().numpy()


def comparison_dict(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return comparisons as `conjoin evaluate --json` prints them."""
    return [asdict(each) for each in comparisons]
