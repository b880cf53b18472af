"""Evaluations in any framework: loss, source gain, metrics of texts, and samples."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conjoin.errors import ConfigError
from conjoin.evaluation.metrics import score
from conjoin.join import start_of_language
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.batching import Batches, Batching, ByRows, ByTokens, in_order
from conjoin.training.data.datasets import room_of
from conjoin.training.data.examples import IGNORED, Examples, Rows
from conjoin.training.loop.engine import Engine
from conjoin.training.loop.metric_numbers import plain_numbers
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.world import World

GAIN_PAIRS = 64
"""Pairs whose sources are exchanged in an evaluation."""


@dataclass(frozen=True, slots=True)
class EvalPrediction:
    """The argument of `compute_metrics` (transformers' class of the same name).

    Args:
        predictions: [n, T] ids, padded with the pad id.
        label_ids: [n, T] labels, padded with -100.
    """

    predictions: np.ndarray
    label_ids: np.ndarray


ComputeMetrics = Callable[[EvalPrediction], Mapping[str, Any]]


class Evaluator:
    """Evaluates a model for its trainer, at any time, and for a run, between its steps.

    Args:
        tokenizer: Decodes what the model writes; without one, there are neither samples nor metrics of texts.
        make_engine: Builds an engine for evaluations outside of a run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | TokenizerPair | None,
        args: TrainingArguments,
        world: World,
        make_engine: Callable[[], Engine],
        compute_metrics: ComputeMetrics | None,
    ) -> None:
        self._model, self._tokenizer, self._args, self._world = model, tokenizer, args, world
        self._make_engine, self._compute_metrics = make_engine, compute_metrics
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The run's engine, or one of its own."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def generates(self) -> bool:
        """True if evaluations generate texts."""
        return self._args.predict_with_generate or self._compute_metrics is not None

    @property
    def source_tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the sources."""
        return self._tokenizer.source if isinstance(self._tokenizer, TokenizerPair) else self._tokenizer

    @property
    def source_pad(self) -> int:
        """The id that pads sources."""
        config = getattr(self._model.config, "encoder", self._model.config)
        pad = None if self.source_tokenizer is None else self.source_tokenizer.pad_token_id
        return next((id for id in (pad, config.pad_token_id) if id is not None), 0)

    @property
    def target_pad(self) -> int:
        """The id that pads decoder inputs and generated ids."""
        pad = self._model.config.pad_token_id
        return 0 if pad is None else pad

    def metric_names(self, examples: Examples) -> list[str] | None:
        """Return the names of an evaluation's metrics; None if `compute_metrics` adds some.

        Raises:
            ConfigError: metrics of texts, and no tokenizer to decode texts.
            MissingBackend: a metric's package is not installed.
        """
        if self._compute_metrics is not None:
            return None
        names = ["loss", *(["source_gain"] if len(examples) > 1 else [])]
        if self._args.metrics:
            names += score(self._args.metrics, self.decode([[]]), ["a trial"])
        return [*names, "runtime"]

    def evaluate(self, examples: Examples, *, generates: bool) -> tuple[dict[str, float], list[list[int]]]:
        """Compute the metrics of examples.

        Returns:
            Metrics by name, without prefix; and the generated ids, if texts are generated.
        """
        start = time.perf_counter()
        ids: list[list[int]] = []
        with self.engine.evaluation_mode():
            metrics = {"loss": self.engine.mean_loss(examples)}
            if (gain := self._gain_of(*examples.exchanged(GAIN_PAIRS))) is not None:
                metrics["source_gain"] = gain
            if generates:
                ids = self.engine.predict(examples, self.generation_settings(examples))
        if generates:
            metrics |= self._scores(examples, ids)
        metrics["runtime"] = round(max(time.perf_counter() - start, 0.0), 3)
        return metrics, ids

    def source_gain(self, examples: Examples) -> float | None:
        """Return how much lower the loss is, in nats per label, with a pair's own source than with another pair's.

        Pairs from all over the examples are measured, whatever their order; None for a single one.
        """
        with self.engine.preserve_random_state(), self.engine.evaluation_mode():
            return self._gain_of(*examples.spread(GAIN_PAIRS).exchanged(GAIN_PAIRS))

    def _gain_of(self, own: Examples, others: Examples) -> float | None:
        if len(own) < 2:
            return None
        return self.engine.mean_loss(others) - self.engine.mean_loss(own)

    def _scores(self, examples: Examples, ids: list[list[int]]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if self._compute_metrics is not None:
            prediction = EvalPrediction(pad_rows(ids, self.target_pad), pad_rows(examples.labels))
            scores |= plain_numbers(self._compute_metrics(prediction), "compute_metrics")
        if self._args.metrics:
            targets = self._targets(examples, range(len(examples)))
            scores |= score(self._args.metrics, self.decode(ids), targets)
        return scores

    def samples(self, examples: Examples, count: int) -> list[tuple[str, str, str]]:
        """Return source, target and prediction of the first examples; nothing without a tokenizer.

        Only the first process generates them, unless weights are sharded: then all must compute together.
        """
        sharded = self._args.fsdp != "none"
        if self._tokenizer is None or not count or not (self._world.first or sharded):
            return []
        rows = range(min(count, len(examples)))
        with self.engine.evaluation_mode():
            ids = self.engine.generate(examples, [[row] for row in rows], self.generation_settings(examples))
        return list(zip(self._sources(examples, rows), self._targets(examples, rows), self.decode(ids), strict=True))

    def _sources(self, examples: Examples, rows: Sequence[int]) -> list[str]:
        if examples.texts is not None:
            return [examples.texts.sources[row] for row in rows]
        if examples.read is not None:
            return [examples.where([row]) for row in rows]
        assert self.source_tokenizer is not None
        ids = [examples.sources[row].tolist() for row in rows]
        return self.source_tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _targets(self, examples: Examples, rows: Sequence[int]) -> list[str]:
        if examples.texts is not None:
            return [examples.texts.targets[row] for row in rows]
        return self.decode([[label for label in examples.labels[row].tolist() if label != IGNORED] for row in rows])

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return generated ids as texts.

        Raises:
            ConfigError: there is no tokenizer.
        """
        if self._tokenizer is None:
            raise ConfigError(
                "Texts are asked for, and there is no tokenizer.",
                hint="Seq2SeqTrainer(model, tokenizer), or put the tokenizers' files beside config.json.",
            )
        return self._tokenizer.batch_decode(ids, skip_special_tokens=True)

    def generation_settings(self, examples: Examples) -> dict[str, Any]:
        """Return the settings with which evaluations generate.

        Results may be as long as the longest target, unless the arguments say otherwise, and begin with the language
        that the tokenizer knows for targets.
        """
        longest = self._args.generation_max_length or self._args.max_target_length
        longest = longest or int(examples.lengths[:, 1].max())
        limit = room_of(self._args, self._model.spec).target
        settings: dict[str, Any] = {"max_new_tokens": min(longest, limit - 1) if limit else longest}
        settings |= start_of_language(self._model, self._tokenizer)
        if self._args.generation_num_beams:
            settings["num_beams"] = self._args.generation_num_beams
        return settings


def evaluation_batches(examples: Examples, arguments: TrainingArguments) -> Batches:
    """Return batches of examples, the longest first, so that memory runs out at once or never."""
    lengths, budget = examples.lengths, arguments.tokens_per_batch
    order = in_order(len(examples))
    order[:] = np.lexsort((-lengths[:, 1], -lengths[:, 0]))
    batching: Batching = ByRows(arguments.per_device_eval_batch_size) if budget is None else ByTokens(budget)
    return batching.cut(lengths, order)


def without_padding(rows: Iterable[Sequence[int]], pad: int | None) -> list[list[int]]:
    """Return rows of generated ids without the start id and without the padding after the end."""
    return [_strip_padding(list(row[1:]), pad) for row in rows]


def _strip_padding(ids: list[int], pad: int | None) -> list[int]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad and ids[end - 2] == pad:
        end -= 1
    return ids[: end - 1] if end and ids[end - 1] == pad else ids[:end]


def pad_rows(rows: list[list[int]] | Rows, pad: int = IGNORED) -> np.ndarray:
    """Return rows of ids as one array, padded on the right."""
    lists = [list(rows[index]) for index in range(len(rows))]
    width = max((len(row) for row in lists), default=0)
    return np.array([row + [pad] * (width - len(row)) for row in lists], np.int64).reshape(len(lists), width)
