"""One run: steps, logs, evaluations and checkpoints in their order, on any framework's engine."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from conjoin.checkpoint import write_json
from conjoin.errors import ConfigError, ConjoinError, TrainingError, warn
from conjoin.training.data.arrays import counted_labels, tokens_of
from conjoin.training.data.batching import Plan, choose_batching
from conjoin.training.data.examples import Examples
from conjoin.training.folder.damage import older_one_named
from conjoin.training.folder.metrics_log import require_sinks
from conjoin.training.folder.recorder import Recorder
from conjoin.training.folder.resuming import differences, words_of
from conjoin.training.folder.run_folder import STATE_FILE, Checkpoint, RunFolder, as_training_error, check_same_plan
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState
from conjoin.training.loop.best import check_validation, deciding
from conjoin.training.loop.callbacks import TrainerControl
from conjoin.training.loop.examination import examine
from conjoin.training.loop.interrupts import Interrupts, Stopped
from conjoin.training.loop.metric_numbers import plain_numbers

if TYPE_CHECKING:
    from conjoin.training.loop.trainer import Trainer

UNREAD = 0.01
"""Nats per label. What sources tell a model that reads them is far more, one or two as a rule."""
UNREAD_STEPS = 200
"""Before so many steps, no model reads yet."""


class Run:
    """A run that begins, or goes on from a checkpoint.

    Attributes:
        state: Where it stands.
        engine: What takes steps.
        changed: Words that a run that goes on is told otherwise than before.
        other_validation: Whether it is evaluated on other data than before.
    """

    def __init__(
        self, trainer: "Trainer[Any]", examples: Examples, folder: RunFolder, checkpoint: Checkpoint | None
    ) -> None:
        self.trainer, self.examples, self.folder = trainer, examples, folder
        self.args, self.world = trainer.args, trainer.world
        self.control = TrainerControl()
        check_validation(trainer)
        require_sinks(self.args.report_to)
        self.resumed = checkpoint is not None
        self.state = self._state_of(checkpoint) if checkpoint else self._new_state()
        self._note_words()
        self.plan = self._plan()
        self.state.max_steps = self._max_steps()
        self._batches = self.plan.epoch(self.state.epoch)
        if checkpoint is not None:
            self._check_place(checkpoint)
        if not self.resumed and self.args.doctor:
            self.world.on_first(lambda: examine(trainer, examples, self._batches[0]))
        self.engine = trainer.make_engine(self.args, self.state.max_steps, self.state.fresh)
        self.engine.begin(self.state.global_step + 1)
        if checkpoint is not None:
            with older_one_named(checkpoint):
                self.engine.restore(checkpoint.folder, checkpoint.step)
        self._norm, self._source_gain = 0.0, math.inf
        self.control.should_training_stop = self._out_of_patience

    @staticmethod
    def _state_of(checkpoint: Checkpoint) -> TrainerState:
        with older_one_named(checkpoint):
            return checkpoint.state()

    def _note_words(self) -> None:
        """Keep what the run is told, and what is different since it was told before."""
        now, examples = words_of(self.trainer.recipe, self.args.to_dict()), self.trainer.eval_examples
        self.changed = differences(self.state.words, now)
        validation = None if examples is None else examples.fingerprint()
        self.other_validation = None not in (validation, self.state.validation) and validation != self.state.validation
        self.state.words, self.state.validation = now, validation

    def _check_place(self, checkpoint: Checkpoint) -> None:
        """Refuse a place that the epoch does not have."""
        if self.state.batches_seen > 0 and self.state.batches_seen >= len(self._batches):
            with older_one_named(checkpoint):
                raise DamagedCheckpoint(
                    f"{checkpoint.folder / STATE_FILE}: batches_seen = {self.state.batches_seen}, "
                    f"and the epoch has {len(self._batches)}."
                )

    def _new_state(self) -> TrainerState:
        fresh = list(self.trainer.model.join_report.fresh)
        if self.args.fresh_first and not fresh:
            raise ConfigError(
                f"fresh_first = {self.args.fresh_first}, but no parameter is fresh: the model was loaded whole, or it "
                "is trained.",
                hint="give --encoder and --decoder instead of --model, or a folder that conjoin join wrote.",
            )
        return TrainerState(
            fresh=fresh, batches_per_step=self.args.gradient_accumulation_steps * self.world.size, plan=self._facts()
        )

    def _facts(self) -> dict[str, object]:
        """What the order of batches depends on."""
        batching = choose_batching(self.args, self.examples.lengths)
        return {
            "training data": self.examples.fingerprint(),
            "batches": repr(batching),
            "order": self.args.train_sampling_strategy,
            "seed": self.args.seed,
        }

    def _plan(self) -> Plan:
        check_same_plan(self.state.plan, self._facts())
        wanted = self.args.gradient_accumulation_steps * self.world.size
        if self.state.batches_per_step != wanted:
            kept = self.state.batches_per_step % self.world.size == 0
            self.state.batches_per_step = self.state.batches_per_step if kept else wanted
            warn(
                f"The run had {self.state.batches_per_step if kept else 'another number of'} batches per step, "
                f"the arguments and {self.world.size} processes make {wanted}; "
                f"it goes on with {self.state.batches_per_step}."
            )
        return Plan(
            lengths=self.examples.lengths,
            batching=choose_batching(self.args, self.examples.lengths),
            sampling=self.args.train_sampling_strategy,
            seed=self.args.seed,
            batches_per_step=self.state.batches_per_step,
            drop_last=self.args.dataloader_drop_last,
        )

    def _max_steps(self) -> int:
        steps = self.args.max_steps if self.args.max_steps > 0 else self.plan.total_steps(self.args.num_train_epochs)
        if steps < 1 or not self.plan.steps(0):
            raise ConfigError(
                f"The run has no step: {len(self.examples)} pairs, num_train_epochs = {self.args.num_train_epochs}.",
                hint="lower gradient_accumulation_steps, or leave dataloader_drop_last out.",
            )
        return steps

    @property
    def epoch(self) -> float:
        """Passes over the data, the running one in part."""
        return self.state.epoch + self.state.batches_seen / max(len(self._batches), 1)

    def go(self) -> None:
        """Take all steps that are left."""
        self.recorder = Recorder(self.folder, self.state, self.args.report_to, shown=self.world.first)
        try:
            with Interrupts(watched=not self.world.many) as interrupts:
                self.trainer.call_back("on_train_begin", self)
                self._evaluate_if_due()
                while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
                    self._step()
                    self._stop_if(interrupts.name)
                self.trainer.call_back("on_train_end", self)
        finally:
            self.recorder.close()

    def _step(self) -> None:
        state = self.state
        chosen = self._batches[state.batches_seen : state.batches_seen + self.plan.batches_per_step]
        counted = counted_labels(self.examples, chosen)
        finite = self.engine.step(state.global_step + 1, self.examples, chosen, counted)
        state.global_step += 1
        state.batches_seen += len(chosen)
        state.tokens_seen += tokens_of(self.examples.lengths.sum(1), chosen)
        if not finite:
            self._fail(self.examples.where(index for batch in chosen for row in batch for index in row))
        epoch_ends = state.batches_seen >= len(self._batches)
        if epoch_ends:
            state.epoch, state.batches_seen = state.epoch + 1, 0
            self._batches = self.plan.epoch(state.epoch)
        self.recorder.stepped()
        self.trainer.call_back("on_step_end", self)
        self._after_step(epoch_ends=epoch_ends)

    def _read_losses(self) -> None:
        """Move the losses from the engine into the state.

        Raises:
            TrainingError: they are no numbers any more.
        """
        found = self.engine.losses()
        if not found.sound:
            self._fail(None)
        self.state.loss_sum += found.total
        self.state.total_loss += found.total
        self.state.loss_steps += found.steps
        self._norm = found.grad_norm

    def _fail(self, where: str | None) -> None:
        newest = next(reversed(self.folder.checkpoints()), None)
        kept = f"{newest.folder} is whole" if newest else "no checkpoint was written yet"
        since = f"at step {self.state.global_step}" if where else f"by step {self.state.global_step}"
        raise TrainingError(
            f"The loss or its gradient is not a finite number any more {since}"
            f"{f' (batch: {where})' if where else ''}. Nothing was saved since; {kept}.",
            hint="lower learning_rate, raise warmup_steps, use bf16 rather than fp16, or look at these pairs.",
        )

    def _after_step(self, *, epoch_ends: bool) -> None:
        state, control = self.state, self.control
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.args.logging_steps == 0 or last:
            self._log()
        evaluates = self._evaluates(epoch_ends, last) or control.should_evaluate
        saves = self._saves(epoch_ends, last, evaluates) or control.should_save
        control.should_evaluate = control.should_save = False
        if saves:
            self.save(evaluation_due=evaluates)
        if evaluates:
            self._evaluate_safely(saved=saves)
            last = last or control.should_training_stop
            if not saves and (control.should_save or self._saves(epoch_ends, last, evaluates)):
                self.save()
        control.should_evaluate = control.should_save = False

    def _log(self) -> None:
        self._read_losses()
        state = self.state
        loss = state.loss_sum / max(state.loss_steps, 1)
        logs = self.recorder.train(self.epoch, loss, self._norm, self.engine.rates_at(state.global_step))
        state.loss_sum, state.loss_steps = 0.0, 0
        self.trainer.call_back("on_log", self, logs=logs)

    def _evaluates(self, epoch_ends: bool, last: bool) -> bool:
        if self.trainer.eval_examples is None:
            return False
        match self.args.eval_strategy:
            case "no":
                return False
            case "steps":
                return self.state.global_step % (self.args.eval_steps or self.args.logging_steps) == 0
            case "epoch":
                return epoch_ends
            case "auto":
                return epoch_ends or last

    def _saves(self, epoch_ends: bool, last: bool, evaluated: bool) -> bool:
        on_step = self.state.global_step % self.args.save_steps == 0
        match self.args.save_strategy:
            case "no":
                return False
            case "steps":
                return on_step or last or (evaluated and self.args.load_best_model_at_end)
            case "epoch":
                return epoch_ends or last or (evaluated and self.args.load_best_model_at_end)
            case "auto":
                return on_step or last or evaluated

    def _evaluate_safely(self, *, saved: bool) -> None:
        """Evaluate; whatever that raises, the step is kept.

        Args:
            saved: Whether there is a checkpoint of this step, which then learns the outcome.
        """
        before = replace(self.state)
        try:
            with self.engine.undisturbed():
                self._evaluate()
        except Exception as error:
            self.state.forget_evaluation(before)
            self._keep_after(error, saved)
            raise
        self.state.evaluation_due = False
        if saved:
            self._settle()

    def _evaluate(self) -> None:
        self._read_losses()
        examples = self.trainer.eval_examples
        assert examples is not None
        metrics = plain_numbers(self.trainer.evaluate(), "An evaluation")
        samples = self.trainer.samples(examples, self.args.eval_samples)
        self.recorder.evaluation(self.epoch, metrics)
        for sample in samples:
            self.recorder.sample(self.epoch, *sample)
        self._source_gain = metrics.get("eval_source_gain", math.inf)
        self._compare(metrics)
        self.recorder.pause()
        self.trainer.call_back("on_evaluate", self, metrics=metrics)

    def _keep_after(self, error: Exception, saved: bool) -> None:
        """Save the step whose evaluation failed, if it is not saved, and say in the error how to go on."""
        if not saved and not self.world.many:  # several processes need not all have failed
            try:
                self.save(evaluation_due=True)
            except Exception as second:
                error.add_note(f"Nor could the step be saved: {second}")
                return
            saved = True
        if saved:
            error.add_note(
                f"The evaluation of step {self.state.global_step} failed; "
                f"{self.folder.checkpoint(self.state.global_step)} was saved before it. "
                "Resuming (--resume, or train(resume_from_checkpoint=True)) evaluates it and goes on; "
                "with eval_strategy = no it goes on without."
            )

    def _settle(self) -> None:
        """Let the checkpoint of this step know how its evaluation came out; the old ones may go only now."""
        folder = self.folder.checkpoint(self.state.global_step)
        if (folder / STATE_FILE).is_file():  # a run may have come from another folder's checkpoint
            self.world.on_first(lambda: write_json(folder / STATE_FILE, self.state.to_dict()))
        self._rotate()

    def _rotate(self) -> None:
        self.world.on_first(lambda: self.folder.rotate(self.args.save_total_limit, self.state.best_step))

    def _evaluate_if_due(self) -> None:
        """Make up for the evaluation that the checkpoint was saved before."""
        if not self.state.evaluation_due:
            return
        if self.trainer.eval_examples is not None and self.args.eval_strategy != "no":
            self._evaluate_safely(saved=True)
        self.state.evaluation_due = False

    def warn_of_unread_sources(self) -> None:
        """Say so if the last evaluation found that the model writes without reading."""
        if self.world.first and self._source_gain < UNREAD and self.state.global_step >= UNREAD_STEPS:
            warn(
                "The model does not read its sources: with the sources of other pairs its loss is the same "
                f"(eval_source_gain = {self._source_gain:.4f}). Lower encoder_learning_rate, to a tenth of "
                "learning_rate, say, so that the encoder keeps what it knows; or train longer."
            )

    def _compare(self, metrics: dict[str, float]) -> None:
        """Note the best evaluation; stop after too many that were no better."""
        state, value = self.state, deciding(metrics, self.args.metric_for_best_model)
        gain = math.inf if state.best_metric is None else value - state.best_metric
        gain = gain if self.args.better_when_greater or state.best_metric is None else -gain
        if math.isfinite(value) and gain > self.args.early_stopping_threshold:
            state.best_metric, state.best_step = value, state.global_step
            state.evaluations_without_progress = 0
            return
        state.evaluations_without_progress += 1
        self.control.should_training_stop |= self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        patience = self.args.early_stopping_patience
        return patience is not None and self.state.evaluations_without_progress >= patience

    def save(self, *, evaluation_due: bool = False) -> None:
        """Keep a checkpoint.

        Args:
            evaluation_due: Its step is evaluated next; a run that is resumed from it begins with that.
        """
        self._read_losses()
        self.recorder.tick()
        self.state.evaluation_due = evaluation_due
        step = self.state.global_step
        try:
            self.engine.save(self.folder.checkpoint(step), self.state)
        except ConjoinError as error:
            raise as_training_error(error, self.folder, step) from error
        if not evaluation_due:
            self._rotate()
        self.recorder.pause()
        self.trainer.call_back("on_save", self)

    def _stop_if(self, signal_name: str | None) -> None:
        if signal_name is None:
            return
        self.save()
        raise Stopped(
            f"Stopped by {signal_name} after step {self.state.global_step} of {self.state.max_steps}; "
            f"{self.folder.checkpoint(self.state.global_step)} is saved.",
            by=signal_name,
            hint="--resume goes on from there.",
        )
