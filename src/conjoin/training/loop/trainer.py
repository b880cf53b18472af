"""The trainer of all frameworks: a model, a tokenizer, arguments and data; everything else follows from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import replacing_folder
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, TrainingError
from conjoin.evaluation.metrics import metric_names
from conjoin.join import set_languages
from conjoin.join.diagnosis import Diagnosis
from conjoin.texts.pairs import Pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.arrays import batch_arrays
from conjoin.training.data.batching import Batch
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.data.corpus import RawText
from conjoin.training.data.datasets import SAMPLED_PARTS, Making, room_of, sample_of, to_corpus, to_examples
from conjoin.training.data.examples import Examples
from conjoin.training.data.inputs import Collation, InputRows, TrainingData
from conjoin.training.facts import example_facts, limit_of, pair_facts, text_facts
from conjoin.training.folder.recorder import require_sinks
from conjoin.training.folder.run_folder import Checkpoint, RunFolder, locked
from conjoin.training.folder.state import TrainerState
from conjoin.training.loop import budget
from conjoin.training.loop.callbacks import TrainerCallback
from conjoin.training.loop.checks import (
    check_evaluation_settings,
    check_sources,
    doctor_pairs,
    refuse_quantized,
    require_trainable,
)
from conjoin.training.loop.engine import Engine, Trainable
from conjoin.training.loop.evaluator import ComputeMetrics, Evaluator, pad_rows
from conjoin.training.loop.finish import write_final_model
from conjoin.training.loop.recovery import MOST_NUMBERS
from conjoin.training.loop.run import Run
from conjoin.training.loop.start import Task, find_start
from conjoin.training.loop.writable import check_targets
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.choices import (
    LIMITS,
    DataFacts,
    Facts,
    Machine,
    PairFacts,
    choice_table,
    choose,
    safer,
)
from conjoin.training.settings.recipe import Recipe
from conjoin.training.terminal import show
from conjoin.training.world import World

Place = TypeVar("Place", bound=World)
_TRAINING = "the training data"


@dataclass(frozen=True, slots=True)
class TrainOutput:
    """The result of a run (transformers' class of the same name)."""

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PredictionOutput:
    """The result of `predict`.

    Args:
        predictions: Texts, or [n, T] ids if there is no tokenizer.
        label_ids: [n, T], padded with -100.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class Trainer(ABC, Generic[Place]):
    """Trains and evaluates a joined model; Hugging Face's names where it has them. A framework adds its engine.

    Args:
        tokenizer: The model's own by default. A single tokenizer serves both sides of a joined pair, and labels get
            its end token.
        train_dataset, eval_dataset: Rows with the columns that `args` names; or with `input_ids`, `labels` and other
            arguments of forward: attention_mask, token_type_ids, position_ids, the same for the decoder (decoder_...),
            and decoder_input_ids. A `weight` says how many times a row's labels count in the loss. Lists,
            `datasets.Dataset`s, paths of files, `RawText`, or ready `Examples`. If the encoder is a module of yours, a
            map-style data set of rows with what it reads, and `labels` or a target text.
        data_collator: Makes batches of the rows of such a data set; the model's `collate` by default.
        compute_metrics: Called with the generated ids and labels of every evaluation; sets predict_with_generate.
        recipe: Written into the run's folder, if the run was started from one.

    Raises:
        DataError, ConfigError: before anything is trained.
    """

    model: Any
    world: Place
    args: TrainingArguments
    started: float | None
    """When the command started, by `budget.monotonic`; None for the call of `train`."""
    reasons: dict[str, str]
    """Setting that the run chose -> why (`TrainingArguments.chosen`)."""

    def __init__(
        self,
        model: Trainable,
        tokenizer: Tokenizer | TokenizerPair | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        recipe: Recipe | None = None,
    ) -> None:
        self.args = args or TrainingArguments()
        self.recipe = recipe
        self.started = None
        self.reasons = dict(recipe.reasons) if recipe else {}
        self.callbacks = list(callbacks)
        metric_names(self.args.metrics)
        check_sources(self.args, model, collates=data_collator is not None)
        self._collate = data_collator
        self.model, self.world = self.place(model)
        self.tokenizer = _tokenizer_for(model, tokenizer)
        set_languages(self.model, self.tokenizer, self.args.source_language, self.args.target_language)
        train_dataset, self._sample = self._look_at(train_dataset)
        self._choose_limits(validates=eval_dataset is not None)
        self.train_examples = self._training_data(train_dataset)
        self.eval_examples = self._examples(eval_dataset, "the validation data")
        self._choose_the_rest()
        self._limit_results()
        self._evaluator = Evaluator(
            self.model, self.tokenizer, self.args, self.world, self._evaluation_engine, compute_metrics
        )

    @abstractmethod
    def place(self, model: Any) -> tuple[Any, Place]:
        """Check the arguments, join the other processes, and put the model on its device.

        Raises:
            ConfigError: arguments that this framework does not support.
        """

    @abstractmethod
    def make_engine(self, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]) -> Engine:
        """Return an engine that trains and evaluates the model.

        Args:
            fresh: Names of the parameters that no checkpoint had.
        """

    def _evaluation_engine(self) -> Engine:
        return self.make_engine(self.args.copy(ema_decay=None), 1, ())

    def diagnose(self, batch: Mapping[str, NDArray[np.int64]]) -> Diagnosis:
        """Return the doctor's findings on a batch."""
        return self.model.doctor(batch)

    @abstractmethod
    def seed(self) -> None:
        """Seed the framework's random generators, for a new run."""

    @abstractmethod
    def machine(self) -> Machine:
        """Return what computes, for the choices of a run."""

    def _look_at(self, data: Any) -> tuple[Any, Pairs | None]:
        """Return the data, an iterator as a list if it is read twice; and some of their texts, if they are needed."""
        if data is None or isinstance(data, RawText) or self.tokenizer is None or not self.model.reads_ids:
            return data, None
        if self._chooses_limits and isinstance(data, Iterator):
            data = list(cast("Iterator[Any]", data))
        if not isinstance(data, Iterator) and (self._chooses_limits or self.args.doctor):
            return data, sample_of(data, _TRAINING, self.args, parts=SAMPLED_PARTS if self._chooses_limits else 1)
        return cast("Any", data), None

    @property
    def _chooses_limits(self) -> bool:
        return bool(set(self.args.to_choose) & set(LIMITS))

    def _choose_limits(self, *, validates: bool) -> None:
        """Choose what must be known before the data are tokenized."""
        if self._sample is not None and self.tokenizer is not None and self._chooses_limits:
            room = room_of(self.args, self.model.spec)
            self._choose(text_facts(self._sample, self.tokenizer, room, validates=validates), LIMITS)

    def _choose_the_rest(self) -> None:
        """Choose all that is still open, and print every choice with its reason."""
        if not self.args.to_choose:
            return
        examples = self.train_examples
        if examples is not None:
            validates, is_sized = self.eval_examples is not None, self.model.reads_ids
            self._choose(example_facts(examples, validates=validates, is_sized=is_sized))
        self.args = self.args.copy(auto="none")
        settings = {name: getattr(self.args, name, None) for name in self.reasons}
        if self.recipe is not None:
            self.recipe = self.recipe.with_choices(self.reasons, arguments=self.args)
            settings = {name: value for name, value in self.recipe.settings().items() if name in settings}
        if self.world.first and self.reasons:
            show(choice_table(settings, self.reasons))

    def _limit_results(self) -> None:
        """Let results of the trained model be as long as the run chose, then or when it began."""
        if "generation_max_length" in self.reasons:
            self.model.generation_config.max_new_tokens = self.args.generation_max_length

    def _choose(self, data: DataFacts, names: Sequence[str] | None = None) -> None:
        facts = Facts(data=data, pair=self._pair_facts(), machine=self.machine())
        self.args, choices = choose(self.args, facts, names)
        self.reasons |= {choice.name: choice.reason for choice in choices}

    def _pair_facts(self) -> PairFacts:
        return pair_facts(
            self.model.join_report,
            self.model.spec,
            joined=self.recipe is not None and self.recipe.sources.model is None,
            limit=limit_of(self.model.generation_config),
            positions=room_of(self.args.copy(max_target_length=None), self.model.spec).target,
        )

    def _training_data(self, data: Any) -> TrainingData | None:
        """Return training data: examples, or raw text and arrays of which they are made when a step needs them."""
        if data is not None and not self.model.reads_ids:
            return self._input_rows(data, _TRAINING)
        if isinstance(data, RawText):
            return to_corpus(data, _TRAINING, self._making())
        return self._examples(data, _TRAINING, keeps_texts=self.args.teacher is not None)

    def _input_rows(self, data: Any, name: str) -> InputRows:
        """Return rows whose sources are arrays, as the encoder, a module of the caller's, reads them."""
        collate, is_callers = self._collate or self.model.collate, self._collate is not None
        collation = Collation(input=self.model.main_input_name, collate=collate, is_callers=is_callers)
        return InputRows(data, name, self._making(), collation)

    def _making(self, *, keeps_texts: bool = True) -> Making:
        return Making(self.args, self.model.spec, self.tokenizer, shown=self.world.first, keeps_texts=keeps_texts)

    def _examples(self, data: Any, name: str, *, keeps_texts: bool = True) -> Examples | None:
        """Return the examples of data.

        Args:
            keeps_texts: True if the texts are read again, for samples and metrics.
        """
        if data is None:
            return None
        if not self.model.reads_ids:
            rows = self._input_rows(data, name)
            return rows.beginning(len(rows))
        return to_examples(data, name, self._making(keeps_texts=keeps_texts))

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train, evaluate, save checkpoints, write the final model.

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
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        task = Task(
            model=self.model,
            tokenizer=self.tokenizer,
            args=self.args,
            world=self.world,
            examples=self.train_examples,
            eval_examples=self.eval_examples,
            callbacks=self.callbacks,
            recipe=self.recipe,
            safer=safer(self.args, self._pair_facts(), ranks=isinstance(self.train_examples, RankedExamples)),
        )
        started = budget.monotonic() if self.started is None else self.started
        with locked(self.world, folder.path):
            checkpoint = self._find(folder, "latest" if resume is True else resume)
            run = self._start(task, folder, checkpoint, announced=bool(resume), started=started)
            run.go()
            write_final_model(task, run.state, folder, run.engine, run.average)
        run.warn_of_unread_sources()
        state = run.state
        metrics = {
            "train_runtime": round(state.seconds, 3),
            "train_loss": state.total_loss / max(state.global_step, 1),
            "train_tokens_per_second": round(state.tokens_seen / max(state.seconds, 1e-9), 1),
            "epoch": run.epoch,
        }
        return TrainOutput(state.global_step, metrics["train_loss"], metrics)

    def _find(self, folder: RunFolder, name: str | bool | None) -> Checkpoint | None:
        """Return the checkpoint to resume from; for a new run, check that the folder is free."""
        checkpoint = folder.find(name) if isinstance(name, str) else None
        overwrite = self.args.overwrite_output_dir
        if checkpoint is None:
            self.world.on_first(lambda: folder.require_claimable(overwrite=overwrite))
            self.seed()
        self.world.on_first(folder.sweep)
        return checkpoint

    def _start(
        self, task: Task, folder: RunFolder, checkpoint: Checkpoint | None, *, announced: bool, started: float
    ) -> Run:
        """Check everything, and only then claim the folder of a new run."""
        evaluates = task.evaluates
        check_evaluation_settings(self.args, self._metric_names() if evaluates else None, evaluates=evaluates)
        require_sinks(self.args.report_to)
        start = find_start(task, checkpoint)
        if checkpoint is None and self.args.doctor:
            self.world.on_first(lambda: self._examine(task.examples, start.batches[0]))
        engine = self.make_engine(self.args, start.state.max_steps or budget.SHARES, start.state.fresh)
        engine.begin(start.state.global_step + 1)
        first = engine.snapshot() if self._may_start_again(start.state) else None
        if start.state.restarts:
            engine.start_again(task.safer, engine.snapshot())
        if checkpoint is not None:
            with checkpoint.damage_explained():
                engine.restore(checkpoint.folder, checkpoint.step)
        self._evaluator.engine = engine
        if checkpoint is None:
            self.world.on_first(folder.claim)
        self.world.on_first(lambda: folder.write_recipe(self.recipe))
        if announced and self.world.first:
            start.announce(folder)
        return Run(task, start, folder, engine, self._evaluator, self.evaluate, started, first)

    def _may_start_again(self, state: TrainerState) -> bool:
        """True if the first weights must be kept, because the model may turn out not to read its sources."""
        numbers = sum(numbers for *_, numbers in self.model.join_report.rows())
        return self.args.recover and not state.restarts and numbers <= MOST_NUMBERS

    def _metric_names(self) -> list[str] | None:
        """Return the names of an evaluation's metrics; None if the user's own code adds some."""
        assert self.eval_examples is not None
        overridden = type(self).evaluate is not Trainer[Any].evaluate
        return None if overridden else self._evaluator.metric_names(self.eval_examples)

    def _examine(self, data: TrainingData, batch: Batch) -> None:
        """Let the doctor look at the model and the first batch.

        Raises:
            TrainingError: training is bound to fail.
        """
        examples, (batch,) = data.drawn(0, [doctor_pairs(batch)])
        arrays = batch_arrays(examples, batch, self.source_pad, self._evaluator.target_pad)
        findings = self.diagnose(arrays).findings
        if self._sample is not None:
            findings += (check_targets(self._sample, self.tokenizer, room_of(self.args, self.model.spec)),)
        require_trainable(self.model.join_report, Diagnosis(findings))

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
        metrics, _ = self._evaluator.evaluate(examples, generates=self._evaluator.generates)
        return _prefixed(metrics, metric_key_prefix)

    def predict(self, test_dataset: Any, metric_key_prefix: str = "test") -> PredictionOutput:
        """Generate a target for every source."""
        examples = self._examples(test_dataset, "the test data")
        assert examples is not None
        metrics, ids = self._evaluator.evaluate(examples, generates=True)
        without_texts = self.tokenizer is None
        predictions = pad_rows(ids, self._evaluator.target_pad) if without_texts else self._evaluator.decode(ids)
        return PredictionOutput(predictions, pad_rows(examples.labels), _prefixed(metrics, metric_key_prefix))

    def samples(self, examples: Examples, count: int) -> list[tuple[str, str, str]]:
        """Return source, target and prediction of the first examples; nothing without a tokenizer."""
        return self._evaluator.samples(examples, count)

    @property
    def source_pad(self) -> int:
        """The id that pads sources."""
        return self._evaluator.source_pad

    def engine(self) -> Engine:
        """Return the engine that evaluates: the run's, or one of its own."""
        return self._evaluator.engine

    def save_model(self, output_dir: str | None = None) -> None:
        """Write model and tokenizers."""
        write_pair = self.engine().gather_weights()

        def write() -> None:
            with replacing_folder(output_dir or self.args.output_dir) as staging:
                write_pair(staging)

        self.world.on_first(write)


def _prefixed(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Prefix the names of metrics, unless users have done so."""
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in metrics.items()}


def _tokenizer_for(model: Trainable, tokenizer: Tokenizer | TokenizerPair | None) -> Tokenizer | TokenizerPair | None:
    """Return the tokenizer to train with, and set it as the model's."""
    if tokenizer is None:
        try:
            return model.tokenizer
        except (ConfigError, TrainingError, ValueError):
            return None
    if isinstance(tokenizer, Tokenizer) and isinstance(model.config, EncoderDecoderConfig):
        tokenizer = TokenizerPair(tokenizer, tokenizer, target_eos=tokenizer.end_token_id is not None)
    model.tokenizer = tokenizer
    return tokenizer
