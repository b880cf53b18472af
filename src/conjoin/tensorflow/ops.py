"""TensorFlow's operations, under the names that conjoin.functional asks for.

Each of them but the random ones gives the same numbers eagerly, in a tf.function and compiled by XLA, and takes lengths
that are not known while a function is traced.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import tensorflow as tf

from conjoin.errors import ConfigError
from conjoin.functional.ops import Array, Ops, column_mask

State = TypeVar("State")

_RANDOM = "philox"
"""Named, so that numbers repeat on every kind of device; XLA's differ from the kernels' nevertheless."""


class TFOps:
    """See conjoin.functional.ops.Ops."""

    broadcast = staticmethod(tf.broadcast_to)
    concat = staticmethod(tf.concat)
    exp = staticmethod(tf.exp)
    log = staticmethod(tf.math.log)
    tanh = staticmethod(tf.tanh)
    erf = staticmethod(tf.math.erf)
    sigmoid = staticmethod(tf.sigmoid)
    cos = staticmethod(tf.cos)
    sin = staticmethod(tf.sin)
    rsqrt = staticmethod(tf.math.rsqrt)
    minimum = staticmethod(tf.minimum)
    maximum = staticmethod(tf.maximum)
    log_softmax = staticmethod(tf.nn.log_softmax)
    sum = staticmethod(tf.reduce_sum)
    mean = staticmethod(tf.reduce_mean)
    max = staticmethod(tf.reduce_max)
    min = staticmethod(tf.reduce_min)
    any = staticmethod(tf.reduce_any)
    all = staticmethod(tf.reduce_all)
    cumsum = staticmethod(tf.cumsum)
    cast = staticmethod(tf.cast)
    cond = staticmethod(tf.cond)
    take = staticmethod(tf.gather)

    @staticmethod
    def shape(x: Array) -> tuple[Any, ...]:
        """Numbers where they are known, else tensors."""
        known = x.shape.as_list()
        if None not in known:
            return tuple(known)
        told = tf.shape(x)
        return tuple(told[axis] if size is None else size for axis, size in enumerate(known))

    @staticmethod
    def reshape(x: Array, shape: Sequence[Any]) -> Array:
        """The one size that is not known, if there is one, is left to the kernel: sizes cost a graph of their own."""
        unknown = [size for size in shape if tf.is_tensor(size)]
        if len(unknown) == 1 and not any(isinstance(size, int) and size == -1 for size in shape):
            shape = [-1 if tf.is_tensor(size) else size for size in shape]
        return tf.reshape(x, shape)

    @staticmethod
    def repeat(x: Array, count: int) -> Array:
        return x if count == 1 else tf.repeat(x, count, axis=0)

    @staticmethod
    def constant(value: Any, dtype: Any = None) -> Array:
        if tf.is_tensor(value):
            return value if dtype is None else tf.cast(value, dtype)
        return tf.convert_to_tensor(value, None if dtype is None else tf.as_dtype(dtype))

    @staticmethod
    def full(shape: Sequence[Any], value: Any, dtype: Any) -> Array:
        return tf.fill(shape, tf.constant(value, tf.as_dtype(dtype)))

    @staticmethod
    def arange(stop: Any) -> Array:
        return tf.range(stop, dtype=tf.int32)

    @staticmethod
    def where(condition: Array, x: Any, y: Any) -> Array:
        """Plain numbers take the dtype of the tensor beside them."""
        tensor = next((each for each in (x, y) if tf.is_tensor(each)), None)
        dtype = None if tensor is None else tensor.dtype
        x, y = (each if tf.is_tensor(each) else tf.constant(each, dtype) for each in (x, y))
        return tf.where(condition, x, y)

    @staticmethod
    def einsum(equation: str, *arrays: Array) -> Array:
        if len(arrays) == 1:
            before, after = equation.split("->")
            return tf.transpose(arrays[0], [before.index(axis) for axis in after])
        return tf.einsum(equation, *arrays)

    @staticmethod
    def bfloat16_of(x: Array) -> Array:
        return tf.cast(tf.cast(x, tf.bfloat16), tf.float32)

    @staticmethod
    def linear(x: Array, matrix: Array, *, transposed: bool = False) -> Array:
        """As one product of matrices."""
        if x.shape.rank == 2:
            return tf.matmul(x, matrix, transpose_b=not transposed)
        lead, width = TFOps.shape(x)[:-1], matrix.shape[::-1] if transposed else matrix.shape
        flat = tf.matmul(tf.reshape(x, (-1, width[1])), matrix, transpose_b=not transposed)
        return TFOps.reshape(flat, (*lead, width[0]))

    @staticmethod
    def matmul(x: Array, y: Array, *, transposed: bool = False) -> Array:
        return tf.matmul(x, y, transpose_b=transposed)

    @staticmethod
    def attend(q: Array, k: Array, v: Array, allowed: Array | None, bias: Array | None, scale: float) -> Array | None:
        """No such call here."""
        return None

    @staticmethod
    def softmax(x: Array) -> Array:
        """Of rows: oneDNN's kernel takes no more than five axes."""
        if x.shape.rank <= 2:
            return tf.nn.softmax(x)
        known = x.shape.as_list()
        rows = tf.nn.softmax(TFOps.reshape(x, (-1, TFOps.shape(x)[-1])))
        return tf.reshape(rows, known if None not in known else tf.shape(x))

    @staticmethod
    def argmax(x: Array) -> Array:
        return tf.argmax(x, axis=-1, output_type=tf.int32)

    @staticmethod
    def top_k(x: Array, k: int) -> tuple[Array, Array]:
        values, where = tf.math.top_k(x, k)
        return values, where

    @staticmethod
    def gather(x: Array, index: Array, axis: int) -> Array:
        """Along the last axis of x and index, both transposed so that it is the one."""
        rank = x.shape.rank
        last = axis % rank == rank - 1
        order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
        back = sorted(range(rank), key=order.__getitem__)
        x, index = (x, index) if last else (tf.transpose(x, order), tf.transpose(index, order))
        found = tf.gather(x, index, batch_dims=rank - 1)
        return found if last else tf.transpose(found, back)

    @staticmethod
    def slice_at(x: Array, start: Any, size: int, axis: int) -> Array:
        """A start before the array's own is moved there, as in JAX."""
        start = tf.clip_by_value(start, 0, tf.shape(x)[axis] - size)
        return tf.gather(x, start + tf.range(size), axis=axis)

    @staticmethod
    def write_at(x: Array, values: Array, start: Any, axis: int) -> Array:
        """A choice at every place, not a scatter: every device and every server has it."""
        here = tf.range(tf.shape(x)[axis]) - start
        count = TFOps.shape(values)[axis]
        inside = tf.reshape((here >= 0) & (here < count), [-1 if i == axis else 1 for i in range(x.shape.rank)])
        if not (isinstance(count, int) and count == 1):
            values = tf.gather(values, tf.clip_by_value(here, 0, count - 1), axis=axis)
        return tf.where(inside, values, x)

    @staticmethod
    def add_at(x: Array, index: Array, values: Array) -> Array:
        return tf.tensor_scatter_nd_add(x, _places(index), tf.broadcast_to(values, TFOps.shape(index)))

    @staticmethod
    def min_at(x: Array, index: Array, values: Array) -> Array:
        return tf.tensor_scatter_nd_min(x, _places(index), values)

    @staticmethod
    def put_at(x: Array, index: Array, values: Any) -> Array:
        values = values if tf.is_tensor(values) else tf.fill(TFOps.shape(index), tf.constant(values, x.dtype))
        return tf.tensor_scatter_nd_update(x, _places(index), values)

    @staticmethod
    def fill_columns(x: Array, columns: Any, value: float) -> Array:
        return TFOps.where(column_mask(columns, x.shape[1]), value, x)

    @staticmethod
    def logsumexp(x: Array) -> Array:
        return tf.reduce_logsumexp(x, axis=-1, keepdims=True)

    @staticmethod
    def nan_to_num(x: Array) -> Array:
        clipped = tf.clip_by_value(x, x.dtype.min, x.dtype.max)
        return tf.where((x > 0) | (x <= 0), clipped, tf.zeros_like(x))

    @staticmethod
    def sort(x: Array, *, only_possible: bool = False) -> tuple[Array, Array]:
        negative, index = tf.math.top_k(-x, TFOps.shape(x)[-1])
        return -negative, index

    @staticmethod
    def while_loop(goes_on: Callable[[State], Array], body: Callable[[State], State], state: State) -> State:
        """tf.while_loop, whose arrays keep the shapes that are known before it."""

        def step(before: State) -> list[State]:
            after = body(before)
            for old, new in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
                if not tf.executing_eagerly():
                    new.set_shape(old.shape)
            return [after]

        return tf.while_loop(goes_on, step, [state])[0]

    @staticmethod
    def recompute(function: Callable[..., State]) -> Callable[..., State]:
        raise ConfigError(
            "Gradient checkpointing is not there on TensorFlow.", hint="train on PyTorch or JAX, from the same files."
        )

    @staticmethod
    def fold_in(rng: Array, number: int | Array) -> Array:
        return tf.random.fold_in(rng, number, alg=_RANDOM)

    @staticmethod
    def uniform(rng: Array, shape: Sequence[Any]) -> Array:
        return tf.random.stateless_uniform(shape, rng, alg=_RANDOM)


def _places(index: Array) -> Array:
    """Index [R, n] into columns as pairs of row and column."""
    row = tf.broadcast_to(tf.range(TFOps.shape(index)[0])[:, None], TFOps.shape(index))
    return tf.stack((row, index), -1)


OPS = cast(Ops, TFOps())
