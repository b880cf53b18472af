"""Rotary positions: every kind and both spellings give transformers' frequencies; turning keeps what it must."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from conjoin import spec
from conjoin.errors import ConfigError, ShapeError
from conjoin.families import config_from_dict, family
from conjoin.torch.model.positions import rotary_angles, rotary_frequencies, rotate
from oracle_rope import frequencies, turns

Fields = dict[str, Any]

SIZE = 16
THETA = 777.0
LONGROPE: Fields = {
    "rope_type": "longrope",
    "factor": 3.0,
    "original_max_position_embeddings": 21,
    "short_factor": [1.0 + 0.1 * n for n in range(SIZE // 2)],
    "long_factor": [2.0 + 0.7 * n for n in range(SIZE // 2)],
}
YARN: Fields = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 21}
KINDS: dict[str, Fields] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 5.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 500,  # waves of 6 to 3000 positions: short, between and long ones
    },
    "longrope": LONGROPE,
    "longrope, temperature": {**LONGROPE, "attention_factor": 1.7},
    "longrope, no stretch": {**LONGROPE, "factor": 1.0},
    "yarn": YARN,
    "yarn, betas": {**YARN, "beta_fast": 8.0, "beta_slow": 0.5},
    "yarn, untruncated": {**YARN, "truncate": False},
    "yarn, temperature": {**YARN, "attention_factor": 1.7},
    "yarn, two mscales": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, one mscale": {**YARN, "mscale": 0.7},
    "yarn, no stretch": {**YARN, "factor": 1.0},
}


def our_rotary(key: str, layer: int = 0, **changes: Any) -> spec.Rotary:
    """The rotary positions of one layer of our spec."""
    fields = {name: value for name, value in oracle.TINY[key].items() if name != "rope_parameters"}
    config = config_from_dict({"model_type": oracle.model_type(key), **fields, **changes})
    found = family(config.model_type).stack(config, "decoder").blocks[layer].self_attn.rotary
    assert found is not None
    return found


def same(ours: spec.Rotary, theirs: tuple[torch.Tensor, float]) -> None:
    """Hold our frequencies and temperature to theirs."""
    torch.testing.assert_close(rotary_frequencies(ours, torch.device("cpu")), theirs[0], rtol=1e-6, atol=0)
    assert ours.attention_factor == pytest.approx(theirs[1], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_the_newer_words_gives_transformers_frequencies(kind: str) -> None:
    words = {"rope_theta": THETA, **KINDS[kind]}
    theirs = frequencies("llama", head_dim=SIZE, rope_parameters=dict(words))
    same(our_rotary("llama", head_dim=SIZE, rope_parameters=words), theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["rope_type", "type"])
def test_every_kind_in_the_older_words_gives_transformers_frequencies(kind: str, word: str) -> None:
    older = {word if name == "rope_type" else name: value for name, value in KINDS[kind].items()}
    theirs = frequencies("llama", head_dim=SIZE, rope_parameters={"rope_theta": THETA, **KINDS[kind]})
    same(our_rotary("llama", head_dim=SIZE, rope_theta=THETA, rope_scaling=older), theirs)


@pytest.mark.parametrize(("count", "stated"), [(21, None), (21, 21), (22, 22), (50, 99)])
def test_longrope_turns_as_transformers_turns_sequences_of_the_stated_length(count: int, stated: int | None) -> None:
    words = {"rope_theta": THETA, **LONGROPE}
    ours = our_rotary("llama", head_dim=SIZE, rope_parameters=words, longrope_length=stated)
    positions = torch.arange(count)[None]
    expected = turns("llama", positions, head_dim=SIZE, rope_parameters=dict(words))
    for one, other in zip(rotary_angles(ours, positions, torch.float32), expected, strict=True):
        torch.testing.assert_close(one[:, 0], other, rtol=1e-5, atol=1e-5)


def test_longropes_short_factors_are_for_no_more_positions_than_there_were_originally() -> None:
    words = {"rope_theta": THETA, **LONGROPE}
    assert our_rotary("llama", head_dim=SIZE, rope_parameters=words).max_positions == 21
    assert our_rotary("llama", head_dim=SIZE, rope_parameters=words, longrope_length=22).max_positions is None
    config = config_from_dict({"model_type": "phi3", **oracle.TINY["phi3/short"]})
    stack = family("phi3").stack(config, "decoder")
    stack.require_length(64)
    with pytest.raises(ShapeError, match=r"(?s)phi3: 65 positions, but this checkpoint's rotation has 64.*longrope_l"):
        stack.require_length(65)


@settings(deadline=None, max_examples=40)
@given(
    theta=st.floats(2.0, 1e7),
    factor=st.floats(1.0, 64.0),
    low=st.floats(0.5, 4.0),
    more=st.floats(0.1, 30.0),
    original=st.integers(8, 100_000),
)
def test_llama3_bands_are_transformers_whatever_the_numbers(
    theta: float, factor: float, low: float, more: float, original: int
) -> None:
    words = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low + more,
        "original_max_position_embeddings": original,
    }
    theirs = frequencies("llama", head_dim=SIZE, rope_parameters=dict(words))[0]
    ours = rotary_frequencies(our_rotary("llama", head_dim=SIZE, rope_parameters=words), torch.device("cpu"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    theta=st.floats(2.0, 1e7),
    factor=st.floats(1.0, 64.0),
    fast=st.floats(4.0, 64.0),
    slow=st.floats(0.1, 4.0),
    original=st.integers(8, 100_000),
    truncate=st.booleans(),
)
def test_yarn_ramps_are_transformers_whatever_the_numbers(
    theta: float, factor: float, fast: float, slow: float, original: int, truncate: bool
) -> None:
    words = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "beta_fast": fast,
        "beta_slow": slow,
        "original_max_position_embeddings": original,
        "truncate": truncate,
    }
    theirs = frequencies("llama", head_dim=SIZE, rope_parameters=dict(words))[0]
    ours = rotary_frequencies(our_rotary("llama", head_dim=SIZE, rope_parameters=words), torch.device("cpu"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_gpt_neox_turns_a_share_of_every_head_in_both_spellings() -> None:
    words = {"rope_type": "default", "rope_theta": THETA, "partial_rotary_factor": 0.75}
    newer = our_rotary("gpt_neox", rope_parameters=words)
    assert (
        newer
        == our_rotary("gpt_neox", rotary_pct=0.75, rotary_emb_base=THETA)
        == spec.Rotary(base=THETA, rotary_size=6)
    )
    same(newer, frequencies("gpt_neox", rope_parameters=dict(words)))
    assert our_rotary("gpt_neox") == spec.Rotary(base=10000.0, rotary_size=2)


@pytest.mark.parametrize("key", ["llama", "cohere", "cohere2", "ernie4_5", "olmo2"])
def test_a_config_without_a_base_turns_by_that_of_transformers(key: str) -> None:
    same(our_rotary(key), frequencies(key, rope_parameters=None))


NESTED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 999.0, "factor": 5.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 33.0},
}


@pytest.mark.parametrize("key", ["gemma3_text", "modernbert", "modernbert-decoder"])
def test_global_and_local_layers_turn_with_bases_of_their_own(key: str) -> None:
    types = oracle.TINY[key]["layer_types"]
    for layer, kind in enumerate(types):
        theirs = frequencies(key, kind, rope_parameters={name: dict(words) for name, words in NESTED.items()})
        same(our_rotary(key, layer, rope_parameters=NESTED), theirs)


def test_gemma3s_older_words_scale_the_global_layers_only() -> None:
    scaling = {"rope_type": "linear", "factor": 5.0}
    sliding, full, _ = (our_rotary("gemma3_text", n, rope_theta=999.0, rope_scaling=scaling) for n in range(3))
    assert full == spec.Rotary(base=999.0, rotary_size=6, scaling=spec.PlainScaling(factor=5.0))
    assert sliding == spec.Rotary(base=10000.0, rotary_size=6)
    assert our_rotary("gemma3_text", 1) == spec.Rotary(base=1e6, rotary_size=6)


def test_modernberts_local_layers_take_the_global_base_where_theirs_is_null() -> None:
    bases = [our_rotary("modernbert", n, global_rope_theta=999.0, local_rope_theta=None).base for n in range(3)]
    assert bases == [999.0, 999.0, 999.0]
    assert [our_rotary("modernbert", n).base for n in range(3)] == [160000.0, 10000.0, 160000.0]


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "dynamic", "factor": 2.0}, 'rope_type = "dynamic", which conjoin does not know.*up to 64 positions'),
        ({"rope_type": "spiral"}, 'rope_type = "spiral", which conjoin does not know.\nExpected: default, linear'),
        ({"rope_type": "llama3", "factor": 2.0}, "\"llama3\" needs 'low_freq_factor', which the config lacks"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, r"short_factor = \[1.0\]; expected 2 numbers"),
        ({"type": "linear"}, "\"linear\" needs 'factor', which the config lacks"),
        ({"partial_rotary_factor": 0.8}, "llama: 3 of 4 head dimensions would turn; expected an even number"),
    ],
)
def test_a_scaling_that_cannot_be_honoured_is_an_error(scaling: Fields, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        our_rotary("llama", rope_scaling=scaling)


@settings(deadline=None, max_examples=25)
@given(shift=st.integers(0, 200), size=st.sampled_from([2, 4, 8]))
def test_scores_depend_on_the_distance_alone_and_dimensions_past_the_rotary_size_pass(shift: int, size: int) -> None:
    kind = spec.Rotary(base=77.0, rotary_size=size)
    q, k = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.randn(2, 3, 5, 8, dtype=torch.float64)
    here, there = torch.arange(5)[None], torch.arange(5)[None] + shift
    before, after = (rotary_angles(kind, positions, torch.float64) for positions in (here, there))
    scores = [rotate(q, angles) @ rotate(k, angles).mT for angles in (before, after)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)  # angles are float32
    assert torch.equal(rotate(q, after)[..., size:], q[..., size:])
    assert torch.equal(rotate(q, before)[:, :, 0], q[:, :, 0])


def test_layer_types_must_name_every_layer_with_a_word_that_is_known() -> None:
    with pytest.raises(ConfigError, match="layer_types names 2 layers, num_hidden_layers is 3"):
        our_rotary("qwen2", layer_types=["full_attention"] * 2)
    with pytest.raises(
        ConfigError, match=r"(?s)words that conjoin does not know:.*chunked_attention.*Expected: full_at"
    ):
        our_rotary("qwen2", layer_types=["full_attention", "chunked_attention", "full_attention"])


def test_the_callers_scaling_wins_over_the_files() -> None:
    """A folder that transformers 5 saved has rope_parameters; who loads it for longer sources gives rope_scaling."""
    plain = {"head_dim": SIZE, "rope_parameters": {"rope_type": "default", "rope_theta": THETA}}
    stretched = our_rotary("llama", **plain, rope_scaling=YARN)
    assert stretched == our_rotary("llama", head_dim=SIZE, rope_parameters={"rope_theta": THETA, **YARN})
    assert stretched != our_rotary("llama", **plain)
    older = {"type": "linear", "factor": 2.0}  # transformers 4's word
    linear = our_rotary(
        "llama", head_dim=SIZE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": THETA}
    )
    assert our_rotary("llama", **plain, rope_scaling=older) == linear
