"""The compiled programs of training; the arrays that they update are donated."""

from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from conjoin.functional.loss import token_loss
from conjoin.functional.programs import CompileKey, ForwardOptions
from conjoin.jax.ops import OPS
from conjoin.jax.programs import compiled, forward
from conjoin.training.data.arrays import WEIGHTS
from conjoin.training.jax.adamw import Arrays, Moments, Settings, adamw


@compiled(static_argnums=(0, 1, 2))
def gradients_of(
    compile_key: CompileKey,
    options: ForwardOptions,
    active: tuple[str, ...],
    params: Arrays,
    batch: Any,
    key: jax.Array | None,
    counted: jax.Array | np.number[Any],
) -> tuple[jax.Array, Arrays]:
    """Return a batch's part of the step's mean loss, and its gradients.

    Args:
        active: Names of the parameters that have gradients.
        counted: Labels in the whole step.
    """

    def loss(trained: Arrays) -> jax.Array:
        return batch_loss(compile_key, options, {**params, **trained}, batch, counted, key)

    gradient: Any = jax.value_and_grad(loss)
    return gradient({name: params[name] for name in active})


@compiled(static_argnums=0, donate_argnums=(1, 2))
def update(
    settings: Settings, params: Arrays, moments: Moments, gradients: Arrays, rates: Any, counts: Any
) -> tuple[Arrays, Moments, jax.Array]:
    """Apply one update; see adamw."""
    return adamw(params, moments, gradients, rates, counts, settings)


@compiled(donate_argnums=0)
def sum_of(one: Arrays, other: Arrays) -> Arrays:
    """Return the sum of the gradients of two batches."""
    return {name: value + other[name] for name, value in one.items()}


@compiled(donate_argnums=0)
def averaged(average: Arrays, live: Arrays, share: jax.Array | np.number[Any]) -> Arrays:
    """Return the next value of a moving average."""
    return {name: value + share * (live[name] - value) for name, value in average.items()}


@compiled(static_argnums=(0, 1))
def summed_loss(compile_key: CompileKey, options: ForwardOptions, params: Arrays, batch: Any) -> jax.Array:
    """Return the loss of a batch, summed over its labels, without dropout."""
    return batch_loss(compile_key, options, params, batch, jnp.int32(1), None)


def batch_loss(
    compile_key: CompileKey,
    options: ForwardOptions,
    params: Arrays,
    batch: Any,
    counted: jax.Array | np.number[Any],
    key: jax.Array | None,
) -> jax.Array:
    """Return the loss of a batch: the weighted sum over its labels, divided by `counted`."""
    weights = batch.get(WEIGHTS)
    if weights is None:
        found = forward(compile_key, options, params, cast(Any, {**batch, "num_items_in_batch": counted}), key).loss
        assert found is not None
        return found
    logits = forward(compile_key, replace(options, output_logits=True), params, batch, key).logits
    assert logits is not None
    weighting: dict[str, Any] = {"num_items": counted, "label_smoothing": options.smoothing, "weights": weights}
    return token_loss(OPS, logits, batch["labels"], **weighting)
