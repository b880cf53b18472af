"""What the trainers of all frameworks are: a model, a tokenizer, arguments and data; everything else follows."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import replacing_folder
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, TrainingError
from conjoin.join import set_languages, start_of_language
from conjoin.join.diagnosis import Diagnosis
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.datasets import room_of, to_examples
from conjoin.training.data.examples import IGNORED, Examples
from conjoin.training.folder.lock import locked
from conjoin.training.folder.resuming import tell, write_recipe
from conjoin.training.folder.run_folder import Checkpoint, RunFolder
from conjoin.training.loop.callbacks import TrainerCallback
from conjoin.training.loop.engine import Engine, Trainable, World
from conjoin.training.loop.evaluating import EvalPrediction, filled
from conjoin.training.loop.examination import refuse_quantized
from conjoin.training.loop.finish import write_final_model
from conjoin.training.loop.metric_numbers import plain_numbers
from conjoin.training.loop.run import Run
from conjoin.training.loop.scoring import score_texts, wanted_metrics
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.recipe import Recipe

GAIN_PAIRS = 64
"""Pairs whose sources are exchanged in an evaluation."""

Place = TypeVar("Place", bound=World)
ComputeMetrics = Callable[[EvalPrediction], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TrainOutput:
    """What a run came to (transformers' class of the same name)."""

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PredictionOutput:
    """What `predict` gives.

    Args:
        predictions: Texts, or [n, T] ids where there is no tokenizer.
        label_ids: [n, T], filled up with -100.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class Trainer(ABC, Generic[Place]):
    """Trains and evaluates a joined model; Hugging Face's names where it has them. A framework adds its engine.

    Args:
        tokenizer: The model's own by default. A single one for a joined pair is taken for both sides, and labels get
            its end token.
        train_dataset, eval_dataset: Rows with the columns that `args` names; or with `input_ids`, `labels` and more
            that forward takes: attention_mask, token_type_ids, position_ids, the same for the decoder (decoder_...),
            and decoder_input_ids. A `weight` says how many times a row's labels count in the loss. Lists,
            `datasets.Dataset`s, paths of files, or ready `Examples`.
        compute_metrics: Gets generated ids and labels of every evaluation; sets predict_with_generate.
        recipe: What to write into the run's folder, where there is more to say than `args`.

    Raises:
        DataError, ConfigError: before anything is trained.
    """

    model: Any
    world: Place

    def __init__(
        self,
        model: Trainable,
        tokenizer: Tokenizer | TokenizerPair | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        recipe: Recipe | None = None,
    ) -> None:
        self.args = args or TrainingArguments()
        self.recipe = recipe
        self.callbacks = list(callbacks)
        self._compute_metrics = compute_metrics
        wanted_metrics(self.args.metrics)
        self.model, self.world = self.place(model)
        self.tokenizer = _tokenizer_for(model, tokenizer)
        set_languages(self.model, self.tokenizer, self.args.source_language, self.args.target_language)
        self.train_examples = self._examples(train_dataset, "the training data")
        self.eval_examples = self._examples(eval_dataset, "the validation data")
        self._engine: Engine | None = None

    @abstractmethod
    def place(self, model: Any) -> tuple[Any, Place]:
        """Check the arguments, find this process's place, and put the model where it computes.

        Raises:
            ConfigError: arguments that this framework cannot follow.
        """

    @abstractmethod
    def make_engine(self, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]) -> Engine:
        """What trains and evaluates the model.

        Args:
            fresh: Names of the parameters that no checkpoint had.
        """

    def diagnose(self, batch: Mapping[str, NDArray[np.int64]]) -> Diagnosis:
        """The doctor's findings on a batch."""
        return self.model.doctor(batch)

    @abstractmethod
    def seed(self) -> None:
        """Start the framework's generators, for a new run."""

    def _examples(self, data: Any, name: str) -> Examples | None:
        if data is None:
            return None
        shown = self.world.first
        return to_examples(data, name, self.args, self.model.spec, self.tokenizer, shown=shown)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train, evaluate, keep checkpoints, write the final model.

        Args:
            resume_from_checkpoint: A checkpoint's folder; True or "latest" for the newest, or the start if there is
                none yet; `args.resume_from_checkpoint` by default.

        Raises:
            TrainingError: the run cannot start or go on; checkpoints stay whole.
            ConfigError: the model, or an argument, is not for training.
            FileError: another process writes the run, or nobody can.
        """
        if self.train_examples is None:
            raise ConfigError("There is nothing to train on.", hint="Seq2SeqTrainer(..., train_dataset=...)")
        refuse_quantized(getattr(self.model.config, "quantization_config", None))
        folder = RunFolder(Path(self.args.output_dir))
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        with locked(self.world, folder.path):
            checkpoint = self._find(folder, "latest" if wanted is True else wanted)
            run = Run(self, self.train_examples, folder, checkpoint)
            self._engine = run.engine
            if checkpoint is None:
                self.world.on_first(folder.claim)  # only now: every check has passed
            self.world.on_first(lambda: write_recipe(self.recipe, folder.path))
            tell(run, wanted)
            run.go()
            write_final_model(self, run)
        run.warn_of_unread_sources()
        state = run.state
        metrics = {
            "train_runtime": round(state.seconds, 3),
            "train_loss": state.total_loss / max(state.global_step, 1),
            "train_tokens_per_second": round(state.tokens_seen / max(state.seconds, 1e-9), 1),
            "epoch": run.epoch,
        }
        return TrainOutput(state.global_step, metrics["train_loss"], metrics)

    def _find(self, folder: RunFolder, wanted: str | bool | None) -> Checkpoint | None:
        """The checkpoint to go on from; for a new run, the folder must be free."""
        found = folder.find(wanted) if isinstance(wanted, str) else None
        overwrite = self.args.overwrite_output_dir
        if found is None:
            self.world.on_first(lambda: folder.require_claimable(overwrite=overwrite))
            self.seed()
        self.world.on_first(folder.sweep)
        return found

    def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss per label, what the sources contribute to it, and metrics of texts if they are asked for.

        `source_gain` is how much larger the loss is, in nats per label, where the first 64 pairs get each other's
        sources. Near 0, the model writes without reading.

        Raises:
            ConfigError: there are no validation data.
        """
        examples = self.eval_examples if eval_dataset is None else self._examples(eval_dataset, "the validation data")
        if examples is None:
            raise ConfigError("There is nothing to evaluate on.", hint="Seq2SeqTrainer(..., eval_dataset=...)")
        metrics, _ = self._judge(examples, generates=self._generates)
        return _prefixed(metrics, metric_key_prefix)

    def predict(self, test_dataset: Any, metric_key_prefix: str = "test") -> PredictionOutput:
        """Generate a target for every source."""
        examples = self._examples(test_dataset, "the test data")
        assert examples is not None
        metrics, ids = self._judge(examples, generates=True)
        predictions = filled(ids, self.target_pad) if self.tokenizer is None else self._decode(ids)
        return PredictionOutput(predictions, filled(examples.labels), _prefixed(metrics, metric_key_prefix))

    @property
    def _generates(self) -> bool:
        return self.args.predict_with_generate or self._compute_metrics is not None

    @property
    def target_pad(self) -> int:
        """What fills up decoder inputs and what is generated."""
        pad = self.model.config.pad_token_id
        return 0 if pad is None else pad

    def metric_names(self, examples: Examples) -> list[str] | None:
        """What an evaluation gives, by name; None where the user's own code has a say in it.

        Raises:
            ConfigError: metrics of texts, and no tokenizer to make texts.
            MissingBackend: a metric's package is not installed.
        """
        if self._compute_metrics is not None or type(self).evaluate is not Trainer.evaluate:
            return None
        names = ["loss", *(["source_gain"] if len(examples) > 1 else [])]
        if self.args.metrics:
            names += score_texts(self.args.metrics, self._decode([[]]), ["a trial"])
        return [*names, "runtime"]

    def _judge(self, examples: Examples, *, generates: bool) -> tuple[dict[str, float], list[list[int]]]:
        engine = self.engine()
        start = time.perf_counter()
        ids: list[list[int]] = []
        with engine.evaluated():
            metrics = {"loss": engine.mean_loss(examples), **_source_gain(engine, examples)}
            if generates:
                ids = engine.predict(examples, self.generation_settings(examples))
        if generates:
            metrics |= self._scores(examples, ids)
        metrics["runtime"] = round(max(time.perf_counter() - start, 0.0), 3)
        return metrics, ids

    def _scores(self, examples: Examples, ids: list[list[int]]) -> dict[str, float]:
        found: dict[str, float] = {}
        if self._compute_metrics is not None:
            given = self._compute_metrics(EvalPrediction(filled(ids, self.target_pad), filled(examples.labels)))
            found |= plain_numbers(given, "compute_metrics")
        if self.args.metrics:
            targets = self._targets(examples, range(len(examples)))
            found |= score_texts(self.args.metrics, self._decode(ids), targets)
        return found

    def _targets(self, examples: Examples, rows: Sequence[int]) -> list[str]:
        if examples.texts is not None:
            return [examples.texts.targets[row] for row in rows]
        return self._decode([[label for label in examples.labels[row].tolist() if label != IGNORED] for row in rows])

    def _sources(self, examples: Examples, rows: Sequence[int]) -> list[str]:
        if examples.texts is not None:
            return [examples.texts.sources[row] for row in rows]
        assert self._source_tokenizer is not None
        ids = [examples.sources[row].tolist() for row in rows]
        return self._source_tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _decode(self, ids: list[list[int]]) -> list[str]:
        if self.tokenizer is None:
            raise ConfigError(
                "Texts are asked for, and there is no tokenizer.", hint="Seq2SeqTrainer(model, tokenizer)"
            )
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def samples(self, examples: Examples, count: int) -> list[tuple[str, str, str]]:
        """Source, target and prediction of the first examples; empty without a tokenizer."""
        shared = self.args.fsdp != "none"
        if self.tokenizer is None or not count or not (self.world.first or shared):
            return []
        engine, rows = self.engine(), range(min(count, len(examples)))
        with engine.evaluated():
            ids = engine.write(examples, [[row] for row in rows], self.generation_settings(examples))
        return list(zip(self._sources(examples, rows), self._targets(examples, rows), self._decode(ids), strict=True))

    @property
    def _source_tokenizer(self) -> Tokenizer | None:
        return self.tokenizer.source if isinstance(self.tokenizer, TokenizerPair) else self.tokenizer

    @property
    def source_pad(self) -> int:
        """What fills up sources."""
        tokenizer = self._source_tokenizer
        pad = None if tokenizer is None else tokenizer.pad_token_id
        pad = getattr(self.model.config, "encoder", self.model.config).pad_token_id if pad is None else pad
        return 0 if pad is None else pad

    def generation_settings(self, examples: Examples) -> dict[str, Any]:
        """How evaluations generate: long enough for the longest target, unless the arguments say otherwise.

        Targets begin with the language that the tokenizer knows for them.
        """
        longest = self.args.generation_max_length or self.args.max_target_length or int(examples.labels.lengths.max())
        limit = room_of(self.args, self.model.spec).target
        settings: dict[str, Any] = {"max_new_tokens": min(longest, limit - 1) if limit else longest}
        settings |= start_of_language(self.model, self.tokenizer)
        if self.args.generation_num_beams:
            settings["num_beams"] = self.args.generation_num_beams
        return settings

    def engine(self) -> Engine:
        """What evaluates: the run's own, or one made for the purpose."""
        if self._engine is None:
            self._engine = self.make_engine(self.args.copy(ema_decay=None), 1, ())
        return self._engine

    def save_model(self, output_dir: str | None = None) -> None:
        """Write model and tokenizers."""
        write_pair = self.engine().gathered()

        def write() -> None:
            with replacing_folder(output_dir or self.args.output_dir) as staging:
                write_pair(staging)

        self.world.on_first(write)

    def call_back(self, event: str, run: Run, **keywords: Any) -> None:
        """Tell every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(self.args, run.state, run.control, model=self.model, **keywords)


def _prefixed(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Metrics as an evaluation names them; users may have put the prefix there already."""
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in metrics.items()}


def _source_gain(engine: Engine, examples: Examples) -> dict[str, float]:
    """What the sources tell, in nats per label: the loss with other pairs' sources, less the loss with their own."""
    own, others = examples.exchanged(GAIN_PAIRS)
    return {"source_gain": engine.mean_loss(others) - engine.mean_loss(own)} if len(own) > 1 else {}


def _tokenizer_for(model: Trainable, given: Tokenizer | TokenizerPair | None) -> Tokenizer | TokenizerPair | None:
    """The tokenizer to train with, which then travels with the model."""
    if given is None:
        try:
            return model.tokenizer
        except (ConfigError, TrainingError, ValueError):
            return None
    if isinstance(given, Tokenizer) and isinstance(model.config, EncoderDecoderConfig):
        given = TokenizerPair(given, given, target_eos=given.end_token_id is not None)
    model.tokenizer = given
    return given
