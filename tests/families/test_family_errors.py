"""What families refuse, word for word."""

from dataclasses import replace
from typing import Any

import pytest

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, JoinError
from conjoin.families import MODULES, config_from_dict, family
from conjoin.join import pair_spec
from oracle_tiny import TINY

# What each family calls these; the rest says num_hidden_layers, num_attention_heads, hidden_size, hidden_act.
BARTS = ("bart", "mbart", "marian", "m2m_100", "pegasus", "blenderbot", "blenderbot-small", "plbart", "mvp")
LAYERS = {
    **dict.fromkeys(BARTS, "decoder_layers"),
    "xglm": "num_layers",
    "distilbert": "n_layers",
    "gpt2": "n_layer",
    "gpt_bigcode": "n_layer",
    "openai-gpt": "n_layer",
    "gptj": "n_layer",
    "codegen": "n_layer",
    "bloom": "n_layer",
    "gpt_neo": "num_layers",
    "t5": "num_decoder_layers",
    "mt5": "num_decoder_layers",
    "umt5": "num_decoder_layers",
}
HEADS = {
    **dict.fromkeys(BARTS, ("d_model", "decoder_attention_heads")),
    "xglm": ("d_model", "attention_heads"),
    "distilbert": ("dim", "n_heads"),
    "gpt2": ("n_embd", "n_head"),
    "gpt_neo": ("hidden_size", "num_heads"),
    "gpt_bigcode": ("n_embd", "n_head"),
    "openai-gpt": ("n_embd", "n_head"),
    "gptj": ("n_embd", "n_head"),
    "codegen": ("n_embd", "n_head"),
    "bloom": ("hidden_size", "n_head"),
}
ACTIVATION = {
    **dict.fromkeys((*BARTS, "xglm"), "activation_function"),
    "distilbert": "activation",
    "gpt2": "activation_function",
    "gpt_neo": "activation_function",
    "gpt_bigcode": "activation_function",
    "openai-gpt": "afn",
    "gptj": "activation_function",
    "codegen": "activation_function",
    "falcon": "activation",
    "opt": "activation_function",
    "gemma2": "hidden_activation",
    "gemma3_text": "hidden_activation",
    "modernbert": "hidden_activation",
    "modernbert-decoder": "hidden_activation",
}
WITH_HEAD_SIZE = {
    *("t5", "mt5", "umt5", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "nomic_bert", "qwen3"),
    *("ernie4_5", "ministral"),
}
"""Families whose configs name the size of a head."""
NESTED = {"t5gemma", "t5gemma2"}
"""Families whose config.json has a config for each half."""
FLAT = {*MODULES} - NESTED


def tiny(model_type: str, **changes: Any) -> Any:
    """The family's tiny config without a list of layers, which would have to fit its changes."""
    plain = {name: value for name, value in TINY[model_type].items() if name != "layer_types"}
    return config_from_dict({"model_type": model_type, **plain, **changes})


def refusal(model_type: str, **changes: Any) -> str:
    """What the decoder of a changed config says, or the encoder where the family has no decoder."""
    role = "encoder" if family(model_type).decoder is None else "decoder"
    with pytest.raises(ConfigError) as caught:
        family(model_type).stack(tiny(model_type, **changes), role)
    return str(caught.value)


@pytest.mark.parametrize("model_type", sorted(FLAT))
def test_a_stack_without_layers_is_refused(model_type: str) -> None:
    key = LAYERS.get(model_type, "num_hidden_layers")
    assert (
        refusal(model_type, **{key: 0})
        == f"{model_type}: config values out of range:\n  {key} = 0: expected 1 to 4,096"
    )


@pytest.mark.parametrize("model_type", sorted(FLAT - WITH_HEAD_SIZE))
def test_heads_that_do_not_divide_the_width_are_refused(model_type: str) -> None:
    hidden, heads = HEADS.get(model_type, ("hidden_size", "num_attention_heads"))
    width = TINY[model_type][hidden]
    told = refusal(model_type, **{heads: 7})
    assert told == f"{model_type}: {hidden} = {width} is not a multiple of {heads} = 7."
    assert refusal(model_type, **{heads: 0}) == (
        f"{model_type}: config values out of range:\n  {heads} = 0: expected 1 to 1,048,576"
    )


@pytest.mark.parametrize("model_type", sorted(FLAT - {"t5", "mt5", "umt5", "bloom"}))
def test_an_unknown_activation_is_refused(model_type: str) -> None:
    key = ACTIVATION.get(model_type, "hidden_act")
    assert refusal(model_type, **{key: "gelu_fast_v2"}) == (
        f'{model_type}: config.json has {key} = "gelu_fast_v2", which conjoin does not know.\n'
        "Expected one of: gelu, gelu_accurate, gelu_fast, gelu_new, gelu_python, gelu_python_tanh, gelu_pytorch_tanh, "
        "quick_gelu, relu, silu, swish, tanh.\n\n"
        "hint: if it is an alias of one of these, add it to ACTIVATIONS in families/builders.py and send the config "
        "as a test."
    )


@pytest.mark.parametrize("model_type", sorted(NESTED))
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: expected 1 to 4,096"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: expected 1 to 1,048,576"),
        ({"hidden_activation": "gelu_fast_v2"}, 'hidden_activation = "gelu_fast_v2", which conjoin does not know'),
        ({"vocab_size": "many"}, "vocab_size = 'many': expected int"),
    ],
    ids=str,
)
def test_a_half_s_own_config_is_checked_as_any_other(model_type: str, changes: dict[str, Any], told: str) -> None:
    whole = TINY[model_type]
    half = {name: value for name, value in whole["decoder"].items() if name != "layer_types"}
    with pytest.raises(ConfigError) as caught:
        family(model_type).stack(
            config_from_dict({"model_type": model_type, **whole, "decoder": {**half, **changes}}), "decoder"
        )
    assert told in str(caught.value)


def test_values_of_the_wrong_type_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny("bert", hidden_size="20", layer_norm_eps=None, tie_word_embeddings=1, num_hidden_layers=2.0)
    assert str(caught.value) == (
        "bert: config values of the wrong type:\n"
        "  hidden_size = '20': expected int\n"
        "  num_hidden_layers = 2.0: expected int\n"
        "  layer_norm_eps = None: expected float\n"
        "  tie_word_embeddings = 1: expected bool"
    )


@pytest.mark.parametrize("model_type", sorted(FLAT))
def test_a_vocabulary_that_is_no_number_is_refused(model_type: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(model_type, vocab_size="many")
    assert str(caught.value) == f"{model_type}: config values of the wrong type:\n  vocab_size = 'many': expected int"


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert", "electra", "albert"])
def test_relative_positions_of_transformers_4_are_refused(model_type: str) -> None:
    assert refusal(model_type, position_embedding_type="relative_key") == (
        f'{model_type}: config.json has position_embedding_type = "relative_key", which conjoin does not know.\n'
        "Expected: absolute.\n\n"
        "hint: transformers 5 drops this key and computes something else; transformers 4 honours it."
    )


def test_roberta_without_a_pad_is_refused() -> None:
    assert refusal("roberta", pad_token_id=None) == (
        "roberta: pad_token_id is not set, but positions are counted from it.\n\n"
        'hint: add "pad_token_id": 1 (or what tokenizer.pad_token_id says) to config.json.'
    )


@pytest.mark.parametrize(("layers", "groups", "inner"), [(4, 5, 1), (4, 4, 2)])
def test_albert_groups_that_make_no_sense_are_refused(layers: int, groups: int, inner: int) -> None:
    told = refusal("albert", num_hidden_layers=layers, num_hidden_groups=groups, inner_group_num=inner)
    assert told == (
        f"albert: num_hidden_layers = {layers}, num_hidden_groups = {groups}, inner_group_num = {inner}.\n"
        "Expected 1 <= num_hidden_groups <= num_hidden_layers, and fewer groups than layers where a group has "
        "several blocks."
    )


def test_a_role_that_a_family_cannot_play_is_refused() -> None:
    bert, mpnet = (config_from_dict({"model_type": name}) for name in ("bert", "mpnet"))
    with pytest.raises(JoinError) as caught:
        pair_spec(EncoderDecoderConfig.from_encoder_decoder_configs(bert, mpnet))
    assert str(caught.value) == (
        "mpnet cannot be the decoder of a pair, only the encoder.\n\n"
        "hint: `conjoin families` lists what each family can be."
    )
    assert pair_spec(EncoderDecoderConfig.from_encoder_decoder_configs(mpnet, bert)).encoder.family == "mpnet"
    with pytest.raises(JoinError, match="gpt2 cannot be the encoder of a pair, only the decoder"):
        replace(family("gpt2"), encoder=None).stack(tiny("gpt2"), "encoder")


def test_another_number_of_buckets_than_transformers_computes_is_refused() -> None:
    assert refusal("mpnet", relative_attention_num_buckets=64) == (
        "mpnet: config.json has relative_attention_num_buckets = 64, which conjoin does not know.\nExpected: 32.\n\n"
        "hint: transformers sorts distances into 32 buckets whatever the config says."
    )


@pytest.mark.parametrize(
    ("model_type", "key", "value", "told"),
    [
        (
            "bloom",
            "apply_residual_connection_post_layernorm",
            True,
            "= true, which conjoin does not know.\nExpected: false.",
        ),
        ("mvp", "use_prompt", True, "= true, which conjoin does not know.\nExpected: false."),
        ("stablelm", "qk_layernorm", True, "= true, which conjoin does not know.\nExpected: false."),
        ("stablelm", "hidden_dropout", 0.1, "= 0.1, which conjoin does not know.\nExpected: 0."),
        ("deberta", "talking_head", True, "= true, which conjoin does not know.\nExpected: false."),
        ("deberta-v2", "conv_kernel_size", 3, "= 3, which conjoin does not know.\nExpected: 0."),
        (
            "big_bird",
            "attention_type",
            "dense",
            '= "dense", which conjoin does not know.\nExpected one of: original_full, ',
        ),
    ],
)
def test_a_value_that_a_family_does_not_compute_is_refused(model_type: str, key: str, value: Any, told: str) -> None:
    assert refusal(model_type, **{key: value}).startswith(f"{model_type}: config.json has {key} {told}")


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"model_type": "word2vec"})
    assert str(caught.value) == (
        f"model_type = 'word2vec' is not a family that conjoin knows.\nKnown: {', '.join(sorted(MODULES))}.\n\n"
        "hint: a family is one file of about 100 lines; CONTRIBUTING.md shows how to add one."
    )


def test_a_config_without_a_family_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"hidden_size": 20})
    assert str(caught.value) == (
        f"The config has model_type = None; expected one of: {', '.join(sorted(MODULES))}.\n\n"
        'hint: very old checkpoints lack it: add "model_type": "bert" (or what it is) to config.json.'
    )


def test_another_familys_config_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        family("bert").config.from_dict({"model_type": "gpt2"})
    assert str(caught.value) == (
        "BertConfig: the config says model_type = 'gpt2'; expected 'bert'.\n\n"
        "hint: AutoConfig.from_pretrained picks the class by itself."
    )


@pytest.mark.parametrize("key", ["num_hidden_groups", "inner_group_num"])
def test_albert_without_groups_or_blocks_in_them_is_refused(key: str) -> None:
    assert refusal("albert", **{key: 0}) == f"albert: config values out of range:\n  {key} = 0: expected 1 to 4,096"


def test_a_spec_without_blocks_cannot_be_written() -> None:
    stack = family("bert").stack(tiny("bert"), "decoder")
    with pytest.raises(ConfigError, match="bert: the config has no layers; a stack needs at least one"):
        replace(stack, blocks=())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn = False"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn = 2"),
        ({"multi_query": False, "num_kv_heads": 1}, "num_kv_heads = 1"),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, "num_kv_heads = 2"),
    ],
)
def test_falcons_that_nobody_makes_are_refused(changes: dict[str, Any], key: str) -> None:
    told = refusal("falcon", **changes)
    assert told.startswith(f"falcon: config.json has {key} with ") and told.endswith("of which no Falcon is made.")


def test_gptj_turns_an_even_part_of_a_head() -> None:
    for size in (0, 5, 10):
        assert f"rotary_dim = {size}" in refusal("gptj", rotary_dim=size)


def test_codegen_needs_heads_for_each_shard() -> None:
    assert refusal("codegen", n_head=6) == "codegen: n_head = 6; expected a multiple of 4."


def test_bloom_knows_its_width_by_an_older_name_too() -> None:
    config = tiny("bloom", hidden_size=64, n_embed=20)
    assert config.hidden_size == 20 and family("bloom").stack(config, "decoder").hidden_size == 20
