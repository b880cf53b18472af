"""Where a run starts: at step 1, or after a checkpoint, which must have the same order of batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conjoin.errors import ConfigError, TrainingError, shown, warn
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.batching import Batches, Plan, choose_batching
from conjoin.training.data.examples import Examples
from conjoin.training.data.inputs import TrainingData
from conjoin.training.folder.run_folder import STATE_FILE, Checkpoint, RunFolder
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState
from conjoin.training.loop.callbacks import TrainerCallback
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.recipe import Recipe, differences, run_settings
from conjoin.training.terminal import say
from conjoin.training.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything about a run that stays the same from its first step to its last.

    Args:
        recipe: Recipe that the run was started from and writes into its folder; None without one.
        safer: Arguments to start again with, if the model does not learn to read.
    """

    model: Any
    tokenizer: Tokenizer | TokenizerPair | None
    args: TrainingArguments
    world: World
    examples: TrainingData
    eval_examples: Examples | None
    callbacks: Sequence[TrainerCallback]
    recipe: Recipe | None
    safer: TrainingArguments

    @property
    def evaluates(self) -> bool:
        """True if the run evaluates on validation data."""
        return self.eval_examples is not None and self.args.eval_strategy != "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run starts.

    Args:
        batches: Batches of the current epoch.
        resumed: True if the state is from a checkpoint.
        changed: Settings whose values have changed since then.
        other_validation: True if the validation data have changed since then.
    """

    state: TrainerState
    plan: Plan
    batches: Batches
    resumed: bool
    changed: list[str]
    other_validation: bool

    def announce(self, folder: RunFolder) -> None:
        """Print where the run resumes, and what has changed since the checkpoint."""
        if not self.resumed:
            say(f"{folder.path} has no checkpoint yet: the run begins with step 1{self.state.of_all}.")
            return
        say(f"{folder.path} goes on after step {self.state.global_step}{self.state.of_all}.")
        if self.changed:
            say(f"Settings that have changed: {', '.join(self.changed)}.")
        if self.other_validation:
            say("Its validation data have changed; the best evaluation so far was made on the earlier ones.")


def find_start(task: Task, checkpoint: Checkpoint | None) -> Start:
    """Return the start of a run.

    Raises:
        DamagedCheckpoint: the checkpoint's state cannot be read, or does not fit this run.
        TrainingError: the checkpoint belongs to another order of batches.
        ConfigError: the run has no steps, or fresh_first is set but no parameter is fresh.
    """
    if checkpoint is None:
        state = _new_state(task)
    else:
        with checkpoint.damage_explained():
            state = checkpoint.state()
    settings = run_settings(task.recipe, task.args)
    validation = None if task.eval_examples is None else task.eval_examples.fingerprint()
    changed = differences(state.words, settings)
    other_validation = None not in (validation, state.validation) and validation != state.validation
    state.words, state.validation = settings, validation
    plan = _make_plan(task, state)
    state.max_steps = _max_steps(task, plan)
    batches = plan.epoch(state.epoch)
    if checkpoint is not None:
        _check_position(checkpoint, state, batches)
    return Start(
        state=state,
        plan=plan,
        batches=batches,
        resumed=checkpoint is not None,
        changed=changed,
        other_validation=other_validation,
    )


def _new_state(task: Task) -> TrainerState:
    fresh = list(task.model.join_report.fresh)
    if task.args.fresh_first and not fresh:
        raise ConfigError(
            f"fresh_first = {task.args.fresh_first}, but no parameter is fresh: the model was loaded whole, or it "
            "is trained.",
            hint="give --encoder and --decoder instead of --model, or a folder that conjoin join wrote.",
        )
    return TrainerState(fresh=fresh, batches_per_step=_batches_per_step(task), plan=_order_of_batches(task))


def _batches_per_step(task: Task) -> int:
    return task.args.gradient_accumulation_steps * task.world.size


def _order_of_batches(task: Task) -> dict[str, object]:
    """Return everything that determines the order of batches."""
    return {
        "training data": task.examples.fingerprint(),
        "batches": repr(choose_batching(task.args, task.examples.lengths)),
        "order": task.args.train_sampling_strategy,
        "seed": task.args.seed,
    }


def _check_same_order(saved: dict[str, object], current: dict[str, object]) -> None:
    """Refuse to resume if the order of batches has changed.

    Raises:
        TrainingError: the order has changed; the error names the causes.
    """
    changed = [
        f"{name}: {_shown(saved.get(name))} before, {value} now"
        for name, value in current.items()
        if saved.get(name) != value
    ]
    if changed:
        raise TrainingError(
            f"The checkpoint belongs to another order of batches ({'; '.join(changed)}).",
            hint="resume with the data and batch settings of the run's recipe.yaml.",
        )


def _shown(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 200 else shown(value)


def _make_plan(task: Task, state: TrainerState) -> Plan:
    _check_same_order(state.plan, _order_of_batches(task))
    size, expected = task.world.size, _batches_per_step(task)
    if state.batches_per_step != expected:
        divides = state.batches_per_step % size == 0
        state.batches_per_step = state.batches_per_step if divides else expected
        warn(
            f"The run had {state.batches_per_step if divides else 'another number of'} batches per step, "
            f"the arguments and {size} processes make {expected}; it goes on with {state.batches_per_step}."
        )
    return Plan(
        lengths=task.examples.lengths,
        batching=choose_batching(task.args, task.examples.lengths),
        sampling=task.args.train_sampling_strategy,
        seed=task.args.seed,
        batches_per_step=state.batches_per_step,
        drop_last=task.args.dataloader_drop_last,
    )


def _max_steps(task: Task, plan: Plan) -> int:
    args = task.args
    if args.has_budget and plan.steps(0):
        return 0
    steps = args.max_steps if args.max_steps > 0 else plan.total_steps(args.num_train_epochs)
    if steps < 1 or not plan.steps(0):
        raise ConfigError(
            f"The run has no step: {len(task.examples)} pairs, num_train_epochs = {args.num_train_epochs}.",
            hint="lower gradient_accumulation_steps, or leave dataloader_drop_last out.",
        )
    return steps


def _check_position(checkpoint: Checkpoint, state: TrainerState, batches: Batches) -> None:
    """Refuse a checkpoint whose position is past the end of its epoch."""
    if 0 < state.batches_seen >= len(batches):
        with checkpoint.damage_explained():
            raise DamagedCheckpoint(
                f"{checkpoint.folder / STATE_FILE}: batches_seen = {state.batches_seen}, "
                f"and the epoch has {len(batches)}."
            )
