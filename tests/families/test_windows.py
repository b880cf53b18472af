"""Which keys a window admits, in every family and role that has one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin.errors import ConfigError
from conjoin.families import Role, config_from_dict, family
from conjoin.torch.pair.halves import Decoder, Encoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FULL, SLIDING = "full_attention", "sliding_attention"


def windows(key: str, role: Role = "decoder", **changes: object) -> list[int | None]:
    """The window of every layer of our spec."""
    config = config_from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key], **changes})
    return [block.self_attn.window for block in family(config.model_type).stack(config, role).blocks]


@pytest.mark.parametrize(
    ("key", "changes", "expected"),
    [
        ("mistral", {}, [3, 3, 3]),
        ("mistral/full", {}, [None, None, None]),
        ("qwen2", {}, [None, 3, 3]),
        ("qwen2", {"layer_types": None, "max_window_layers": 2}, [None, None, 3]),
        ("qwen2", {"use_sliding_window": False}, [None, None, None]),
        ("qwen3", {"layer_types": [SLIDING, FULL, FULL]}, [3, None, None]),
        ("gemma2", {"layer_types": None}, [3, None, 3]),
        ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}, [3, None, 3]),
        ("gemma3_text", {"layer_types": None}, [3, 3, 3]),
        ("gemma3_text", {"use_bidirectional_attention": True, "sliding_window": 8}, [5, None, 5]),
        ("modernbert", {}, [None, 3, None]),
        ("modernbert", {"layer_types": None, "global_attn_every_n_layers": 2, "local_attention": 9}, [None, 5, None]),
        ("modernbert-decoder", {}, [None, 2, None]),
        ("modernbert-decoder", {"local_attention": None}, [None, None, None]),
        ("smollm3", {}, [None, None, 3]),
        ("smollm3", {"layer_types": None}, [3, None, 3]),
        ("smollm3", {"layer_types": None, "use_sliding_window": False}, [None, None, None]),
        ("olmo3", {"layer_types": None}, [3, 3, 3]),
        ("exaone4", {"layer_types": None, "sliding_window_pattern": 2}, [3, None, 3]),
        ("exaone4", {"layer_types": None, "sliding_window_pattern": "LG"}, [3, None, None]),
        ("exaone4", {"layer_types": None, "sliding_window_pattern": None}, [None, None, None]),
        ("cohere2", {"layer_types": None}, [3, 3, 3]),
        ("cohere2", {"layer_types": None, "sliding_window_pattern": 2}, [3, None, 3]),
        ("ministral", {}, [3, None, 3]),
        ("ministral", {"layer_types": None}, [3, 3, 3]),
        ("ministral", {"layer_types": None, "sliding_window": None}, [None, None, None]),
        ("starcoder2", {}, [3, 3, 3]),
        ("phi3", {}, [3, 3, 3]),
        ("gpt_neo", {}, [3, None, 3]),
        ("gpt_neo/wide", {}, [None, 3, None]),
        ("llama", {}, [None, None, None]),
        ("gpt_neox", {}, [None, None, None]),
    ],
)
def test_windows_are_what_the_config_says_in_both_roles(
    key: str, changes: dict[str, object], expected: list[int | None]
) -> None:
    assert windows(key, "decoder", **changes) == expected
    assert windows(key, "encoder", **changes) == expected


def test_layers_without_positions_are_what_the_config_says() -> None:
    def turns(key: str, **changes: Any) -> list[bool]:
        config = config_from_dict({"model_type": oracle.model_type(key), **{**oracle.TINY[key], **changes}})
        blocks = family(config.model_type).stack(config, "decoder").blocks
        return [block.self_attn.rotary is not None for block in blocks]

    assert turns("smollm3") == [False, True, False]
    assert turns("smollm3/full") == [True, False, True]
    assert turns("exaone4") == [True, False, True]
    assert turns("exaone4/full") == [True, True, True]
    assert turns("cohere2") == [True, False, True]
    with pytest.raises(ConfigError, match="cohere2: sliding_window = None; expected a number"):
        turns("cohere2", sliding_window=None)
    with pytest.raises(ConfigError, match="no_rope_layers has 2 entries for 3 layers"):
        turns("smollm3", no_rope_layers=[1, 0])
    with pytest.raises(ConfigError, match="expected letters L"):
        turns("exaone4", layer_types=None, sliding_window_pattern="LXG")
    with pytest.raises(ConfigError, match=r"attention_types = .* and num_layers = 3; expected"):
        turns("gpt_neo", attention_types=[[["global"], 2]])


@pytest.mark.parametrize(
    ("key", "width", "encoder"),
    [("t5gemma", 4, (5, 5)), ("t5gemma", 3, (4, 4)), ("t5gemma2", 4, (2, 3)), ("t5gemma2", 3, (2, 2))],
)
def test_the_halves_of_a_t5gemma_mean_other_things_by_a_window(key: str, width: int, encoder: tuple[int, int]) -> None:
    made = family(key)
    config = made.config(**oracle.TINY[key])
    for role, sides in (("encoder", encoder), ("decoder", (width, width))):
        stack = made.stack(made.with_half(config, role, sliding_window=width), role)
        assert {block.self_attn.sides for block in stack.blocks} == {None, sides}


def causal_masks(visible: Tensor, reach: int) -> dict[str, Tensor]:
    """transformers' additive masks of a ModernBERT turned causal.

    Args:
        reach: how many positions a local layer sees before its own.
    """
    positions = torch.arange(visible.shape[1])
    distance = positions[:, None] - positions[None]
    before = (distance >= 0) & visible.bool()[:, None, None, :]
    lowest = torch.finfo(torch.float32).min
    allowed = {FULL: before, SLIDING: before & (distance <= reach)}
    return {kind: torch.zeros(mask.shape).masked_fill(~mask, lowest) for kind, mask in allowed.items()}


@pytest.mark.parametrize("key", ["modernbert", "modernbert/biases"])
def test_modernberts_masked_lm_turned_causal_reads_the_past_half_of_its_window(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path, head="mlm")
    batch = oracle.batch_for(key)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = theirs(ids, attention_mask=causal_masks(mask, theirs.config.local_attention // 2)).logits
    ours = Decoder.from_pretrained(tmp_path)(ids, mask).logits
    torch.testing.assert_close(ours * mask[..., None], expected * mask[..., None], **CLOSE)


def test_a_gemma3_trained_both_ways_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    oracle.save_encoder("gemma3_text", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"use_bidirectional_attention": false', '"use_bidirectional_attention": true')
    )
    batch = oracle.batch_for("gemma3_text")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = oracle.encoder_states(oracle.reload_encoder(tmp_path), ids, mask)
    ours = Encoder.from_pretrained(tmp_path)(ids, mask).last_hidden_state
    torch.testing.assert_close(ours * mask[..., None], expected * mask[..., None], **CLOSE)


@pytest.mark.parametrize("key", ["mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "modernbert-decoder"])
def test_a_bidirectional_encoder_sees_as_far_ahead_as_back(key: str, tmp_path: Path) -> None:
    """One layer alone, so that what a position reads is its window and no more."""
    wanted = {"num_hidden_layers": 1, "layer_types": [SLIDING], "max_window_layers": 0}
    changes = {name: value for name, value in wanted.items() if hasattr(family(key).config, name)}
    oracle.save_encoder(key, tmp_path)
    encoder = Encoder.from_pretrained(tmp_path, **changes)
    reach = windows(key, "encoder", **changes)[0]
    ids = torch.arange(11, 23)[None]
    changed = ids.clone()
    changed[0, 5] = 44
    with torch.no_grad():
        moved = (encoder(ids).last_hidden_state - encoder(changed).last_hidden_state).abs().amax(-1)[0] > 0
    assert reach is not None
    assert moved.tolist() == [abs(position - 5) < reach for position in range(12)]


@pytest.mark.parametrize("types", [[FULL, SLIDING, FULL], [FULL, FULL, FULL]], ids=["first", "all"])
def test_layers_that_turn_nothing_may_come_first(
    types: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(oracle.TINY, "cohere2/grouped", {**oracle.TINY["cohere2/grouped"], "layer_types": types})
    made = oracle.save_decoder("cohere2/grouped", tmp_path)
    ids = torch.randint(11, 53, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path)(ids).logits
    torch.testing.assert_close(ours, oracle.decoder_logits(made, ids), **CLOSE)
