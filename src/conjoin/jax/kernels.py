"""Decoding with our own kernels, which XLA calls from inside a compiled program (decision 16).

A decoding step multiplies every matrix with one row per hypothesis. For more than one row XLA first repacks the matrix;
our kernel reads it in place, on XLA's threads.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin.functional.kernel_limits import few_queries, few_rows, say_of_all
from conjoin.functional.ops import Ops
from conjoin.jax.ops import JaxOps
from conjoin.native.build import load

_MULTIPLY, _ATTEND = "conjoin_multiply", "conjoin_attend"
_DTYPES = ("float32", "bfloat16")


class KernelOps(JaxOps):
    """JAX's operations, with kernels for few rows. They have no gradients and need arrays on one CPU."""

    @staticmethod
    def linear(x: jax.Array, matrix: jax.Array, *, transposed: bool = False) -> jax.Array:
        """Return x W^T, computed by the kernel if x has few rows."""
        if transposed or not _is_for_kernel(x, matrix):
            return JaxOps.linear(x, matrix, transposed=transposed)
        rows = jnp.reshape(x, (-1, x.shape[-1]))
        shape = jax.ShapeDtypeStruct((rows.shape[0], matrix.shape[0]), x.dtype)
        return jnp.reshape(jax.ffi.ffi_call(_MULTIPLY, shape)(rows, matrix), (*x.shape[:-1], matrix.shape[0]))

    @staticmethod
    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array | None, bias: jax.Array | None, scale: float
    ) -> jax.Array | None:
        """Return attention computed by the kernel; None if more than a few queries read a key head."""
        alike = q.dtype == k.dtype == v.dtype and q.dtype.name in _DTYPES
        if not alike or not few_queries(q.shape, k.shape, v.shape) or (bias is not None and bias.shape[0] != 1):
            return None
        mask_shape, bias_shape = (None if x is None else x.shape for x in (allowed, bias))
        if not say_of_all(mask_shape, bias_shape, q.shape, k.shape):
            return None
        missing = jnp.zeros(1)
        keys_values = (jnp.reshape(x, (-1, *x.shape[2:])) for x in (k, v))
        mask = missing if allowed is None else allowed
        operands = (q, *keys_values, mask, missing if bias is None else bias.astype("float32"))
        rows, heads, length, size = q.shape
        shape = jax.ShapeDtypeStruct((rows, length, heads, size), q.dtype)
        mixed = jax.ffi.ffi_call(_ATTEND, shape)(*operands, kv_heads=np.int64(k.shape[1]), scale=np.float32(scale))
        return jnp.einsum("rthe->rhte", mixed)


OPS = cast(Ops, KernelOps())


def _is_for_kernel(x: jax.Array, matrix: jax.Array) -> bool:
    rows = x.size // x.shape[-1] if x.size else 0
    fit = matrix.ndim == 2 and x.shape[-1:] == matrix.shape[1:]
    return fit and few_rows(rows) and x.dtype == matrix.dtype and x.dtype.name in _DTYPES


def can_read(parameters: Iterable[Any]) -> bool:
    """True if the kernels are available and all parameters are concrete arrays on one CPU."""
    return all(_is_on_one_cpu(x) for x in parameters) and _registered()


def _is_on_one_cpu(x: Any) -> bool:
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
        return False
    return [device.platform for device in x.devices()] == ["cpu"]


@lru_cache(maxsize=1)
def _registered() -> bool:
    """Compile the kernels, or load them from the cache, and register them with XLA; True if that worked."""
    library = load("xla_jax.cpp", f"-I{jax.ffi.include_dir()}")
    if library is None:
        return False
    for name in (_MULTIPLY, _ATTEND):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(library[name]), platform="cpu")
    return True
