"""The name tables and layouts: apply then undo gives back what was there, on numpy and on torch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoint import (
    Fused,
    HeadFused,
    Layout,
    NameTable,
    PairedRotary,
    Parts,
    Reshaped,
    Row,
    Rule,
    Same,
    Shifted,
    Transposed,
)
from conjoin.errors import ConfigError, WeightError

GPT2 = NameTable(
    (
        Rule("wte.weight", "embed.weight"),
        Rule(
            "h.{i}.attn.c_attn.weight",
            ("blocks.{i}.q.weight", "blocks.{i}.k.weight", "blocks.{i}.v.weight"),
            Fused(transposed=True),
        ),
        Rule("h.{i}.attn.c_attn.bias", ("blocks.{i}.q.bias", "blocks.{i}.k.bias", "blocks.{i}.v.bias"), Fused()),
        Rule("h.{i}.ln_1.weight", "blocks.{i}.norm.weight"),
        Rule("h.{i}.ln_1.gamma", "blocks.{i}.norm.weight"),
    ),
    ignored=(r"h\.\d+\.attn\.(masked_)?bias",),
)
sizes = st.integers(1, 5)


@st.composite
def stored_layouts(draw: st.DrawFn) -> tuple[Layout, tuple[int, ...], int]:
    """A layout, the shape of a tensor stored so, and how many canonical tensors it holds."""
    rows, width = draw(sizes), draw(sizes)
    parts = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    heads, head_size, count = draw(sizes), draw(sizes), draw(st.integers(1, 4))
    turning = draw(st.integers(0, head_size))
    matrix = draw(st.booleans())
    tail = (width,) if matrix else ()
    return draw(
        st.sampled_from(
            [
                (Same(), (rows, *tail), 1),
                (Transposed(), (rows, width), 1),
                (Fused(parts), (sum(parts), *tail), len(parts)),
                (Fused(parts, transposed=True), (width, sum(parts)) if matrix else (sum(parts),), len(parts)),
                (Fused(), (rows * count, *tail), count),
                (HeadFused(heads, head_size, count), (heads * count * head_size, *tail), count),
                (HeadFused(heads, head_size, count, rows), (heads * (rows + count - 1) * head_size, *tail), count),
                (PairedRotary(2 * head_size + 1, 2 * turning), (rows * (2 * head_size + 1), *tail), 1),
                (Parts(Fused(), (PairedRotary(2, 2), Same())), (4 * rows, *tail), 2),
                (Parts(Reshaped((rows, 2), (-1,)), (PairedRotary(2, 2),)), (rows, 2), 1),
                (Row(), (1, rows), 1),
                (Reshaped((rows, 1, width), (rows, -1)), (rows, 1, width), 1),
                (Shifted(1.0), (rows, *tail), 1),
            ]
        )
    )


def _table(layout: Layout, count: int) -> NameTable:
    return NameTable((Rule("stored.{i}", tuple(f"part.{{i}}.{part}" for part in range(count)), layout),))


def _there_and_back(table: NameTable, array: Any) -> tuple[Any, list[tuple[str, Any]]]:
    (match,) = table.canonical(["stored.7"]).matches
    parts = table.apply(match, array)
    (undo,) = table.undo(name for name, _ in parts)
    assert undo.name == "stored.7"
    return undo(*[dict(parts)[name] for name in undo.canonical]), parts


@given(stored_layouts())
def test_apply_then_undo_is_the_identity_on_numpy(case: tuple[Layout, tuple[int, ...], int]) -> None:
    layout, shape, count = case
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    back, parts = _there_and_back(_table(layout, count), array)
    np.testing.assert_array_equal(back, array)
    table = _table(layout, count)
    (match,) = table.canonical(["stored.7"]).matches
    assert table.shapes(match, shape) == [(name, part.shape) for name, part in parts]


@given(stored_layouts())
def test_torch_gives_what_numpy_gives(case: tuple[Layout, tuple[int, ...], int]) -> None:
    layout, shape, count = case
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    back, parts = _there_and_back(_table(layout, count), torch.from_numpy(array))
    assert torch.equal(back, torch.from_numpy(array))
    _, expected = _there_and_back(_table(layout, count), array)
    for (name, found), (wanted_name, wanted) in zip(parts, expected, strict=True):
        assert name == wanted_name
        np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("layout", [Same(), Transposed(), Fused((2, 4)), Fused((3,), transposed=True), Row()])
def test_layouts_give_views_not_copies(layout: Layout) -> None:
    array = np.ones((1, 3) if isinstance(layout, Row) else (6, 3), np.float32)
    count = 2 if layout == Fused((2, 4)) else 1
    _, parts = _there_and_back(_table(layout, count), array)
    assert all(np.shares_memory(part, array) for _, part in parts)


def test_gpt2_conv1d_splits_into_the_rows_of_q_k_and_v() -> None:
    stored = np.arange(2 * 6).reshape(2, 6)  # (in, [q q k k v v])
    (match,) = GPT2.canonical(["h.10.attn.c_attn.weight"]).matches
    parts = dict(GPT2.apply(match, stored))
    np.testing.assert_array_equal(parts["blocks.10.k.weight"], stored[:, 2:4].T)


def test_head_fused_takes_each_heads_rows() -> None:
    rows = [f"{part}{head}{row}" for head in range(2) for part in "qkv" for row in range(3)]
    table = _table(HeadFused(num_heads=2, head_size=3), 3)
    _, parts = _there_and_back(table, np.array(rows))
    assert parts[1][1].tolist() == ["k00", "k01", "k02", "k10", "k11", "k12"]


def test_head_fused_takes_the_query_heads_that_share_a_key() -> None:
    rows = [f"{name}{group}" for group in range(2) for name in ("q0", "q1", "k", "v")]
    _, parts = _there_and_back(_table(HeadFused(num_heads=2, head_size=1, shared=2), 3), np.array(rows))
    assert [part.tolist() for _, part in parts] == [["q00", "q10", "q01", "q11"], ["k0", "k1"], ["v0", "v1"]]


def test_paired_rotary_takes_pairs_apart_in_every_head() -> None:
    rows = [f"{name}{head}" for head in range(2) for name in ("x0", "y0", "x1", "y1", "rest")]
    _, parts = _there_and_back(_table(PairedRotary(head_size=5, rotary_size=4), 1), np.array(rows))
    assert parts[0][1].tolist() == ["x00", "x10", "y00", "y10", "rest0", "x01", "x11", "y01", "y11", "rest1"]


def test_shifted_widens_half_precision_and_narrows_on_the_way_back() -> None:
    weights = torch.tensor([0.01, -0.3, 0.5, 2.0], dtype=torch.bfloat16)
    table = _table(Shifted(1.0), 1)
    back, parts = _there_and_back(table, weights)
    assert parts[0][1].dtype == torch.float32
    assert torch.equal(parts[0][1], weights.float() + 1)
    torch.testing.assert_close(back.bfloat16(), weights, atol=0, rtol=0)
    _, bits = _there_and_back(table, weights.view(torch.uint16).numpy())
    np.testing.assert_array_equal(bits[0][1], parts[0][1].numpy())


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=5))
def test_bfloat16_bits_are_rounded_as_torch_rounds_them(values: list[float]) -> None:
    start = torch.tensor([*values, float("nan")]).bfloat16()
    (undo,) = _table(Shifted(1.0), 1).undo(["part.7.0"])
    bits = undo(start.view(torch.uint16).numpy())
    found = torch.from_numpy(bits).view(torch.bfloat16)
    torch.testing.assert_close(found, undo(start), atol=0, rtol=0, equal_nan=True)


def test_every_name_is_matched_ignored_or_unknown() -> None:
    plan = GPT2.canonical(["h.0.attn.bias", "h.0.attn.c_attn.bias", "h.00.ln_1.weight", "wte.weight", "lm_head.weight"])
    assert [match.name for match in plan.matches] == ["h.0.attn.c_attn.bias", "wte.weight"]
    assert plan.ignored == ("h.0.attn.bias",)
    assert plan.unknown == ("h.00.ln_1.weight", "lm_head.weight")
    assert plan.sources["blocks.0.v.bias"].name == "h.0.attn.c_attn.bias"


def test_a_prefix_goes_before_both_sides_and_the_ignored() -> None:
    table = GPT2.with_prefix("decoder.transformer.", "decoder.") + NameTable((Rule("head", "head"),))
    plan = table.canonical(["decoder.transformer.wte.weight", "head", "decoder.transformer.h.3.attn.bias"])
    assert [match.canonical for match in plan.matches] == [("decoder.embed.weight",), ("head",)]
    assert len(plan.ignored) == 1


def test_undo_writes_the_first_spelling_and_skips_what_is_absent() -> None:
    names = [undo.name for undo in GPT2.undo(["blocks.0.norm.weight", *(f"blocks.0.{part}.bias" for part in "qkv")])]
    assert names == ["h.0.attn.c_attn.bias", "h.0.ln_1.weight"]


def test_where_two_tensors_hold_the_same_thing_the_first_rule_wins_whatever_the_order_in_the_file() -> None:
    table = NameTable((Rule("decoder.bias", "bias", copies=("bias",)), Rule("bias", "bias"))).with_prefix(
        "cls.", "head."
    )
    assert table.canonical(["cls.bias", "cls.decoder.bias"]).sources["head.bias"].name == "cls.decoder.bias"
    assert table.canonical(["cls.bias"]).sources["head.bias"].name == "cls.bias"


def test_undo_writes_a_tensor_under_the_names_of_its_copies_too() -> None:
    table = NameTable((Rule("{i}.decoder.bias", "{i}.bias", copies=("{i}.bias",)),)).with_prefix("cls.", "head.")
    undos = table.undo(["head.3.bias"])
    assert [undo.name for undo in undos] == ["cls.3.bias", "cls.3.decoder.bias"]
    assert all(undo.canonical == ("head.3.bias",) for undo in undos)


def test_undo_names_every_half_given_tensor() -> None:
    with pytest.raises(WeightError, match=r"h\.2\.attn\.c_attn\.weight: blocks\.2\.k\.weight missing") as caught:
        GPT2.undo(["blocks.2.q.weight", "blocks.2.v.weight", "blocks.3.q.bias"])
    assert "h.3.attn.c_attn.bias: blocks.3.k.bias, blocks.3.v.bias missing" in str(caught.value)


def test_undo_refuses_to_drop_a_tensor_that_no_rule_writes() -> None:
    assert not GPT2.covers("blocks.0.cross_attn.q.weight")
    with pytest.raises(WeightError, match=r"No rule says how to write[^:]*:\n  blocks\.0\.cross_attn\.q\.weight"):
        GPT2.undo(["embed.weight", "blocks.0.cross_attn.q.weight"])


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        (Transposed(), (3,), "expected a matrix to transpose, found shape (3,)"),
        (Fused((2, 2)), (5, 3), "expected 2 + 2 rows, found 5"),
        (Fused((1,), transposed=True), (), "expected rows to split, found a single number"),
        (HeadFused(2, 3, 1), (7, 1), "expected 6 rows (2 heads x 1 parts x 3), found 7"),
        (Row(), (2, 5), "expected one row, found shape (2, 5)"),
        (Reshaped((4, 1), (4,)), (4, 2), "expected shape (4, 1), found (4, 2)"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_tensor(layout: Layout, shape: tuple[int, ...], words: str) -> None:
    table = _table(layout, 2 if layout == Fused((2, 2)) else 1)
    (match,) = table.canonical(["stored.0"]).matches
    with pytest.raises(WeightError) as caught:
        table.apply(match, np.zeros(shape))
    assert str(caught.value) == f"stored.0: {words}"


def test_rules_that_could_not_be_undone_are_refused() -> None:
    with pytest.raises(ConfigError, match="same placeholders"):
        Rule("h.{i}.weight", "weight")
    with pytest.raises(ConfigError, match="makes 2 arrays, 1 names given"):
        Rule("qk", "q", Fused((1, 1)))
    with pytest.raises(ConfigError, match="makes 1 arrays, 2 names given"):
        Rule("qk", ("q", "k"))
