"""One optimizer step on JAX: forward and backward over its batches, clipping, update, average."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from conjoin.errors import ConfigError, TrainingError
from conjoin.jax.calls import target_rules
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.programs import How, Net, forward
from conjoin.jax.training import parameter_table
from conjoin.join import part_of
from conjoin.training.arguments import GROUPS, TrainingArguments
from conjoin.training.jax.adamw import Arrays, Moments, Settings, adamw, zero_moments
from conjoin.training.schedules import group_rate

Batch = Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """On the device still.

    Args:
        loss: Mean over the step's counted labels.
        grad_norm: Before clipping.
    """

    loss: jax.Array
    grad_norm: jax.Array


class Engine:
    """A model and what trains it.

    Attributes:
        trained: Names of the parameters that are trained.
        moments: What AdamW keeps of them.
        average: Their moving average, or None.
    """

    def __init__(
        self, model: FlaxEncoderDecoderModel, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]
    ) -> None:
        self.model, self.arguments = model, arguments
        frozen = _frozen_parts(model, arguments)
        table = parameter_table(model)
        self.trained = [name for name, kind in table.items() if kind.trained and part_of(name) not in frozen]
        if not self.trained:
            raise TrainingError("Every parameter is frozen; there is nothing to train.", hint="leave --freeze out")
        self._fresh = set(fresh)
        self._rates = {group: group_rate(arguments, group, total_steps) for group in GROUPS}
        self._key = jax.random.key(arguments.seed)
        dtype = "bfloat16" if arguments.bf16 else None
        self._net = model.net if dtype is None else replace(model.net, dtype=dtype)
        self.params: Arrays = {name: jnp.array(value) for name, value in model.flat_params.items()}
        self.moments = zero_moments({name: self.params[name] for name in self.trained})
        self.average = {name: jnp.array(self.params[name]) for name in self.trained} if arguments.ema_decay else None

    def rates_at(self, step: int) -> dict[str, float]:
        """Learning rate by part of the model."""
        used = {_group(name) for name in self.trained}
        return {group: rate(step) for group, rate in self._rates.items() if group in used}

    def step(self, number: int, batches: Sequence[Batch], counted: int) -> StepResult:
        """Take one step.

        Args:
            number: 1 for the first.
            counted: Labels in the whole step, over all batches; its loss is their mean.
        """
        active = self._active(number)
        gradients, losses = None, []
        for index, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.fold_in(self._key, number), index)
            loss, found = _gradients(self._net, self._how(batch), active, self.params, batch, key, np.int32(counted))
            gradients = found if gradients is None else _sum(gradients, found)
            losses.append(loss)
        assert gradients is not None
        self.params, self.moments, norm = _update(
            self._settings(), self.params, self.moments, gradients, *self._numbers(number, active)
        )
        if self.average is not None:
            decay = min(self.arguments.ema_decay or 0.0, (1 + number) / (10 + number))
            live = {name: self.params[name] for name in self.trained}
            self.average = _averaged(self.average, live, np.float32(1 - decay))
        return StepResult(jnp.stack(losses).sum(), norm)

    def _active(self, number: int) -> tuple[str, ...]:
        """What this step trains: only fresh parameters in the first fresh_first steps."""
        only_fresh = number <= self.arguments.fresh_first
        return tuple(name for name in self.trained if not only_fresh or name in self._fresh)

    def _how(self, batch: Batch) -> How:
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
        late = self.arguments.fresh_first
        counts = {name: number if name in self._fresh else number - late for name in active}
        return (
            {name: np.float32(rates[_group(name)]) for name in active},
            {name: np.int32(count) for name, count in counts.items()},
        )

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Let the model have the weights that evaluations and saved models have: averaged ones where there are some."""
        self.give(averaged=True)
        try:
            yield
        finally:
            self.give(averaged=False)

    def give(self, *, averaged: bool) -> None:
        """Let the model have the present weights. They are copies: a step gives its own arrays away."""
        found = {**self.params, **(self.average or {})} if averaged else self.params
        self.model.params = {name: jnp.array(value) for name, value in found.items()}

    def loss(self, batch: Batch) -> jax.Array:
        """Summed loss of a batch with the model's weights, without label smoothing."""
        how = replace(self._how(batch), smoothing=0.0, recompute=False)
        return _summed_loss(self._net, how, self.model.flat_params, batch)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _gradients(
    net: Net, how: How, active: tuple[str, ...], params: Arrays, batch: Any, key: jax.Array, counted: jax.Array
) -> tuple[jax.Array, Arrays]:
    def loss(chosen: Arrays) -> jax.Array:
        found = forward(net, how, {**params, **chosen}, {**batch, "num_items_in_batch": counted}, key).loss
        assert found is not None
        return found

    return jax.value_and_grad(loss)({name: params[name] for name in active})


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _update(
    settings: Settings, params: Arrays, moments: Moments, gradients: Arrays, rates: Any, counts: Any
) -> tuple[Arrays, Moments, jax.Array]:
    return adamw(params, moments, gradients, rates, counts, settings)


@partial(jax.jit, donate_argnums=0)
def _sum(one: Arrays, other: Arrays) -> Arrays:
    return {name: value + other[name] for name, value in one.items()}


@partial(jax.jit, donate_argnums=0)
def _averaged(average: Arrays, live: Arrays, share: jax.Array) -> Arrays:
    return {name: value + share * (live[name] - value) for name, value in average.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _summed_loss(net: Net, how: How, params: Arrays, batch: Any) -> jax.Array:
    loss = forward(net, how, params, {**batch, "num_items_in_batch": jnp.int32(1)}, None).loss
    assert loss is not None
    return loss


def _group(name: str) -> str:
    part = part_of(name)
    return "cross_attention" if part == "decoder.cross_attention" else part.partition(".")[0]


def _frozen_parts(model: FlaxEncoderDecoderModel, arguments: TrainingArguments) -> set[str]:
    """The parts that the arguments name, whole or by one of their words."""
    there = {part_of(name) for name in model.flat_params}
    words = [word.strip() for word in arguments.freeze.split(",") if word.strip()]
    found = {word: {part for part in there if _names(word, part)} for word in words}
    if unknown := [word for word, parts in found.items() if not parts]:
        known = sorted({word for part in there for word in (part, *part.split("."))})
        raise ConfigError(
            f"No part of this model is called {', '.join(map(repr, unknown))}.\nExpected any of: {', '.join(known)}."
        )
    return set().union(*found.values())


def _names(word: str, part: str) -> bool:
    word = word.replace("embeddings", "embedding")
    return word == part or word in part.split(".")
