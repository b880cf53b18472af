"""Dtypes by name."""

from typing import Any

import jax.numpy as jnp

from conjoin.errors import ConfigError
from conjoin.pretrained.dtypes import FLOATING


def dtype_name(dtype: Any) -> str:
    """A floating dtype's name from its name or from itself.

    Raises:
        ConfigError: no floating dtype of that name.
    """
    given = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    try:
        name = jnp.dtype(given).name
    except TypeError:
        name = str(given)
    if name not in FLOATING:
        raise ConfigError(f"dtype = {dtype!r}; expected one of {', '.join(FLOATING)}.")
    return name
