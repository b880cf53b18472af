"""A run on JAX: steps (forward, backward, clipping, update, average), evaluations, checkpoints.

The model always holds the weights, so callbacks and evaluations see the present ones. A step donates their arrays, so
whoever wants to keep some must copy them.
"""

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import Staging
from conjoin.errors import TrainingError
from conjoin.functional.programs import ForwardOptions
from conjoin.jax.calls import target_rules
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.saving import write_pair
from conjoin.training.data.arrays import WEIGHTS, batch_arrays, label_weights
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.state import TrainerState
from conjoin.training.jax.adamw import Arrays, Moments, Settings, zero_moments
from conjoin.training.jax.batches import in_few_shapes
from conjoin.training.jax.checkpoints import load_weights, restore_checkpoint, save_checkpoint
from conjoin.training.jax.programs import averaged, gradients_of, sum_of, summed_loss, update
from conjoin.training.jax.trained import TrainedModel
from conjoin.training.loop.engine import Losses, Terms, out_of_memory
from conjoin.training.loop.evaluator import evaluation_batches, without_padding
from conjoin.training.loop.schedules import group_of, group_rate
from conjoin.training.settings.arguments import GROUPS, TrainingArguments

BatchArrays = Mapping[str, NDArray[Any]]
"""Arrays of one batch."""


class Tally:
    """Losses of the steps since they were last read, kept on the device, which reading would make wait."""

    def __init__(self) -> None:
        self._unread: list[tuple[jax.Array, jax.Array]] = []
        self._norm = 0.0
        self._waits = jax.default_backend() == "cpu"

    def add(self, loss: jax.Array, norm: jax.Array) -> bool:
        """Add a step; return False if a CPU finds at once that it is not finite."""
        self._unread.append((loss, norm))
        return not self._waits or _is_finite(loss, norm)

    def read(self) -> Losses:
        """Sum, and start anew."""
        unread, self._unread = self._unread, []
        if unread:
            self._norm = float(unread[-1][1])
        finite = all(_is_finite(loss, norm) for loss, norm in unread)
        return Losses(sum(float(loss) for loss, _ in unread), len(unread), self._norm, finite)


def _is_finite(loss: jax.Array, norm: jax.Array) -> bool:
    return bool(np.isfinite(loss) & np.isfinite(norm))


class Snapshot(NamedTuple):
    """A step of a run in main memory, by the names of parameters; first and second are AdamW's moments."""

    weights: dict[str, NDArray[Any]]
    first: dict[str, NDArray[Any]]
    second: dict[str, NDArray[Any]]
    updates: dict[str, int]
    average: dict[str, NDArray[Any]]


class Engine(TrainedModel):
    """Trains and evaluates a model (conjoin.training.loop.engine.Engine).

    Args:
        total_steps: Number of steps of the run, for its schedules.
        fresh: Names of the parameters that no checkpoint had.
        source_pad: The id that pads sources.
    """

    def __init__(
        self,
        model: FlaxEncoderDecoderModel,
        arguments: TrainingArguments,
        total_steps: int = 1,
        fresh: Sequence[str] = (),
        source_pad: int = 0,
    ) -> None:
        super().__init__(model, arguments)
        self._fresh = set(fresh)
        self._source_pad = source_pad
        self._total_steps = total_steps
        self._rates = {group: group_rate(arguments, group, total_steps) for group in GROUPS}
        self._key = jax.random.key(arguments.seed)
        self._compile_key = replace(model.key, dtype="bfloat16") if arguments.bf16 else model.key
        self._tally = Tally()
        self.terms = Terms()

    def begin(self, step: int) -> None:
        """Prepare the first step: copy the weights, since the user's own must not be donated."""
        if not self.parameters:
            raise TrainingError(
                "Every parameter is frozen; there is nothing to train.", hint="leave freeze out (--freeze)."
            )
        params = self.model.params = _copies(self.model.flat_params)
        chosen = {name: params[name] for name in self.parameters}
        self.updates = dict.fromkeys(self.parameters, 0)
        self.moments = zero_moments(chosen)
        self.average = _copies(chosen) if self.arguments.ema_decay else None

    def step(self, number: int, examples: Examples, batches: list[Batch], counted: float) -> bool:
        """Take one step; return False if a CPU finds at once that it is not finite."""
        arrays = [self._arrays(examples, batch) for batch in batches]
        with _out_of_memory_explained(arrays, number):
            return self._tally.add(*self._step(number, arrays, counted))

    def _step(self, number: int, batches: Sequence[BatchArrays], counted: float) -> tuple[jax.Array, jax.Array]:
        """Return the mean loss over the step's labels, and the gradient norm before clipping."""
        active, params = self._active(number), self.model.flat_params
        gradients: Arrays | None = None
        losses: list[jax.Array] = []
        divisor = np.int32(counted) if isinstance(counted, int) else np.float32(counted)
        for index, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.fold_in(self._key, number), index) if self.terms.dropout else None
            loss, own = gradients_of(self._compile_key, self._options(batch), active, params, batch, key, divisor)
            gradients = own if gradients is None else sum_of(gradients, own)
            losses.append(loss)
        assert gradients is not None
        self.updates |= {name: self.updates[name] + 1 for name in active}
        params, self.moments, norm = update(
            self._settings(), params, self.moments, gradients, *self._numbers(number, active)
        )
        self.model.params = params
        if self.average is not None:
            decay = min(self.arguments.ema_decay or 0.0, (1 + number) / (10 + number))
            live = {name: params[name] for name in self.parameters}
            self.average = averaged(self.average, live, np.float32(1 - decay))
        return jnp.stack(losses).sum(), norm

    def _arrays(self, examples: Examples, batch: Batch) -> BatchArrays:
        """Return the arrays of one batch, in one of few shapes."""
        limits = (self.model.spec.encoder.max_positions, self.model.spec.decoder.max_positions)
        pad = self.model.config.pad_token_id
        arrays: dict[str, NDArray[Any]] = {**batch_arrays(examples, batch, self._source_pad, pad or 0)}
        if (weights := label_weights(examples, batch)) is not None:
            arrays[WEIGHTS] = weights
        if not examples.masks_made and "decoder_input_ids" not in arrays:
            arrays.setdefault("decoder_attention_mask", np.ones_like(arrays["labels"]))
        return in_few_shapes(arrays, self._source_pad, limits)

    def _active(self, number: int) -> tuple[str, ...]:
        """Return the names of the parameters that a step trains: only fresh ones in the first fresh_first steps."""
        only_fresh = number <= self.arguments.fresh_first
        return tuple(name for name in self.parameters if not only_fresh or name in self._fresh)

    def _options(self, batch: BatchArrays) -> ForwardOptions:
        return ForwardOptions(
            recompute=self.arguments.gradient_checkpointing,
            smoothing=self.arguments.label_smoothing_factor,
            output_logits=False,
            rules=target_rules(self.model.config, dict(batch)),
        )

    def _settings(self) -> Settings:
        a = self.arguments
        return Settings(a.adam_beta1, a.adam_beta2, a.adam_epsilon, a.weight_decay, a.max_grad_norm)

    def _numbers(self, number: int, active: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return learning rate and number of updates of each parameter."""
        rates = self.rates_at(number)
        return (
            {name: np.float32(rates[group_of(name)]) for name in active},
            {name: np.int32(self.updates[name]) for name in active},
        )

    def losses(self) -> Losses:
        """Read the losses of the steps since the last call."""
        return self._tally.read()

    def rates_at(self, step: int) -> dict[str, float]:
        """Return the learning rate of every part of the model."""
        used = {group_of(name) for name in self.parameters}
        return self.terms.rates({group: rate for group, rate in self._rates.items() if group in used}, step)

    @contextmanager
    def evaluation_mode(self) -> Generator[None]:
        """Use averaged weights, if there are some."""
        live = self.model.flat_params
        self.model.params = {**live, **(self.average or {})}
        try:
            yield
        finally:
            self.model.params = live

    @contextmanager
    def preserve_random_state(self) -> Generator[None]:
        """Restore Python's and numpy's generators afterwards; JAX has none."""
        python, numpys = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)

    def mean_loss(self, examples: Examples) -> float:
        """Return the loss per label, without label smoothing."""
        total = 0.0
        for batch in evaluation_batches(examples, self.arguments):
            arrays = self._arrays(examples, batch)
            options = replace(self._options(arrays), smoothing=0.0, recompute=False)
            total += float(summed_loss(self._compile_key, options, self.model.flat_params, arrays))
        return total / (examples.counted(range(len(examples))) or 1)

    def predict(self, examples: Examples, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for every example, in order."""
        ids: dict[int, list[int]] = {}
        for batch in evaluation_batches(examples, self.arguments):
            ids |= dict(zip((row[0] for row in batch), self.generate(examples, batch, settings), strict=True))
        return [ids[index] for index in range(len(examples))]

    def generate(self, examples: Examples, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for one batch."""
        arrays = self._arrays(examples, batch)
        inputs = {name: arrays[name] for name in ("attention_mask", *examples.column_names(target=False))}
        output = self.model.generate(arrays["input_ids"], **inputs, **settings)
        return without_padding(np.asarray(output.sequences)[: len(batch)].tolist(), self.model.config.pad_token_id)

    def cross_attention(self, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Return the cross-attention weights of every layer: [B, H, T, S]."""
        output = cast(Any, self.model)(**batch, output_attentions=True)
        return [np.asarray(layer, np.float32) for layer in output.cross_attentions or ()]

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write the checkpoint of a step."""
        save_checkpoint(self, folder, state)

    def restore(self, folder: Path, step: int) -> None:
        """Load a checkpoint. Dropout needs no state: its keys are arrays of the seed and the step."""
        restore_checkpoint(self, folder)

    def snapshot(self) -> Snapshot | None:
        """Copy what steps change into main memory; None if a weight is not finite."""
        weights = _on_host(self.model.flat_params)
        if not all(np.isfinite(weights[name].astype(np.float32)).all() for name in self.parameters):
            return None
        first, second = (_on_host(part) for part in self.moments)
        return Snapshot(weights, first, second, dict(self.updates), _on_host(self.average or {}))

    def return_to(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        now = self.model.flat_params
        params = {name: jax.device_put(snapshot.weights[name], value.sharding) for name, value in now.items()}
        self.model.params, self.updates = params, dict(snapshot.updates)
        self.moments = Moments(*(_like(part, params) for part in (snapshot.first, snapshot.second)))
        self.average = _like(snapshot.average, params) if self.average is not None else None

    def start_again(self, arguments: TrainingArguments, first: Snapshot) -> None:
        """Go back to the first weights, without moments, and train by other arguments from there."""
        self.arguments = arguments
        self._rates = {group: group_rate(arguments, group, self._total_steps) for group in GROUPS}
        self.return_to(first)

    def load_weights(self, folder: Path) -> None:
        """Give the model the weights of a saved model."""
        self.model.params = load_weights(self.model, folder)

    def use_final_weights(self) -> None:
        """Give the model its final weights for good."""
        self.model.params = {**self.model.flat_params, **_copies(self.average or {})}

    def gather_weights(self) -> Callable[[Staging], None]:
        """Return a function that writes model and tokenizers."""
        return lambda staging: write_pair(self.model, staging, self.model.all_params())


def _on_host(params: Mapping[str, jax.Array]) -> dict[str, NDArray[Any]]:
    return {name: np.array(value) for name, value in params.items()}


def _like(values: Mapping[str, NDArray[Any]], params: Arrays) -> Arrays:
    """Return arrays placed as the parameters of the same names are."""
    return {name: jax.device_put(value, params[name].sharding) for name, value in values.items()}


def _copies(params: Mapping[str, jax.Array]) -> Arrays:
    return {name: jnp.array(value) for name, value in params.items()}


_RuntimeError: type[RuntimeError] = cast(Any, jax.errors).JaxRuntimeError


@contextmanager
def _out_of_memory_explained(batches: Sequence[BatchArrays], step: int) -> Generator[None]:
    """Turn XLA's out-of-memory error into ours."""
    try:
        yield
    except _RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sources, targets = ([batch[name].shape for batch in batches] for name in ("input_ids", "labels"))
        raise out_of_memory(step, sources, targets) from error
