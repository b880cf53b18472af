"""A run on JAX: steps (forward, backward, clipping, update, average), evaluations, checkpoints.

The model holds the weights all the time, so callbacks and evaluations see the present ones. A step gives their arrays
away; whoever wants to keep some copies them.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import Staging
from conjoin.errors import TrainingError
from conjoin.jax.calls import target_rules
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.programs import How, Net
from conjoin.jax.saving import write_pair
from conjoin.training.data.arrays import WEIGHTS, batch_arrays, label_weights
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.state import TrainerState
from conjoin.training.jax.adamw import Arrays, Settings, zero_moments
from conjoin.training.jax.batches import in_few_shapes
from conjoin.training.jax.checkpoints import restore_checkpoint, save_checkpoint
from conjoin.training.jax.programs import averaged, gradients_of, sum_of, summed_loss, update
from conjoin.training.jax.trained import trained_names
from conjoin.training.loop.engine import Losses, out_of_memory
from conjoin.training.loop.evaluating import evaluation_batches, generated
from conjoin.training.loop.schedules import group_rate
from conjoin.training.settings.arguments import GROUPS, TrainingArguments
from conjoin.training.settings.parts import group_of

Made = Mapping[str, NDArray[Any]]
"""Arrays of one batch."""


class Tally:
    """Losses of the steps since they were last read; kept on the device, which reading would make wait."""

    def __init__(self) -> None:
        self._unread: list[tuple[jax.Array, jax.Array]] = []
        self._norm = 0.0
        self._asks = jax.default_backend() == "cpu"

    def add(self, loss: jax.Array, norm: jax.Array) -> bool:
        """Take in a step; False where a CPU knows at once that it has no number."""
        self._unread.append((loss, norm))
        return not self._asks or _sound(loss, norm)

    def read(self) -> Losses:
        """Add up, and begin anew."""
        unread, self._unread = self._unread, []
        if unread:
            self._norm = float(unread[-1][1])
        sound = all(_sound(loss, norm) for loss, norm in unread)
        return Losses(sum(float(loss) for loss, _ in unread), len(unread), self._norm, sound)


def _sound(loss: jax.Array, norm: jax.Array) -> bool:
    return bool(np.isfinite(loss) & np.isfinite(norm))


class Engine:
    """A model and what trains it (conjoin.training.loop.engine.Engine).

    Args:
        total_steps: Of the run, for its schedules.
        fresh: Names of the parameters that no checkpoint had.
        source_pad: What fills up sources.

    Attributes:
        trained: Names of the parameters that are trained.
        updates: How many each of them had.
        moments: What AdamW keeps of them.
        average: Their moving average, or None.
    """

    def __init__(
        self,
        model: FlaxEncoderDecoderModel,
        arguments: TrainingArguments,
        total_steps: int = 1,
        fresh: Sequence[str] = (),
        source_pad: int = 0,
    ) -> None:
        self.model, self.arguments = model, arguments
        self.trained = trained_names(model, arguments)
        self.updates: dict[str, int] = {}
        self.moments = zero_moments({})
        self.average: Arrays | None = None
        self._fresh = set(fresh)
        self._source_pad = source_pad
        self._rates = {group: group_rate(arguments, group, total_steps) for group in GROUPS}
        self._key = jax.random.key(arguments.seed)
        self._net: Net = replace(model.net, dtype="bfloat16") if arguments.bf16 else model.net
        self._tally = Tally()

    def begin(self, step: int) -> None:
        """Get ready for the first step: copies of the weights, since the user's own must not be given away."""
        if not self.trained:
            raise TrainingError(
                "Every parameter is frozen; there is nothing to train.", hint="leave freeze out (--freeze)."
            )
        params = self.model.params = _copies(self.model.flat_params)
        chosen = {name: params[name] for name in self.trained}
        self.updates = dict.fromkeys(self.trained, 0)
        self.moments = zero_moments(chosen)
        self.average = _copies(chosen) if self.arguments.ema_decay else None

    def step(self, number: int, examples: Examples, batches: list[Batch], counted: float) -> bool:
        """Take one step; False where a CPU knows at once that it has no number."""
        made = [self._arrays(examples, batch) for batch in batches]
        with _out_of_memory_explained(made, number):
            return self._tally.add(*self._step(number, made, counted))

    def _step(self, number: int, batches: Sequence[Made], counted: float) -> tuple[jax.Array, jax.Array]:
        """Mean loss over the step's labels, and the gradients' norm before clipping."""
        active, params = self._active(number), self.model.flat_params
        gradients, losses = None, []
        divisor = np.int32(counted) if isinstance(counted, int) else np.float32(counted)
        for index, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.fold_in(self._key, number), index)
            loss, found = gradients_of(self._net, self._how(batch), active, params, batch, key, divisor)
            gradients = found if gradients is None else sum_of(gradients, found)
            losses.append(loss)
        assert gradients is not None
        self.updates |= {name: self.updates[name] + 1 for name in active}
        params, self.moments, norm = update(
            self._settings(), params, self.moments, gradients, *self._numbers(number, active)
        )
        self.model.params = params
        if self.average is not None:
            decay = min(self.arguments.ema_decay or 0.0, (1 + number) / (10 + number))
            live = {name: params[name] for name in self.trained}
            self.average = averaged(self.average, live, np.float32(1 - decay))
        return jnp.stack(losses).sum(), norm

    def _arrays(self, examples: Examples, batch: Batch) -> Made:
        """Arrays of one batch, in one of few shapes."""
        limits = (self.model.spec.encoder.max_positions, self.model.spec.decoder.max_positions)
        pad = self.model.config.pad_token_id
        arrays: dict[str, NDArray[Any]] = {**batch_arrays(examples, batch, self._source_pad, pad or 0)}
        if (weights := label_weights(examples, batch)) is not None:
            arrays[WEIGHTS] = weights
        if not examples.masks_made and "decoder_input_ids" not in arrays:
            arrays.setdefault("decoder_attention_mask", np.ones_like(arrays["labels"]))
        return in_few_shapes(arrays, self._source_pad, limits)

    def _active(self, number: int) -> tuple[str, ...]:
        """What this step trains: only fresh parameters in the first fresh_first steps."""
        only_fresh = number <= self.arguments.fresh_first
        return tuple(name for name in self.trained if not only_fresh or name in self._fresh)

    def _how(self, batch: Made) -> How:
        return How(
            recompute=self.arguments.gradient_checkpointing,
            smoothing=self.arguments.label_smoothing_factor,
            output_logits=False,
            rules=target_rules(self.model.config, dict(batch)),
        )

    def _settings(self) -> Settings:
        a = self.arguments
        return Settings(a.adam_beta1, a.adam_beta2, a.adam_epsilon, a.weight_decay, a.max_grad_norm)

    def _numbers(self, number: int, active: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Learning rate and count of updates of each parameter."""
        rates = self.rates_at(number)
        return (
            {name: np.float32(rates[group_of(name)]) for name in active},
            {name: np.int32(self.updates[name]) for name in active},
        )

    def losses(self) -> Losses:
        """Read the losses of the steps since the last call."""
        return self._tally.read()

    def rates_at(self, step: int) -> dict[str, float]:
        """Learning rate by part of the model."""
        used = {group_of(name) for name in self.trained}
        return {group: rate(step) for group, rate in self._rates.items() if group in used}

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Let the model have the weights that evaluations and saved models have."""
        live = self.model.flat_params
        self.model.params = {**live, **(self.average or {})}
        try:
            yield
        finally:
            self.model.params = live

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Put Python's and numpy's generators back afterwards; JAX has none."""
        python, numpys = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)

    def mean_loss(self, examples: Examples) -> float:
        """Loss per counted label, without label smoothing."""
        total = 0.0
        for batch in evaluation_batches(examples, self.arguments):
            made = self._arrays(examples, batch)
            how = replace(self._how(made), smoothing=0.0, recompute=False)
            total += float(summed_loss(self._net, how, self.model.flat_params, made))
        return total / (examples.counted(range(len(examples))) or 1)

    def predict(self, examples: Examples, settings: dict[str, Any]) -> list[list[int]]:
        """Generated ids of every example, in their order."""
        found: dict[int, list[int]] = {}
        for batch in evaluation_batches(examples, self.arguments):
            found |= dict(zip((row[0] for row in batch), self.write(examples, batch, settings), strict=True))
        return [found[index] for index in range(len(examples))]

    def write(self, examples: Examples, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
        """Generated ids of one batch."""
        made = self._arrays(examples, batch)
        own = {name: made[name] for name in ("attention_mask", *examples.column_names(target=False))}
        output = self.model.generate(made["input_ids"], **own, **settings)
        return generated(np.asarray(output.sequences)[: len(batch)].tolist(), self.model.config.pad_token_id)

    def cross_attention(self, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """What the decoder reads, layer by layer: [B, H, T, S]."""
        output: Any = self.model(**{**batch, "output_attentions": True})
        return [np.asarray(layer, np.float32) for layer in output.cross_attentions or ()]

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write the checkpoint of a step."""
        save_checkpoint(self, folder, state)

    def restore(self, folder: Path, step: int) -> None:
        """Go on from a checkpoint. Dropout needs no state: its keys are made of the seed and the step."""
        restore_checkpoint(self, folder)

    def settle(self) -> None:
        """Let the model have its final weights for good."""
        self.model.params = {**self.model.flat_params, **_copies(self.average or {})}

    def gathered(self) -> Callable[[Staging], None]:
        """What writes model and tokenizers."""
        return lambda staging: write_pair(self.model, staging, self.model.all_params())


def _copies(params: Mapping[str, jax.Array]) -> Arrays:
    return {name: jnp.array(value) for name, value in params.items()}


@contextmanager
def _out_of_memory_explained(batches: Sequence[Made], step: int) -> Iterator[None]:
    """Turn XLA's out-of-memory error into ours."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sources, targets = ([batch[name].shape for batch in batches] for name in ("input_ids", "labels"))
        raise out_of_memory(step, sources, targets) from error
