"""From a plan to arrays of JAX."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from conjoin.join import JoinReport
from conjoin.pretrained import filling

Params = dict[str, jax.Array]
"""Canonical name -> array; a shared parameter stands under one name only."""


def fill(plan: JoinReport, dtype: str, *, seed: int = 0, given: Mapping[str, jax.Array] | None = None) -> Params:
    """Every parameter of a plan but the tied ones; see conjoin.pretrained.filling."""
    return filling.fill(plan, dtype, jnp.asarray, seed=seed, given=given)
