"""The order of batches is that of the list-based planner which it replaced, whose code stands here as the oracle."""

from typing import Any

import numpy as np
import pytest

from conjoin import TrainingArguments
from conjoin.training.data.arrays import tokens_of
from conjoin.training.data.batching import OPEN_ROWS, WINDOW, Batches, Batching, ByRows, ByTokens, Packed, Plan
from conjoin.training.data.examples import Examples, Rows
from conjoin.training.loop.evaluator import evaluation_batches

Lists = list[list[list[int]]]


def by_rows(rows: int, order: list[int]) -> Lists:
    return [[[index] for index in order[at : at + rows]] for at in range(0, len(order), rows)]


def by_tokens(tokens: int, lengths: np.ndarray, order: list[int]) -> Lists:
    batches: Lists = []
    rows: list[list[int]] = []
    source = target = 0
    for index in order:
        s, t = lengths[index].tolist()
        wide, high = max(source, s), max(target, t)
        if rows and (len(rows) + 1) * (wide + high) > tokens:
            batches.append(rows)
            rows, wide, high = [], s, t
        rows.append([index])
        source, target = wide, high
    return [*batches, rows] if rows else batches


def packed(batching: Packed, lengths: np.ndarray, order: list[int]) -> Lists:
    done: list[list[int]] = []
    filling: list[tuple[list[int], list[int]]] = []
    for index in order:
        s, t = lengths[index].tolist()
        for row, left in filling:
            if s <= left[0] and t <= left[1]:
                row.append(index)
                left[0], left[1] = left[0] - s, left[1] - t
                break
        else:
            filling.append(([index], [batching.row_tokens[0] - s, batching.row_tokens[1] - t]))
            if len(filling) > OPEN_ROWS:
                done.append(filling.pop(0)[0])
    rows = [*done, *(row for row, _ in filling)]
    per_batch = max(1, batching.tokens // sum(batching.row_tokens))
    return [rows[at : at + per_batch] for at in range(0, len(rows), per_batch)]


def cut(batching: Batching, lengths: np.ndarray, order: list[int]) -> Lists:
    match batching:
        case ByRows():
            return by_rows(batching.rows, order)
        case ByTokens():
            return by_tokens(batching.tokens, lengths, order)
        case Packed():
            return packed(batching, lengths, order)
    raise AssertionError(batching)


def alike(lengths: np.ndarray, bins: int) -> np.ndarray:
    source, target = lengths.T
    bin_of = np.searchsorted(np.quantile(source, np.arange(1, bins) / bins), source)
    return np.lexsort((np.where(bin_of % 2, -target, target), bin_of))


def expected(plan: Plan, number: int) -> Lists:
    """The batches of an epoch as lists, of lengths of 64 bits."""
    lengths = plan.lengths.astype(np.int64)
    random = np.random.default_rng((plan.seed, number))
    order = np.arange(len(lengths))
    if plan.sampling == "sequential":
        batches = cut(plan.batching, lengths, order.tolist())
    elif plan.sampling == "random" or isinstance(plan.batching, Packed):
        batches = cut(plan.batching, lengths, random.permutation(order).tolist())
    else:
        shuffled = random.permutation(len(lengths))
        mean = float(lengths.sum(1).mean())
        tokens, rows = getattr(plan.batching, "tokens", 0), getattr(plan.batching, "rows", 0)
        size = WINDOW * (rows or max(1, int(tokens / max(1.0, mean))))
        unmixed: Lists = []
        for at in range(0, len(shuffled), size):
            window = shuffled[at : at + size]
            bins = max(1, round(2 * np.sqrt(WINDOW * len(window) / size)))
            unmixed += cut(plan.batching, lengths, window[alike(lengths[window], bins)].tolist())
        batches = [unmixed[at] for at in random.permutation(len(unmixed))]
    rest = len(batches) % plan.batches_per_step
    return batches[: len(batches) - rest] if plan.drop_last and rest else batches


@pytest.mark.parametrize("sampling", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize("kind", ["rows", "tokens", "packed"])
@pytest.mark.parametrize("count", [1, 5, 97, 3001])
def test_batches_are_those_of_lists(kind: str, sampling: Any, count: int) -> None:
    draw = np.random.default_rng([count, len(kind), len(sampling)])
    for _ in range(3):
        lengths = draw.integers(1, draw.integers(2, 60), (count, 2)).astype(np.int32)
        longest = int(lengths.max(0).sum())
        budget = longest + int(draw.integers(0, 300))
        batching: Batching = {
            "rows": ByRows(int(draw.integers(1, 9))),
            "tokens": ByTokens(budget),
            "packed": Packed(budget, (int(lengths[:, 0].max()), int(lengths[:, 1].max()))),
        }[kind]
        plan = Plan(
            lengths=lengths,
            batching=batching,
            sampling=sampling,
            seed=int(draw.integers(100)),
            batches_per_step=int(draw.integers(1, 4)),
            drop_last=bool(draw.integers(2)),
        )
        for number in (0, 3):
            made, lists = plan.epoch(number), expected(plan, number)
            assert list(made) == lists and made == lists
            assert made[1:3] == lists[1:3] and len(made) == len(lists)
            assert made.order.dtype == np.int32


def test_batches_can_be_taken_by_number() -> None:
    made = ByRows(2).cut(np.ones((5, 2), np.int32), np.array([4, 2, 0, 1, 3]))
    assert (made[0], made[-1], made[1:]) == ([[4], [2]], [[3]], [[[0], [1]], [[3]]])
    assert made != [[[4], [2]]] and made == Batches.of(made.order, made.bounds)
    with pytest.raises(IndexError):
        made[3]


def test_evaluations_begin_with_the_longest_pairs() -> None:
    draw = np.random.default_rng(3)
    sources, labels = ([draw.integers(0, 9, size).tolist() for size in draw.integers(1, 30, 200)] for _ in range(2))
    examples = Examples(Rows.of(sources), Rows.of(labels))
    order = sorted(range(200), key=lambda row: (-len(sources[row]), -len(labels[row])))
    lists = list(evaluation_batches(examples, TrainingArguments(per_device_eval_batch_size=7)))
    assert lists == by_rows(7, order)
    assert tokens_of(examples, lists[:2]) == sum(len(sources[row]) + len(labels[row]) for row in order[:14])
