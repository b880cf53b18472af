"""The kernels that XLA calls for few rows: what JAX's own operations give, with any rows beside, from any threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import generate_models
import jax_models  # noqa: F401  # its settings of JAX
from conjoin import FlaxEncoderDecoderModel, spec
from conjoin.functional.attention import attend
from conjoin.functional.kernel_limits import MOST_QUERIES, MOST_ROWS
from conjoin.functional.scope import Scope
from conjoin.jax import decoding, kernels, programs
from generate_models import sources
from lanes import thinned

BIASES = {f"{name}_bias": False for name in "qkvo"}


@pytest.fixture(autouse=True)
def _on_this_machine() -> None:
    if not kernels.can_read([jnp.zeros(1)]):
        pytest.skip("no compiler, or no AVX-512")


def _numbers(*shape: int, seed: int = 0, dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


LEADS = [(1,), (3,), (2, 4), (1, 7), (MOST_ROWS,), (2, MOST_ROWS), (0, 3)]
PRODUCTS = thinned(5, [(53, 37), (8, 1), (1000, 300)], LEADS, ["float32", "bfloat16", "float16"], [False, True])


@pytest.mark.parametrize(("size", "lead", "dtype", "traced"), PRODUCTS)
def test_it_multiplies_as_jax_does(size: tuple[int, int], lead: tuple[int, ...], dtype: str, traced: bool) -> None:
    (m, n), tolerance = size, {"float32": 1e-5, "bfloat16": 2e-2, "float16": 1e-2}[dtype]
    x, matrix = _numbers(*lead, n, dtype=dtype), _numbers(m, n, seed=1, dtype=dtype)
    product = jax.jit(kernels.OPS.linear) if traced else kernels.OPS.linear
    found, exact = product(x, matrix), np.asarray(x, np.float64) @ np.asarray(matrix, np.float64).T
    assert found.dtype == x.dtype and found.shape == (*lead, m)
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=tolerance, atol=tolerance * n**0.5)


def test_few_rows_go_to_it_and_nothing_else_does() -> None:
    def called(*arrays: jax.Array, transposed: bool = False) -> bool:
        product = jax.jit(partial(kernels.OPS.linear, transposed=transposed))
        return "conjoin_multiply" in product.lower(*arrays).as_text()

    matrix = _numbers(5, 7)
    assert called(_numbers(3, 7), matrix) and called(_numbers(MOST_ROWS, 7), matrix)
    assert not called(_numbers(MOST_ROWS + 1, 7), matrix)
    assert not called(_numbers(3, 7, dtype="bfloat16"), matrix)
    assert not called(_numbers(3, 7, dtype="float16"), matrix.astype("float16"))
    assert not called(_numbers(3, 5), matrix, transposed=True)


ROWS = [(1, 1), (3, 1), (2, 2), (1, 4)]
"""Beams and queries of each."""
MASKS = [None, (1, 1), (5, 1), (1, "T"), (5, "T")]


@pytest.mark.parametrize(
    ("bias", "mask", "rows", "dtype", "traced"),
    thinned(7, [None, 1, "T"], MASKS, ROWS, ["float32", "bfloat16"], [False, True]),
)
def test_it_attends_as_plain_steps_do(bias: Any, mask: Any, rows: tuple[int, int], dtype: str, traced: bool) -> None:
    (beams, length), tolerance = rows, {"float32": 2e-6, "bfloat16": 2e-2}[dtype]
    sources, heads, groups, keys, size = 5, 6, 2, 70, 24
    q = _numbers(sources * beams, heads, length, size, dtype=dtype)
    k, v = (_numbers(sources, groups, keys, size, seed=seed, dtype=dtype) for seed in (1, 2))
    wide = {"T": length}
    allowed = None
    if mask is not None:
        allowed = _numbers(mask[0], 1, wide.get(mask[1], 1), keys, seed=3) > 0.3
        allowed = allowed.at[-1, :, -1].set(False)  # a query that may read nothing
    bias = None if bias is None else _numbers(1, heads, wide.get(bias, 1), keys, seed=4)
    kind = spec.Attention(num_heads=heads, num_kv_heads=groups, head_size=size, scale=0.3, **BIASES)

    def run(ops: Any) -> Any:
        def attention(q: Any, k: Any, v: Any, allowed: Any, bias: Any) -> Any:
            if bias is not None:
                bias = jnp.broadcast_to(bias, (1, heads, length, keys)) if ops is decoding.OPS else bias
            return attend(Scope(ops, {}), kind, q, k, v, allowed, bias)[0]

        return (jax.jit(attention) if traced else attention)(q, k, v, allowed, bias)

    found, expected = (np.asarray(run(ops), np.float32) for ops in (kernels.OPS, decoding.OPS))
    assert kernels.OPS.attend(q, k, v, allowed, bias, 0.3) is not None
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_attention_of_many_queries_or_other_numbers_is_jax_s_and_so_is_one_whose_weights_are_wanted() -> None:
    q, k = _numbers(2, 6, 1, 8), _numbers(2, 2, 9, 8)
    assert kernels.OPS.attend(q, k, k, None, None, 1.0) is not None
    many = _numbers(2, 6, MOST_QUERIES, 8)
    for other in ((many, k, k), (q, k, k[..., :4]), (q, k, k.astype("bfloat16")), (q, k[:, :, :0], k[:, :, :0])):
        assert kernels.OPS.attend(*other, None, None, 1.0) is None
    half = [x.astype("float16") for x in (q, k, k)]
    assert kernels.OPS.attend(*half, None, None, 1.0) is None
    kind = spec.Attention(num_heads=6, num_kv_heads=2, head_size=8, scale=0.3, **BIASES)
    _, weights = attend(Scope(kernels.OPS, {}), kind, q, k, k, None, want_weights=True)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert attend(Scope(kernels.OPS, {}), kind, q, k, k, None)[1] is None


def test_a_row_has_the_same_bits_whatever_stands_beside_it() -> None:
    x, matrix = _numbers(MOST_ROWS, 300), _numbers(1000, 300, seed=1)
    whole = kernels.OPS.linear(x, matrix)
    for rows in (1, 2, 5, 9):
        assert jnp.array_equal(kernels.OPS.linear(x[:rows], matrix), whole[:rows])


def test_callers_of_many_threads_never_wait_for_each_other_for_good() -> None:
    x, matrices = _numbers(4, 256), [_numbers(1024, 256, seed=seed) for seed in range(4)]
    expected = [np.asarray(x) @ np.asarray(matrix).T for matrix in matrices]
    product = jax.jit(kernels.OPS.linear)

    def work(number: int) -> np.ndarray:
        return np.asarray(product(x, matrices[number % 4]))

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(work, range(400))):
            np.testing.assert_allclose(found, expected[number % 4], rtol=1e-4, atol=1e-4)


def test_parameters_of_several_devices_and_traced_ones_are_left_to_xla() -> None:
    assert not kernels.can_read([jnp.zeros(1), np.zeros(1)])
    assert not jax.jit(lambda x: jnp.asarray(kernels.can_read([x])))(jnp.zeros(1))


def test_generate_calls_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generate_models.models("bert-gpt2")[0].save_pretrained(tmp_path)
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path)
    ids, mask = (jnp.asarray(x.numpy()) for x in sources("bert-gpt2", 0))
    seen = []
    monkeypatch.setattr(
        programs, "generate_jit", lambda key, ops, *rest: seen.append(ops) or programs.generate(key, ops, *rest)
    )
    model.generate(ids, attention_mask=mask, max_new_tokens=2)
    monkeypatch.setattr(kernels, "can_read", lambda parameters: False)
    model.generate(ids, attention_mask=mask, max_new_tokens=2)
    assert seen == [kernels.OPS, decoding.OPS]


WITHOUT = """
import sys
import jax.numpy as jnp, numpy as np
from conjoin import FlaxEncoderDecoderModel, spec
from conjoin.functional.attention import attend
from conjoin.functional.kernel_limits import MOST_QUERIES, MOST_ROWS
from conjoin.functional.scope import Scope
from conjoin.jax import kernels
model = FlaxEncoderDecoderModel.from_pretrained(sys.argv[1])
ids, mask = (jnp.asarray(np.load(name)) for name in sys.argv[2:])
assert not kernels.can_read([jnp.zeros(1)])
print(*np.asarray(model.generate(ids, attention_mask=mask, max_new_tokens=9).sequences).ravel())
"""


def test_without_a_compiler_the_same_words_are_written(tmp_path: Path) -> None:
    generate_models.models("bert-gpt2")[0].save_pretrained(tmp_path / "model")
    given = sources("bert-gpt2", 0)
    files = [str(tmp_path / name) for name in ("ids.npy", "mask.npy")]
    for file, tensor in zip(files, given, strict=True):
        np.save(file, tensor.numpy())
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "model")
    ids, mask = (jnp.asarray(x.numpy()) for x in given)
    expected = np.asarray(model.generate(ids, attention_mask=mask, max_new_tokens=9).sequences)
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "model"), *files],
        env={**os.environ, "CONJOIN_NATIVE": "0", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(word) for word in told.stdout.split()] == expected.ravel().tolist()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from conjoin.jax import kernels
mesh = Mesh(np.array(jax.devices()), ("data",))
assert kernels.can_read([jnp.zeros(4)])
assert not kernels.can_read([jax.device_put(jnp.zeros(4), NamedSharding(mesh, PartitionSpec("data")))])
"""


def test_sharded_parameters_are_left_to_xla() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], env={**os.environ, **flags}, check=True)
