"""AdamW over a flat dict of arrays, each part of the model with its own learning rate (arXiv:1711.05101)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]

CLIP_GUARD = 1e-6
"""PyTorch's guard in clip_grad_norm_."""


class Moments(NamedTuple):
    """Means of gradients and of their squares."""

    first: Arrays
    second: Arrays


class Settings(NamedTuple):
    """AdamW's hyperparameters, fixed for a run."""

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_norm: float


def zero_moments(params: Mapping[str, jax.Array]) -> Moments:
    """Return the moments of a new run."""
    return Moments(*({name: jnp.zeros_like(value) for name, value in params.items()} for _ in range(2)))


def global_norm(gradients: Mapping[str, jax.Array]) -> jax.Array:
    """Return the norm of all gradients together."""
    squares = (jnp.sum(jnp.square(value)) for value in gradients.values())
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def adamw(
    params: Arrays,
    moments: Moments,
    gradients: Arrays,
    rates: Mapping[str, jax.Array],
    counts: Mapping[str, jax.Array],
    settings: Settings,
) -> tuple[Arrays, Moments, jax.Array]:
    """One update of the parameters that have gradients; the others stay.

    Args:
        rates: Learning rate of each parameter.
        counts: Number of updates of each parameter, this one included.

    Returns:
        Parameters, moments, and the gradients' norm before clipping.
    """
    norm = global_norm(gradients)
    scale = jnp.minimum(1.0, settings.max_norm / (norm + CLIP_GUARD)) if settings.max_norm else jnp.float32(1)
    params, first, second = dict(params), dict(moments.first), dict(moments.second)
    for name, raw in gradients.items():
        gradient = raw * scale
        first[name] = settings.beta1 * first[name] + (1 - settings.beta1) * gradient
        second[name] = settings.beta2 * second[name] + (1 - settings.beta2) * jnp.square(gradient)
        count = counts[name].astype(jnp.float32)
        mean = first[name] / (1 - settings.beta1**count)
        spread = jnp.sqrt(second[name] / (1 - settings.beta2**count)) + settings.epsilon
        decay = settings.weight_decay if params[name].ndim > 1 else 0.0
        params[name] = params[name] * (1 - rates[name] * decay) - rates[name] * mean / spread
    return params, Moments(first, second), norm
