"""Every key of every config is accounted for: a change shows in the spec, or is refused, or is listed with why not.

A key that nobody reads is how a port drops `hidden_act` silently.
"""

import copy
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest

from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.families import MODULES, PretrainedConfig, family
from conjoin.families.config import _defaults, nested
from conjoin.join import half_spec
from oracle_configs import default_fields
from oracle_tiny import TINY, keys_of

EVERYWHERE = {
    "architectures": "names a class of transformers",
    "dtype": "how parameters are stored, not what is computed",
    "is_decoder": "the role decides",
    "is_encoder_decoder": "the role decides",
    "pad_token_id": "an id of generation; where it touches a table, the spec changes",
    "bos_token_id": "an id of generation",
    "eos_token_id": "an id of generation",
    "sep_token_id": "an id of generation",
    "cls_token_id": "an id of generation",
    "decoder_start_token_id": "an id of generation",
    "use_cache": "a choice of the caller",
    "output_attentions": "a choice of the caller",
    "output_hidden_states": "a choice of the caller",
    "return_dict": "a choice of the caller",
    "cross_attention_hidden_size": "own cross-attention reads its own width; a pair checks it (join/pair.py)",
}
OF_DECODERS = ("add_cross_attention", "tie_word_embeddings")
"""Fields of the base class that mean nothing to a family that cannot decode."""
ANOTHER_HEAD = "of a head that conjoin does not have"
OF_GENERATION = "a setting of generation"
ELECTRA_SUMMARY = ("summary_type", "summary_use_proj", "summary_activation")
SUMMARY = (*ELECTRA_SUMMARY, "summary_proj_to_labels", "summary_first_dropout")

OF_THE_WHOLE = "the config around it decides for both halves"
DECIDED = ("attention_dropout", "add_cross_attention", "tie_word_embeddings")
IMAGES = ("boi_token_index", "image_token_index", "initializer_range", "mm_tokens_per_image", "vision_config")
T5GEMMA2 = ("encoder", "encoder.text_config", "decoder")
DEBERTA = {
    **dict.fromkeys(("classifier_dropout", "pooler_dropout", "pooler_hidden_act"), ANOTHER_HEAD),
    "legacy": "of the masked LM's head, and DeBERTa is an encoder here",
}

SKIPPED: dict[str, dict[str, str]] = {
    "albert": dict.fromkeys(("classifier_dropout", "classifier_dropout_prob"), ANOTHER_HEAD),
    "bert": {"classifier_dropout": ANOTHER_HEAD},
    "biogpt": {"layer_norm_eps": "transformers reads it and never uses it"},
    "bert-generation": {"classifier_dropout": ANOTHER_HEAD, "type_vocab_size": "BertGeneration has no token types"},
    "big_bird": {"classifier_dropout": ANOTHER_HEAD},
    "camembert": {"classifier_dropout": ANOTHER_HEAD},
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA,
    "distilbert": dict.fromkeys(("qa_dropout", "seq_classif_dropout"), ANOTHER_HEAD),
    "electra": dict.fromkeys(("classifier_dropout", "summary_last_dropout", *ELECTRA_SUMMARY), ANOTHER_HEAD),
    "ernie": {"classifier_dropout": ANOTHER_HEAD},
    "eurobert": {
        "mask_token_id": "an id of masked language modelling",
        "classifier_pooling": ANOTHER_HEAD,
    },
    "gemma3_text": {"attn_logit_softcapping": "transformers reads it and never uses it (test_oracle.py)"},
    "gpt_bigcode": dict.fromkeys(
        ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
        "a way to compute the same numbers in half precision",
    ),
    "openai-gpt": dict.fromkeys(SUMMARY, ANOTHER_HEAD),
    "gpt2": {
        **dict.fromkeys(SUMMARY, ANOTHER_HEAD),
        "reorder_and_upcast_attn": "a way to compute the same numbers in half precision",
    },
    "bloom": dict.fromkeys(("pretraining_tp", "slow_but_exact"), "a way to compute the same numbers in slices"),
    "codegen": {
        "n_positions": "rotations have no table",
        "n_ctx": "transformers computes a number of rotated dimensions from it that it never uses",
    },
    "gptj": {"n_positions": "rotations have no table"},
    "gte": {"classifier_dropout": ANOTHER_HEAD},
    "jina_embeddings_v3": {"classifier_dropout": ANOTHER_HEAD},
    "megatron-bert": {"classifier_dropout": ANOTHER_HEAD},
    "mpnet": {"classifier_dropout": ANOTHER_HEAD, "type_vocab_size": "MPNet has no token types"},
    "nomic_bert": {"classifier_dropout": ANOTHER_HEAD},
    "roberta": {"classifier_dropout": ANOTHER_HEAD},
    "roberta-prelayernorm": {"classifier_dropout": ANOTHER_HEAD},
    "t5gemma": {
        "classifier_dropout_rate": ANOTHER_HEAD,
        "vocab_size": "each half has its own",
        "encoder.final_logit_softcapping": "an encoder has no head",
        **{f"{half}.{name}": OF_THE_WHOLE for half in ("encoder", "decoder") for name in DECIDED},
    },
    "t5gemma2": {
        "classifier_dropout_rate": ANOTHER_HEAD,
        "initializer_range": "each half has its own",
        "eoi_token_index": "the encoder's config says it",
        **dict.fromkeys(("image_token_index", *(f"encoder.{name}" for name in IMAGES)), "of images"),
        "encoder.text_config.final_logit_softcapping": "an encoder has no head",
        **{f"{half}.{name}": OF_THE_WHOLE for half in T5GEMMA2 for name in DECIDED[half == "encoder" :]},
        **{f"{half}.attn_logit_softcapping": "transformers reads it and never uses it" for half in T5GEMMA2[1:]},
        **{f"{half}.use_bidirectional_attention": "the role decides" for half in T5GEMMA2[1:]},
    },
    "xlm-roberta": {"classifier_dropout": ANOTHER_HEAD},
    "xlm-roberta-xl": {"classifier_dropout": ANOTHER_HEAD},
}
"""Keys that a family's class names, and why they change nothing."""

NOT_FIELDS: dict[str, dict[str, str]] = {
    "bart": {"classifier_dropout": ANOTHER_HEAD, "forced_eos_token_id": OF_GENERATION},
    "blenderbot": dict.fromkeys(("forced_eos_token_id", "encoder_no_repeat_ngram_size"), OF_GENERATION),
    "blenderbot-small": {"forced_eos_token_id": OF_GENERATION},
    "gemma": {"use_bidirectional_attention": "the role decides"},
    "eurobert": {"pretraining_tp": "a way to compute the same numbers in slices"},
    "gemma2": {"use_bidirectional_attention": "the role decides"},
    "gpt_neo": {"classifier_dropout": ANOTHER_HEAD},
    "gpt_neox": {"classifier_dropout": ANOTHER_HEAD},
    "llama": {"pretraining_tp": "a way to compute the same numbers in slices"},
    "marian": {"forced_eos_token_id": OF_GENERATION},
    "mbart": {"classifier_dropout": ANOTHER_HEAD, "forced_eos_token_id": OF_GENERATION},
    "modernbert": {
        **dict.fromkeys(("classifier_pooling", "classifier_dropout"), ANOTHER_HEAD),
        **dict.fromkeys(("sparse_prediction", "sparse_pred_ignore_index"), "a shortcut of its masked LM's loss"),
        "initializer_cutoff_factor": "cuts the tails of fresh weights; ours are never cut",
        "deterministic_flash_attn": "a choice of kernel",
    },
    "modernbert-decoder": {
        "classifier_dropout": ANOTHER_HEAD,
        "initializer_cutoff_factor": "cuts the tails of fresh weights; ours are never cut",
    },
    "mt5": {"classifier_dropout": ANOTHER_HEAD},
    "mvp": {
        "classifier_dropout": ANOTHER_HEAD,
        **dict.fromkeys(("prompt_length", "prompt_mid_dim"), "of prompts, which are refused"),
    },
    "pegasus": {"forced_eos_token_id": OF_GENERATION},
    "plbart": {"classifier_dropout": ANOTHER_HEAD, "forced_eos_token_id": OF_GENERATION},
    "t5": {"classifier_dropout": ANOTHER_HEAD},
    "umt5": {"classifier_dropout": ANOTHER_HEAD},
}
"""Fields of transformers' class that ours keeps as extra keys only, and why."""

STRETCHED = {"rope_type": "yarn", "factor": 3.0}  # measured from max_position_embeddings
CANDIDATES: dict[str, list[Any]] = {
    "rope_parameters": [STRETCHED],
    "rope_scaling": [STRETCHED],
    "partial_rotary_factor": [0.75],
}
"""Values to try where the kind of the present one does not tell."""

MORE_BASES: list[dict[str, Any]] = [
    {"rope_parameters": STRETCHED},
    {"use_sliding_window": True, "sliding_window": 3},
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
]
"""Settings under which keys have an effect that have none under the defaults; tried where a class has all of them."""


def parts(kind: type[PretrainedConfig], path: str = "") -> Iterator[tuple[str, type[PretrainedConfig]]]:
    """A class of configs and those of configs within it, each with what stands before the names of its fields."""
    yield path, kind
    for name, inner in nested(kind).items():
        yield from parts(inner, f"{path}{name}.")


def fields(model_type: str) -> list[str]:
    return sorted(path + name for path, kind in parts(family(model_type).config) for name in _defaults(kind))


def with_value(config: PretrainedConfig, name: str, value: Any) -> PretrainedConfig:
    """A copy with another value of a field, which may be one of a config within it."""
    values = inner = config.to_dict()
    *path, field = name.split(".")
    for each in path:
        inner = inner[each]
    inner[field] = value
    return type(config).from_dict(values)


def bases(model_type: str) -> Iterator[PretrainedConfig]:
    """The class's defaults and every tiny variant, as halves that do and do not read an encoder."""
    config = family(model_type).config
    plain: list[PretrainedConfig] = [config(), *(config(**copy.deepcopy(TINY[key])) for key in keys_of(model_type))]
    for path, kind in parts(config):
        for values in (values for values in MORE_BASES if values.keys() <= _defaults(kind).keys()):
            changed = config()
            for name, value in values.items():
                changed = with_value(changed, path + name, value)
            plain.append(changed)
    for base in plain:
        for crossing in (False, True):
            yield base.copy(add_cross_attention=crossing)


def candidates(name: str, value: Any) -> list[Any]:
    """Other values of the same kind."""
    if name in CANDIDATES:
        return CANDIDATES[name]
    match value:
        case bool():
            return [not value]
        case int():
            return [value * 2, value + 1, value + 2]
        case float():
            return [value / 2 + 0.25]
        case str():
            return ["relu", "silu", "no such thing"]
        case list():
            return [value[::-1], value[:1] * len(value)]
        case None:
            return [True, 3, 4, 2.5, "relu"]  # 4: a head may be of even width only
        case _:
            return []


def specs(config: PretrainedConfig) -> list[Any]:
    made = family(config.model_type)
    roles = [role for role, kind in (("encoder", made.encoder), ("decoder", made.decoder)) if kind is not None]
    return [half_spec(config, role) for role in roles]


def changes(model_type: str, name: str) -> bool:
    """Whether some other value of this key changes a spec, or is refused or warned about by name."""
    return any(
        _changes(base, name, value)
        for base in bases(model_type)
        for value in candidates(name.rpartition(".")[2], attrgetter(name)(base))
    )


def _changes(base: PretrainedConfig, name: str, value: Any) -> bool:
    try:
        changed = with_value(base, name, value)
    except ConfigError:
        return False  # a value of another type says nothing about the key
    try:
        return specs(changed) != specs(base)
    except (ConfigError, ConjoinWarning) as refusal:
        return name.rpartition(".")[2] in str(refusal)


@pytest.mark.parametrize("model_type", sorted(MODULES))
def test_every_key_of_a_config_changes_the_spec_or_is_skipped_for_a_reason(model_type: str) -> None:
    skipped = {*EVERYWHERE, *SKIPPED.get(model_type, {}), *(OF_DECODERS if family(model_type).decoder is None else ())}
    silent = [
        name
        for name in fields(model_type)
        if name not in skipped and name.rpartition(".")[2] not in EVERYWHERE and not changes(model_type, name)
    ]
    assert not silent, (
        f"{model_type}: no effect, and no reason given: {silent}.\n"
        "Let the family read the key, or refuse or warn of other values by its name; or let a TINY variant set "
        "what it depends on; or say in SKIPPED why it changes nothing; or drop it where transformers lacks it too."
    )


@pytest.mark.parametrize("model_type", sorted(MODULES))
def test_what_is_skipped_is_a_key_of_the_family_and_has_no_effect(model_type: str) -> None:
    stale = [
        name for name in SKIPPED.get(model_type, {}) if name not in fields(model_type) or changes(model_type, name)
    ]
    assert not stale


@pytest.mark.parametrize("model_type", sorted(MODULES))
def test_a_config_class_has_transformers_fields_with_transformers_defaults(model_type: str) -> None:
    missing: set[str] = set()
    for path, kind in parts(family(model_type).config):
        ours, theirs = kind(), default_fields(kind.model_type)
        known = [name for name in theirs if hasattr(ours, name)]
        missing |= {path + name for name in theirs if name not in known}
        known = [name for name in known if name not in nested(kind)]
        assert {name: getattr(ours, name) for name in known} == {name: theirs[name] for name in known}
    assert missing == set(NOT_FIELDS.get(model_type, {}))


def test_only_families_that_exist_are_excused() -> None:
    assert {*SKIPPED, *NOT_FIELDS} <= set(MODULES)
