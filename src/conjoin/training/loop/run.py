"""One run: steps, logs, evaluations and checkpoints in their order, on any framework's engine."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from conjoin.checkpoint import write_json
from conjoin.errors import ConjoinError, TrainingError, warn
from conjoin.training.data.arrays import counted_labels, tokens_of
from conjoin.training.folder.recorder import Recorder
from conjoin.training.folder.run_folder import STATE_FILE, RunFolder, failed_save
from conjoin.training.loop.averaging import Snapshots
from conjoin.training.loop.budget import make_budget, position
from conjoin.training.loop.callbacks import TrainerControl
from conjoin.training.loop.checks import best_model_metric, warn_if_nothing_learns
from conjoin.training.loop.costs import Costs
from conjoin.training.loop.engine import Engine, Terms
from conjoin.training.loop.evaluator import GAIN_PAIRS, Evaluator
from conjoin.training.loop.interrupts import Interrupts, Stopped
from conjoin.training.loop.metric_numbers import plain_numbers
from conjoin.training.loop.recovery import UNREAD, UNREAD_STEPS, Recovery
from conjoin.training.loop.start import Start, Task
from conjoin.training.terminal import say

EVALUATIONS = 4
"""Evaluations within a budget of minutes or tokens, the one at its end included."""


class Run:
    """A run that takes the steps from a start to the last one.

    Args:
        evaluate: Computes the metrics of the validation data, named eval_...: a trainer's method, which users override.
        started: When the command started, by the clock of budgets.
        first: A snapshot of the first weights, to start again from; None if they are not kept.

    Attributes:
        state: Its progress.
    """

    def __init__(
        self,
        task: Task,
        start: Start,
        folder: RunFolder,
        engine: Engine,
        evaluator: Evaluator,
        evaluate: Callable[[], Mapping[str, Any]],
        started: float,
        first: Any = None,
    ) -> None:
        self.task, self.args, self.world, self.examples = task, task.args, task.world, task.examples
        self.state, self.plan, self._batches = start.state, start.plan, start.batches
        self.folder, self.engine = folder, engine
        self._evaluator, self._evaluate_model = evaluator, evaluate
        self.control = TrainerControl()
        self._costs = Costs(task, self.state)
        self._budget = make_budget(
            self.args, self.state, started=started, reserve=self._reserve, folder=folder.path, world=self.world
        )
        self._is_over = self._budget.is_over(self.state)
        if not self.args.has_budget:
            warn_if_nothing_learns(self.args, self.state.max_steps)
        self._snapshots = Snapshots(folder, engine, self.world, self.args.average_checkpoints)
        self._evaluated: tuple[int, dict[str, float]] | None = None
        self._norm, self._source_gain = 0.0, math.inf
        self._recovery = self._make_recovery(first) if self.args.recover else None
        self.control.should_training_stop = self._out_of_patience

    @property
    def epoch(self) -> float:
        """Passes over the data, the fraction of the running one included."""
        return self.state.epoch + self.state.batches_seen / max(len(self._batches), 1)

    def _make_recovery(self, first: Any) -> Recovery:
        report = self.task.model.join_report
        return Recovery(
            self.engine,
            self.state,
            self.folder,
            first=first,
            safer=self.task.safer,
            numbers=sum(numbers for *_, numbers in report.rows()),
            tell=self._tell,
        )

    def _tell(self, what: str) -> None:
        """Print a line, and keep it in the log."""
        if self.world.first:
            say(what)
        self.recorder.event(self.epoch, "event", {"what": what})

    def _reserve(self) -> float:
        """Return the seconds that the end of the run will take."""
        return self._costs.at_end()

    def _call_back(self, event: str, **kwargs: Any) -> None:
        for callback in self.task.callbacks:
            getattr(callback, event)(self.args, self.state, self.control, model=self.task.model, **kwargs)

    def go(self) -> None:
        """Take all remaining steps."""
        self.recorder = Recorder(self.folder, self.state, self.args.report_to, shown=self.world.first)
        self._snapshots.begin(self.state.global_step)
        try:
            with Interrupts(watched=not self.world.many) as interrupts:
                self._call_back("on_train_begin")
                self._evaluate_if_due()
                while not (self._is_over or self.control.should_training_stop):
                    self._step()
                    self._stop_if(interrupts.name)
                self._call_back("on_train_end")
        finally:
            self._budget.close()
            self.recorder.close()

    def _step(self) -> None:
        state = self.state
        planned = self._batches[state.batches_seen : state.batches_seen + self.plan.batches_per_step]
        examples, batches = self.examples.drawn(state.epoch, planned)
        counted = counted_labels(examples, batches)
        before = self._budget.share(state)
        self._budget.before_step(state)
        self.engine.terms = self._terms()
        finite = self.engine.step(state.global_step + 1, examples, batches, counted)
        state.global_step += 1
        state.batches_seen += len(batches)
        state.tokens_seen += tokens_of(examples, batches)
        if not finite:
            self._not_finite(self.examples.where(index for batch in planned for row in batch for index in row))
        epoch_ends = state.batches_seen >= len(self._batches)
        if epoch_ends:
            state.epoch, state.batches_seen = state.epoch + 1, 0
            self._batches = self.plan.epoch(state.epoch)
        self._budget.after_step(state)
        self._is_over = self._budget.is_over(state)
        self.recorder.stepped(self._budget.share(state))
        self._call_back("on_step_end")
        self._after_step(epoch_ends=epoch_ends, before=before)

    def _terms(self) -> Terms:
        """Return the terms of the next step."""
        at = position(self.state, self._budget)
        return Terms(at, self.state.rate_scale, dropout=self.epoch >= self.args.dropout_from_epoch)

    def _read_losses(self) -> None:
        """Add the losses of the engine to the state.

        Raises:
            TrainingError: they are not finite.
        """
        losses = self.engine.losses()
        if not losses.finite:
            self._not_finite(None)
            return
        if self._recovery is not None:
            self._recovery.add(losses.total, losses.steps)
        self.state.loss_sum += losses.total
        self.state.total_loss += losses.total
        self.state.loss_steps += losses.steps
        self._norm = losses.grad_norm

    def _not_finite(self, where: str | None) -> None:
        """Go back to the last good step, or fail.

        Args:
            where: The pairs of the step; None if it is one of several.
        """
        if self._recovery is not None and not (where and self.world.many):  # all processes go back together
            when = f"at step {self.state.global_step} ({where})" if where else f"by step {self.state.global_step}"
            self.engine.losses()
            if self._recovery.go_back(f"The loss or its gradient is not a finite number {when}"):
                return
        elif self._recovery is not None:
            return
        self._fail(where)

    def _fail(self, where: str | None) -> None:
        newest = self.folder.newest(self.state.global_step)
        safe = f"{newest.folder} is whole" if newest else "no checkpoint was written yet"
        since = f"at step {self.state.global_step}" if where else f"by step {self.state.global_step}"
        raise TrainingError(
            f"The loss or its gradient is not a finite number any more {since}"
            f"{f' (batch: {where})' if where else ''}. Nothing was saved since; {safe}.",
            hint="lower learning_rate, raise warmup_steps, use bf16 rather than fp16, or look at these pairs.",
        )

    def _after_step(self, *, epoch_ends: bool, before: float) -> None:
        state, control = self.state, self.control
        last = self._is_over or control.should_training_stop
        restarts = self._recovery is not None and self._watch(self._recovery, before)
        if state.global_step % self.args.logging_steps == 0 or last:
            self._log()
        evaluates = not restarts and (self._evaluates(epoch_ends, last, before) or control.should_evaluate)
        saves = self._saves(epoch_ends, last, evaluates) or control.should_save
        control.should_evaluate = control.should_save = False
        if saves:
            self.save(evaluation_due=evaluates, averages=not restarts)
        if evaluates:
            self._evaluate_safely(saved=saves)
            last = last or control.should_training_stop
            if not saves and (control.should_save or self._saves(epoch_ends, last, evaluates)):
                self.save()
        control.should_evaluate = control.should_save = False

    def _watch(self, recovery: Recovery, before: float) -> bool:
        """Look at the losses of every window, and now and then at what the sources contribute.

        Args:
            before: Part of the budget that was used before the step.

        Returns:
            True if the run starts again: the weights are the first ones.
        """
        restarts = False
        share = self._budget.share(self.state)
        if recovery.window_ends:
            self._read_losses()
            recovery.end_window()
        if not recovery.reading_due(before, share):
            return False
        with self.engine.preserve_random_state():  # rows may draw numbers when they are computed
            examples = self.task.eval_examples or self.examples.beginning(GAIN_PAIRS)
        gain = self._evaluator.source_gain(examples)
        if gain is not None:
            self._source_gain = gain
            self.recorder.event(self.epoch, "reading", {"source_gain": gain})
            restarts = recovery.judge_reading(gain, share)
            if restarts:
                self._snapshots.forget()
        self.recorder.pause()
        return restarts

    def _log(self) -> None:
        self._read_losses()
        state = self.state
        loss = state.loss_sum / max(state.loss_steps, 1)
        logs = self.recorder.train(self.epoch, loss, self._norm, self.engine.rates_at(state.global_step))
        state.loss_sum, state.loss_steps = 0.0, 0
        self._call_back("on_log", logs=logs)

    def _evaluates(self, epoch_ends: bool, last: bool, before: float) -> bool:
        """True if the step is to be evaluated.

        Args:
            before: Part of the budget that was used before the step.
        """
        if self.task.eval_examples is None:
            return False
        match self.args.eval_strategy:
            case "no":
                return False
            case "steps":
                return self.state.global_step % (self.args.eval_steps or self.args.logging_steps) == 0
            case "epoch":
                return epoch_ends
            case "auto" if self.args.has_budget:
                passed = int(before * EVALUATIONS) != int(self._budget.share(self.state) * EVALUATIONS)
                return last or (passed and self.world.from_first(self._costs.may_evaluate()))
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
        """Evaluate; if that fails, the step is saved all the same.

        Args:
            saved: True if there is a checkpoint of this step, into which the outcome is then written.
        """
        before = replace(self.state)
        try:
            with self.engine.preserve_random_state(), self._costs.evaluating():
                self._evaluate()
        except Exception as error:
            self.state.forget_evaluation(before)
            self._save_after(error, saved)
            raise
        self.state.evaluation_due = False
        if saved:
            self._update_checkpoint()

    def _evaluate(self) -> None:
        self._read_losses()
        examples = self.task.eval_examples
        assert examples is not None
        metrics = plain_numbers(self._evaluate_model(), "An evaluation")
        samples = self._evaluator.samples(examples, self.args.eval_samples)
        self.recorder.evaluation(self.epoch, metrics)
        for sample in samples:
            self.recorder.sample(self.epoch, *sample)
        self._source_gain = metrics.get("eval_source_gain", math.inf)
        self._compare(metrics)
        self._evaluated = self.state.global_step, metrics
        self._snapshots.keep(self.state.global_step)
        self.recorder.pause()
        self._call_back("on_evaluate", metrics=metrics)

    def _save_after(self, error: Exception, saved: bool) -> None:
        """Save the step whose evaluation failed, unless it is saved, and say in the error how to go on."""
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

    def _update_checkpoint(self) -> None:
        """Write the outcome of the evaluation into the checkpoint of this step; old ones may be deleted only now."""
        folder = self.folder.checkpoint(self.state.global_step)
        if (folder / STATE_FILE).is_file():  # a run may have come from another folder's checkpoint
            self.world.on_first(lambda: write_json(folder / STATE_FILE, self.state.to_dict()))
        self._rotate()

    def _rotate(self) -> None:
        self.world.on_first(lambda: self.folder.rotate(self.args.save_total_limit, self.state.best_step))

    def _evaluate_if_due(self) -> None:
        """Evaluate the step of the checkpoint, if it was saved before its evaluation."""
        if not self.state.evaluation_due:
            return
        if self.task.evaluates:
            self._evaluate_safely(saved=True)
        self.state.evaluation_due = False

    def warn_of_unread_sources(self) -> None:
        """Warn if the model ignored its sources in the last evaluation."""
        if self.world.first and self._source_gain < UNREAD and self.state.global_step >= UNREAD_STEPS:
            warn(
                "The model does not read its sources: with the sources of other pairs its loss is the same "
                f"(eval_source_gain = {self._source_gain:.4f}). Lower encoder_learning_rate, to a tenth of "
                "learning_rate, say, so that the encoder keeps what it knows; or train longer."
            )

    def _compare(self, metrics: dict[str, float]) -> None:
        """Note the best evaluation; stop after too many that were no better."""
        state, value = self.state, best_model_metric(metrics, self.args.metric_for_best_model)
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

    def save(self, *, evaluation_due: bool = False, averages: bool = True) -> None:
        """Save a checkpoint; later ones are of a run that went on from an earlier step, and are deleted.

        Args:
            evaluation_due: True if the step is evaluated next; a run that is resumed from it begins with that.
            averages: True if the weights belong to the mean of a run without evaluations.
        """
        self._read_losses()
        self.recorder.tick()
        self.state.evaluation_due = evaluation_due
        step = self.state.global_step
        self._budget.tick(self.state)
        try:
            with self._costs.saving():
                self.engine.save(self.folder.checkpoint(step), self.state)
        except ConjoinError as error:
            raise failed_save(error, self.folder, step) from error
        self.world.on_first(lambda: self.folder.discard_after(step))
        if self._recovery is not None:
            self._recovery.keep()
        if not evaluation_due:
            self._rotate()
        if averages and not self.task.evaluates:
            self._snapshots.keep(step)
        self.recorder.pause()
        self._call_back("on_save")

    def average(self) -> dict[str, float]:
        """Average the weights of the last evaluations, if that was asked for; return the metrics of the mean."""
        known, evaluated = None, self._evaluated
        if self.args.load_best_model_at_end:
            known = self.state.best_metric
        elif evaluated is not None and evaluated[0] == self.state.global_step:
            known = best_model_metric(evaluated[1], self.args.metric_for_best_model)
        evaluate = self._evaluate_model if self.task.evaluates else None
        return self._snapshots.average(self.args, evaluate, known)

    def _stop_if(self, signal_name: str | None) -> None:
        if signal_name is None:
            return
        self.save(averages=False)  # an uninterrupted run does not save here
        raise Stopped(
            f"Stopped by {signal_name} after step {self.state.global_step}{self.state.of_all}; "
            f"{self.folder.checkpoint(self.state.global_step)} is saved.",
            by=signal_name,
            hint="--resume goes on from there.",
        )
