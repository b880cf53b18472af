"""A model, its data and its arguments: batches, evaluations and samples of a run."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from conjoin.errors import ConfigError
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.arguments import TrainingArguments
from conjoin.training.arrays import batch_arrays
from conjoin.training.batching import Batch, Batching, ByRows, ByTokens
from conjoin.training.callbacks import TrainerCallback
from conjoin.training.datasets import room_of, to_examples
from conjoin.training.examples import Examples
from conjoin.training.jax.batches import in_few_shapes
from conjoin.training.jax.engine import Engine
from conjoin.training.recipe import Recipe
from conjoin.training.scoring import score_texts, wanted_metrics

_NOT_HERE = ("fp16", "torch_compile")


class Trainer:
    """What a run on JAX is made of.

    Args:
        train_data, eval_data: Pairs, rows, paths or ready Examples.
        recipe: What to write into the run's folder.

    Raises:
        DataError, ConfigError: before anything is trained.
    """

    def __init__(
        self,
        model: FlaxEncoderDecoderModel,
        args: TrainingArguments,
        *,
        train_data: Any,
        eval_data: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
        recipe: Recipe | None = None,
    ) -> None:
        if wrong := [name for name in _NOT_HERE if getattr(args, name)] + (["fsdp"] if args.fsdp != "none" else []):
            raise ConfigError(
                f"Not possible with framework = jax: {', '.join(wrong)}.",
                hint="bf16 computes in half precision; JAX always compiles; conjoin.jax.sharding spreads over devices.",
            )
        wanted_metrics(args.metrics)
        self.model, self.args, self.recipe, self.callbacks = model, args, recipe, list(callbacks)
        self.tokenizer: Tokenizer | TokenizerPair = model.tokenizer
        self.train_examples = to_examples(train_data, "the training data", args, model.spec, self.tokenizer)
        self.eval_examples = (
            None
            if eval_data is None
            else to_examples(eval_data, "the validation data", args, model.spec, self.tokenizer)
        )

    @property
    def _source_pad(self) -> int:
        source = self.tokenizer.source if isinstance(self.tokenizer, TokenizerPair) else self.tokenizer
        config = getattr(self.model.config, "encoder", self.model.config)
        found = config.pad_token_id if source.pad_token_id is None else source.pad_token_id
        return 0 if found is None else found

    def arrays(self, examples: Examples, batch: Batch) -> dict[str, np.ndarray]:
        """Arrays of one batch, in one of few shapes."""
        limits = (self.model.spec.encoder.max_positions, self.model.spec.decoder.max_positions)
        return in_few_shapes(batch_arrays(examples, batch, self._source_pad), self._source_pad, limits)

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Loss per label, and metrics of texts if they are asked for."""
        examples = self.eval_examples
        assert examples is not None
        start = time.perf_counter()
        batches = self._batches(examples)
        with engine.evaluated():
            total = sum(float(engine.loss(self.arrays(examples, batch))) for batch in batches)
            metrics = {"loss": total / int(examples.labels.lengths.sum())}
            if self.args.predict_with_generate:
                metrics |= self._scores(examples, batches)
        metrics["runtime"] = round(time.perf_counter() - start, 3)
        return {f"eval_{name}": value for name, value in metrics.items()}

    def _scores(self, examples: Examples, batches: list[Batch]) -> dict[str, float]:
        if not self.args.metrics:
            return {}
        found: dict[int, str] = {}
        for batch in batches:
            found |= dict(zip((row[0] for row in batch), self._write(examples, batch), strict=True))
        predictions = [found[index] for index in range(len(examples))]
        return score_texts(self.args.metrics, predictions, self._targets(examples, range(len(examples))))

    def _write(self, examples: Examples, batch: Batch) -> list[str]:
        """Texts that the model writes for a batch."""
        made = self.arrays(examples, batch)
        ids = self.model.generate(
            made["input_ids"], attention_mask=made["attention_mask"], **self._settings(examples)
        ).sequences
        rows = np.asarray(ids)[: len(batch)]
        return self.tokenizer.batch_decode(rows.tolist(), skip_special_tokens=True)

    def _settings(self, examples: Examples) -> dict[str, Any]:
        """How evaluations generate: long enough for the longest target, unless the arguments say otherwise."""
        longest = self.args.generation_max_length or self.args.max_target_length or int(examples.labels.lengths.max())
        limit = room_of(self.args, self.model.spec).target
        settings: dict[str, Any] = {"max_new_tokens": min(longest, limit - 1) if limit else longest}
        if self.args.generation_num_beams:
            settings["num_beams"] = self.args.generation_num_beams
        return settings

    def samples(self, engine: Engine) -> list[tuple[str, str, str]]:
        """Source, target and prediction of the first examples."""
        examples = self.eval_examples
        count = 0 if examples is None else min(self.args.eval_samples, len(examples))
        if examples is None or not count:
            return []
        with engine.evaluated():
            predictions = self._write(examples, [[row] for row in range(count)])
        sources = examples.texts.sources if examples.texts else self._sources(examples, range(count))
        return list(zip(sources[:count], self._targets(examples, range(count)), predictions, strict=True))

    def _targets(self, examples: Examples, rows: range) -> list[str]:
        if examples.texts is not None:
            return [examples.texts.targets[row] for row in rows]
        return self.tokenizer.batch_decode([examples.labels[row].tolist() for row in rows], skip_special_tokens=True)

    def _sources(self, examples: Examples, rows: range) -> list[str]:
        source = self.tokenizer.source if isinstance(self.tokenizer, TokenizerPair) else self.tokenizer
        return source.batch_decode([examples.sources[row].tolist() for row in rows], skip_special_tokens=True)

    def _batches(self, examples: Examples) -> list[Batch]:
        """Batches of examples, the longest first."""
        lengths, budget = examples.lengths, self.args.tokens_per_batch
        order = np.lexsort((-lengths[:, 1], -lengths[:, 0])).tolist()
        batching: Batching = ByRows(self.args.per_device_eval_batch_size) if budget is None else ByTokens(budget)
        return batching.cut(lengths, order)

    def call_back(self, event: str, run: Any, **keywords: Any) -> None:
        """Tell every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(self.args, run.state, run.control, model=self.model, **keywords)
