"""The kernels that TensorFlow's XLA calls for few rows: what TensorFlow's own operations give."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import generate_models
from conjoin import TFEncoderDecoderModel, spec
from conjoin.functional.attention import attend
from conjoin.functional.kernel_limits import MOST_ROWS
from conjoin.functional.scope import Scope
from conjoin.tensorflow import decoding, kernels
from generate_models import sources
from lanes import thinned

BIASES = {f"{name}_bias": False for name in "qkvo"}
compiled = tf.function(kernels.OPS.linear, jit_compile=True, autograph=False)


@pytest.fixture(autouse=True)
def _on_this_machine() -> None:
    if not kernels.can_read([]):
        pytest.skip("no compiler, no AVX-512, or a TensorFlow with other names")


def _numbers(*shape: int, seed: int = 0, dtype: Any = tf.float32) -> tf.Tensor:
    return tf.cast(np.random.default_rng(seed).normal(size=shape), dtype)


LEADS = [(1,), (3,), (2, 4), (1, 7), (MOST_ROWS,), (2, MOST_ROWS)]


@pytest.mark.parametrize(
    ("size", "lead", "dtype", "threads"), thinned(5, [(53, 37), (1000, 300)], LEADS, [tf.float32, tf.bfloat16], [1, 3])
)
def test_it_multiplies_as_tensorflow_does(
    size: tuple[int, int], lead: tuple[int, ...], dtype: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (m, n), tolerance = size, {tf.float32: 1e-5, tf.bfloat16: 2e-2}[dtype]
    monkeypatch.setattr(kernels, "_threads", lambda: threads)
    x, matrix = _numbers(*lead, n, dtype=dtype), _numbers(m, n, seed=1, dtype=dtype)
    product = tf.function(kernels.OPS.linear, jit_compile=True, autograph=False)
    found = product(x, matrix)
    wide = (np.asarray(tf.cast(each, tf.float64)) for each in (x, matrix, found))
    one, other, mine = wide
    assert found.dtype == dtype and found.shape == (*lead, m)
    np.testing.assert_allclose(mine, one @ other.T, rtol=tolerance, atol=tolerance * n**0.5)


def test_few_rows_go_to_it_and_nothing_else_does() -> None:
    def called(*arrays: tf.Tensor, transposed: bool = False) -> bool:
        nodes = compiled.get_concrete_function(*arrays, transposed=transposed).graph.get_operations()
        return any(node.type == "XlaCustomCallV2" for node in nodes)

    matrix = _numbers(5, 7)
    assert called(_numbers(3, 7), matrix) and called(_numbers(MOST_ROWS, 7), matrix)
    assert not called(_numbers(MOST_ROWS + 1, 7), matrix)
    assert not called(_numbers(3, 7, dtype=tf.float16), _numbers(5, 7, dtype=tf.float16))
    assert not called(_numbers(3, 5), matrix, transposed=True)


MASKS = [None, (5, 1), (5, "T")]
ROWS = [(1, 1), (3, 1), (2, 2)]
"""Beams and queries of each."""


@pytest.mark.parametrize(
    ("biased", "mask", "rows", "dtype", "threads"),
    thinned(5, [False, True], MASKS, ROWS, [tf.float32, tf.bfloat16], [1, 3]),
)
def test_it_attends_as_plain_steps_do(
    biased: bool, mask: Any, rows: tuple[int, int], dtype: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (beams, length), tolerance = rows, {tf.float32: 2e-6, tf.bfloat16: 2e-2}[dtype]
    monkeypatch.setattr(kernels, "_threads", lambda: threads)
    sources, heads, groups, keys, size = 5, 6, 2, 70, 24
    q = _numbers(sources * beams, length, heads, size, dtype=dtype)
    k, v = (_numbers(sources, keys, groups, size, seed=seed, dtype=dtype) for seed in (1, 2))
    allowed = None
    if mask is not None:
        chosen = np.random.default_rng(3).random((mask[0], 1, length if mask[1] == "T" else 1, keys)) > 0.6
        chosen[-1, :, -1] = False  # a query that may read nothing
        allowed = tf.constant(chosen)
    bias = _numbers(1, heads, length, keys, seed=4) if biased else None
    kind = spec.Attention(num_heads=heads, num_kv_heads=groups, head_size=size, scale=0.3, **BIASES)

    def run(ops: Any) -> np.ndarray:
        def attention() -> tf.Tensor:
            given = (tf.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))  # which XLA would rather not move
            return tf.cast(attend(Scope(ops, {}), kind, *given, allowed, bias)[0], tf.float32)

        program = tf.function(attention, jit_compile=True, autograph=False)
        nodes = program.get_concrete_function().graph.get_operations()
        assert any(node.type == "XlaCustomCallV2" for node in nodes) == (ops is kernels.OPS)
        return program().numpy()

    np.testing.assert_allclose(run(kernels.OPS), run(decoding.OPS), rtol=tolerance, atol=tolerance)


def test_rows_that_lie_otherwise_are_laid_out_for_it() -> None:
    """A custom call tells XLA nothing of how its arrays must lie."""
    x, matrix = _numbers(37, 6), _numbers(37, 53, seed=1)

    def turned(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        return tf.transpose(kernels.OPS.linear(tf.transpose(x) * 2.0, tf.transpose(matrix) + 1.0))

    program = tf.function(turned, jit_compile=True, autograph=False)
    np.testing.assert_allclose(program(x, matrix), (2.0 * x.numpy().T @ (matrix.numpy() + 1.0)).T, rtol=1e-4, atol=1e-4)
    text = program.experimental_get_compiler_ir(x, matrix)(stage="optimized_hlo")
    calls = [line for line in text.splitlines() if 'custom_call_target="conjoin_multiply"' in line]
    assert calls and all("{0,1}" not in re.sub(r"metadata=.*", "", line) for line in calls)


def test_callers_of_many_threads_never_wait_for_each_other_for_good() -> None:
    x, matrices = _numbers(4, 256), [_numbers(1024, 256, seed=seed) for seed in range(4)]
    expected = [x.numpy() @ matrix.numpy().T for matrix in matrices]
    compiled(x, matrices[0])

    def work(number: int) -> np.ndarray:
        return compiled(x, matrices[number % 4]).numpy()

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(400))):
            np.testing.assert_allclose(found, expected[number % 4], rtol=1e-4, atol=1e-4)


def test_compiled_generate_calls_it_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generate_models.models("bert-gpt2")[0].save_pretrained(tmp_path)
    model = TFEncoderDecoderModel.from_pretrained(tmp_path)
    ids, mask = (tf.constant(x.numpy()) for x in sources("bert-gpt2", 0))
    seen, real = [], decoding.program
    monkeypatch.setattr(
        decoding, "program", lambda *given, ops, **more: seen.append(ops) or real(*given, ops=ops, **more)
    )
    for jit_compile in (True, False):
        model.generate(ids, attention_mask=mask, max_new_tokens=2, jit_compile=jit_compile)
    monkeypatch.setattr(kernels, "can_read", lambda parameters: False)
    model.generate(ids, attention_mask=mask, max_new_tokens=2, jit_compile=True)
    assert seen == [kernels.OPS, decoding.OPS, decoding.OPS]


WITHOUT = """
import sys
import numpy as np
from conjoin import TFEncoderDecoderModel, spec
from conjoin.functional.attention import attend
from conjoin.functional.kernel_limits import MOST_ROWS
from conjoin.functional.scope import Scope
from conjoin.tensorflow import kernels
model = TFEncoderDecoderModel.from_pretrained(sys.argv[1])
ids, mask = (np.load(name) for name in sys.argv[2:])
assert not kernels.can_read([])
print(*model.generate(ids, attention_mask=mask, max_new_tokens=9, jit_compile=True).numpy().ravel())
"""


@pytest.mark.slow  # another process with TensorFlow
def test_without_a_compiler_the_same_words_are_written(tmp_path: Path) -> None:
    generate_models.models("bert-gpt2")[0].save_pretrained(tmp_path / "model")
    given = [tensor.numpy() for tensor in sources("bert-gpt2", 0)]
    files = [str(tmp_path / name) for name in ("ids.npy", "mask.npy")]
    for file, array in zip(files, given, strict=True):
        np.save(file, array)
    model = TFEncoderDecoderModel.from_pretrained(tmp_path / "model")
    expected = model.generate(given[0], attention_mask=given[1], max_new_tokens=9, jit_compile=True).numpy()
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "model"), *files],
        env={**os.environ, "CONJOIN_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(word) for word in told.stdout.split()] == expected.ravel().tolist()
