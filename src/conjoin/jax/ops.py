"""JAX's operations, under the names of conjoin.functional.ops.Ops."""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from conjoin.functional.ops import Ops, column_mask

# JAX's types leave out parts of these.
_jax: Any = jax
_lax: Any = lax
_numpy: Any = jnp


class JaxOps:
    """See conjoin.functional.ops.Ops."""

    reshape = staticmethod(_numpy.reshape)
    broadcast = staticmethod(jnp.broadcast_to)
    concat = staticmethod(jnp.concatenate)
    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    tanh = staticmethod(jnp.tanh)
    erf = staticmethod(lax.erf)
    sigmoid = staticmethod(jax.nn.sigmoid)
    cos = staticmethod(jnp.cos)
    sin = staticmethod(jnp.sin)
    rsqrt = staticmethod(lax.rsqrt)
    minimum = staticmethod(jnp.minimum)
    maximum = staticmethod(jnp.maximum)
    where = staticmethod(jnp.where)
    einsum = staticmethod(_numpy.einsum)
    softmax = staticmethod(jax.nn.softmax)
    log_softmax = staticmethod(jax.nn.log_softmax)
    sum = staticmethod(jnp.sum)
    mean = staticmethod(jnp.mean)
    max = staticmethod(jnp.max)
    min = staticmethod(jnp.min)
    any = staticmethod(jnp.any)
    all = staticmethod(jnp.all)
    cumsum = staticmethod(jnp.cumsum)
    top_k = staticmethod(lax.top_k)
    gather = staticmethod(jnp.take_along_axis)
    write_at = staticmethod(lax.dynamic_update_slice_in_dim)
    slice_at = staticmethod(lax.dynamic_slice_in_dim)
    while_loop = staticmethod(lax.while_loop)
    cond = staticmethod(_lax.cond)
    recompute = staticmethod(_jax.checkpoint)
    fold_in = staticmethod(jax.random.fold_in)

    @staticmethod
    def shape(x: jax.Array) -> tuple[int, ...]:
        return x.shape

    @staticmethod
    def repeat(x: jax.Array, count: int) -> jax.Array:
        return jnp.repeat(x, count, axis=0)

    @staticmethod
    def constant(value: Any, dtype: Any = None) -> jax.Array:
        return jnp.asarray(value, dtype)

    @staticmethod
    def full(shape: Sequence[int], value: Any, dtype: Any) -> jax.Array:
        return jnp.full(shape, value, dtype)

    @staticmethod
    def arange(stop: int) -> jax.Array:
        return jnp.arange(stop, dtype=jnp.int32)

    @staticmethod
    def cast(x: jax.Array, dtype: Any) -> jax.Array:
        return x.astype(dtype)

    @staticmethod
    def bfloat16_of(x: jax.Array) -> jax.Array:
        return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)

    @staticmethod
    def linear(x: jax.Array, matrix: jax.Array, *, transposed: bool = False) -> jax.Array:
        return jnp.einsum("...n,nm->...m" if transposed else "...n,mn->...m", x, matrix)

    @staticmethod
    def matmul(x: jax.Array, y: jax.Array, *, transposed: bool = False) -> jax.Array:
        """Multiply without jnp.einsum, which may swap x and y: XLA then copies y at every step of a loop."""
        left, right = (jnp.reshape(each, (-1, *each.shape[-2:])) for each in (x, y))
        product = lax.dot_general(left, right, (((2,), (2 if transposed else 1,)), ((0,), (0,))))
        return jnp.reshape(product, (*x.shape[:-1], product.shape[-1]))

    @staticmethod
    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array | None, bias: jax.Array | None, scale: float
    ) -> jax.Array | None:
        """Return None: JAX's own attention is not used."""
        return None

    @staticmethod
    def argmax(x: jax.Array) -> jax.Array:
        return jnp.argmax(x, axis=-1).astype(jnp.int32)

    @staticmethod
    def take(table: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.take(table, ids, axis=0)

    @staticmethod
    def add_at(x: jax.Array, index: jax.Array, values: jax.Array) -> jax.Array:
        return x.at[jnp.arange(x.shape[0])[:, None], index].add(values)

    @staticmethod
    def min_at(x: jax.Array, index: jax.Array, values: jax.Array) -> jax.Array:
        return x.at[jnp.arange(x.shape[0])[:, None], index].min(values)

    @staticmethod
    def put_at(x: jax.Array, index: jax.Array, values: Any) -> jax.Array:
        return x.at[jnp.arange(x.shape[0])[:, None], index].set(values)

    @staticmethod
    def fill_columns(x: jax.Array, columns: Any, value: float) -> jax.Array:
        return jnp.where(column_mask(columns, x.shape[1]), value, x)

    @staticmethod
    def logsumexp(x: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(x, axis=-1, keepdims=True)

    @staticmethod
    def nan_to_num(x: jax.Array) -> jax.Array:
        return jnp.nan_to_num(x, nan=0.0)

    @staticmethod
    def sort(x: jax.Array, *, only_possible: bool = False) -> tuple[jax.Array, jax.Array]:
        negative, index = lax.top_k(-x, x.shape[-1])
        return -negative, index

    @staticmethod
    def uniform(rng: jax.Array, shape: Sequence[int]) -> jax.Array:
        return jax.random.uniform(rng, shape)


OPS = cast(Ops, JaxOps())
