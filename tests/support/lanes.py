"""Which cases of a test `make test` runs; `make test-slow` runs them all."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

FAST_KEYS = (
    "albert", "m2m_100", "t5/gated", "gemma2", "qwen3/full", "llama/yarn", "gpt_neox", "olmo2/grouped",
    "opt/bare", "modernbert/biases", "falcon/alibi_parallel", "deberta-v2",
)  # fmt: skip
"""Of TINY: between them they have every kind of brick (`test_fast_keys.py`)."""


def lanes(cases: Iterable[Any], is_fast: Callable[[Any], bool]) -> list[Any]:
    """Return the values of `parametrize`, those that are not fast marked slow. A tuple is one case."""
    return [case if is_fast(case) else _slow(case) for case in cases]


def lanes_of_keys(keys: Iterable[str]) -> list[Any]:
    """Return TINY keys, all but `FAST_KEYS` marked slow."""
    return lanes(keys, FAST_KEYS.__contains__)


def lanes_of_families(keys: Iterable[str]) -> list[Any]:
    """Return TINY keys, marked slow but for `FAST_KEYS` and the first key of each family."""
    keys, first = list(keys), dict[str, str]()
    for key in keys:
        first.setdefault(key.partition("/")[0], key)
    return lanes(keys, lambda key: key in FAST_KEYS or key in first.values())


def covering(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """Return pairs, of which so many are fast that every value is in its place of one of them."""
    pairs, fast = list(pairs), list[tuple[str, str]]()
    firsts, seconds = set[str](), set[str]()
    for wanted in (all, any):  # pairs of two new values first
        for pair in pairs:
            if wanted((pair[0] not in firsts, pair[1] not in seconds)):
                fast.append(pair)
                firsts.add(pair[0])
                seconds.add(pair[1])
    return lanes(pairs, fast.__contains__)


def thinned(step: int, *axes: Iterable[Any]) -> list[Any]:
    """Return the product of axes of which every `step`-th case is fast.

    Args:
        step: Shares no factor with the length of any axis, so that every value of every axis stays among the fast.
        axes: Two or more.
    """
    cases = list(product(*axes))
    return [case if number % step == 0 else _slow(case) for number, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
