"""Decoding by kernels of our own, which XLA calls from inside a compiled program (decision 16)."""

import importlib
import os
from functools import lru_cache
from typing import Any, cast

import tensorflow as tf

from conjoin.functional.kernel_limits import few_queries, few_rows, say_of_all
from conjoin.functional.ops import Array, Ops
from conjoin.native.build import load
from conjoin.tensorflow.ops import TFOps

_BYTES = {tf.float32: 4, tf.bfloat16: 2}


class KernelOps(TFOps):
    """TensorFlow's operations, those on few rows apart. For programs that XLA compiles for a CPU."""

    @staticmethod
    def linear(x: Array, matrix: Array, *, transposed: bool = False) -> Array:
        """x W^T by the kernel where x has few rows."""
        if transposed or not _is_for_kernel(x, matrix):
            return TFOps.linear(x, matrix, transposed=transposed)
        (m, n), rows = matrix.shape, x.shape[:-1].num_elements()
        product = _call("conjoin_multiply", [tf.reshape(x, (rows, n)), matrix], (rows, n, m), (rows, m))
        return tf.reshape(product, (*x.shape[:-1], m))

    @staticmethod
    def attend(q: Array, k: Array, v: Array, allowed: Array | None, bias: Array | None, scale: float) -> Array | None:
        """Attention by the kernel where few queries read a key head."""
        arrays = [q, k, v, *(x for x in (allowed, bias) if x is not None)]
        if not all(x.shape.is_fully_defined() for x in arrays) or not (q.dtype == k.dtype == v.dtype in _BYTES):
            return None
        shape_q, shape_k, shape_v = (tuple(x.shape.as_list()) for x in (q, k, v))
        mask_shape, bias_shape = (None if x is None else tuple(x.shape.as_list()) for x in (allowed, bias))
        fit = few_queries(shape_q, shape_k, shape_v) and say_of_all(mask_shape, bias_shape, shape_q, shape_k)
        if not fit:
            return None
        if bias is not None and bias.shape[0] != 1:
            return None
        (rows, heads, length, size), (sources, groups, keys, _) = shape_q, shape_k
        masks = (0, 0) if allowed is None else (allowed.shape[0], allowed.shape[2])
        biases = 0 if bias is None else bias.shape[2]
        sizes = (sources, rows // sources, heads, groups, length, keys, size, *masks, biases)
        none = tf.zeros(1)
        given = [none if allowed is None else allowed, none if bias is None else tf.cast(bias, tf.float32)]
        kept = [tf.reshape(x, (-1, keys, size)) for x in (k, v)]  # as caches are held, else XLA copies them
        given = [q, *kept, *given, tf.constant([scale], tf.float32)]
        return tf.transpose(_call("conjoin_attend", given, sizes, (rows, length, heads, size)), (0, 2, 1, 3))


def _call(name: str, arrays: list[Array], sizes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """A custom call whose result has the dtype of the first array."""
    dtype = arrays[0].dtype
    (found,) = _custom_call()(
        operands=arrays,
        call_target_name=name,
        backend_config=" ".join(map(str, (_BYTES[dtype], _threads(), *sizes))),
        has_side_effect=False,
        result_dtypes=[dtype],
        result_shapes=[tf.TensorShape(shape)],
    )
    return found


OPS = cast(Ops, KernelOps())


def _is_for_kernel(x: Array, matrix: Array) -> bool:
    known = x.shape.is_fully_defined() and matrix.shape.is_fully_defined()
    known = known and len(matrix.shape) == 2 and x.shape[-1] == matrix.shape[1]
    return known and few_rows(x.shape[:-1].num_elements()) and x.dtype == matrix.dtype and x.dtype in _BYTES


def _threads() -> int:
    """As many as TensorFlow's own products take."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


def can_read(parameters: Any) -> bool:
    """True if the kernels are available and all variables are on a CPU."""
    return all("CPU" in variable.device for variable in parameters) and _registered()


@lru_cache(maxsize=1)
def _custom_call() -> Any:
    return importlib.import_module("tensorflow.compiler.tf2xla.ops.gen_xla_ops").xla_custom_call_v2


@lru_cache(maxsize=1)
def _registered() -> bool:
    """Compile the kernel, unless it is kept from before, make it known to XLA, and try it.

    It leans on names that TensorFlow does not promise: where one is missing, XLA's own products do the work.
    """
    try:
        _custom_call()
        flags = (f"-I{tf.sysconfig.get_include()}", *tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags())
        library = load("xla_tensorflow.cpp", *flags)
        if library is None:
            return False
        library.conjoin_register()
        return _is_right()
    except (ImportError, AttributeError, OSError, tf.errors.OpError):
        return False


def _is_right() -> bool:
    x, matrix = tf.reshape(tf.range(6.0), (2, 3)), tf.reshape(tf.range(12.0), (4, 3))
    found = tf.function(OPS.linear, jit_compile=True, autograph=False)(x, matrix)
    return bool(tf.reduce_all(found == tf.matmul(x, matrix, transpose_b=True)))
