"""What the tests of the JAX backend share: precise products, torch's parameters as arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

CLOSE = {"rtol": 1e-5, "atol": 1e-5}

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")


def arrays_of(model: nn.Module) -> dict[str, jax.Array]:
    """A torch model's parameters under their canonical names, shared ones under every name."""
    return {name: as_array(p) for name, p in model.named_parameters(remove_duplicate=False)}


def as_array(tensor: Tensor) -> jax.Array:
    """The same numbers."""
    return jnp.asarray(tensor.detach().numpy())


def inputs(batch: dict[str, Tensor]) -> dict[str, jax.Array]:
    """A batch of tensors as arrays."""
    return {name: jnp.asarray(tensor.numpy().astype(np.int32)) for name, tensor in batch.items()}


def assert_close(ours: Any, theirs: Tensor, mask: Tensor | None = None, **tolerance: float) -> None:
    """JAX's numbers are torch's, where a mask says that somebody reads them."""
    mine, expected = np.asarray(ours), theirs.detach().numpy()
    if mask is not None:
        real = mask.numpy().astype(bool)[..., None]
        mine, expected = np.where(real, mine, 0), np.where(real, expected, 0)
    np.testing.assert_allclose(mine, expected, **{**CLOSE, **tolerance})


def same(ours: Any, theirs: Tensor) -> bool:
    """Whether ids are equal, shapes too."""
    return np.array_equal(np.asarray(ours), theirs.numpy()) and torch.is_tensor(theirs)
