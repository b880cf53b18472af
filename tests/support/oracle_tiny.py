"""Tiny configs, one per checkpoint family and variant, in transformers' own words.

Sizes are distinct and odd so that a swapped axis, a dropped field or a default taken by mistake shows: encoders have
hidden 20, 5 heads, 61 words; decoders hidden 12, 3 heads (1 of keys and values; in one key of each grouped-query
family 6 and 3), 53 words. Epsilons, activations, scales and special ids are off their defaults, dropout is 0. A window
is 3 or less, so that 7 tokens feel it.

A key is `model_type` or `model_type/variant`. The file imports no framework: other tests may read it on their own.
"""

from typing import Any

from conjoin.families import families

Fields = dict[str, Any]

# Ids below FIRST_ORDINARY_ID are kept for special tokens; `oracle.batch` never draws them.
FIRST_ORDINARY_ID = 11
START_ID = 9

ENCODER_SPECIALS: Fields = {"pad_token_id": 4, "bos_token_id": 6, "eos_token_id": 8}
DECODER_SPECIALS: Fields = {"pad_token_id": 3, "bos_token_id": 5, "eos_token_id": 7}

_BERT_LIKE: Fields = {
    "vocab_size": 61,
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 64,
    "type_vocab_size": 3,
    "layer_norm_eps": 0.01,
    **ENCODER_SPECIALS,
}

_TYPELESS: Fields = {name: value for name, value in _BERT_LIKE.items() if name != "type_vocab_size"}

_LLAMA_LIKE: Fields = {
    "vocab_size": 53,
    "hidden_size": 12,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,
    "attention_dropout": 0.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    **DECODER_SPECIALS,
}

# With one head of keys and values every query head reads the same, and a wrong order of groups would not show.
_GROUPED: Fields = {"num_attention_heads": 6, "num_key_value_heads": 3}

_MODERNBERT_LIKE: Fields = {
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
    "norm_eps": 0.01,
    "embedding_dropout": 0.0,
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
    "local_attention": 4,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 777.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 55.0},
    },
}

_BART_LIKE: Fields = {
    "vocab_size": 53,
    "d_model": 20,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 29,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "decoder_start_token_id": START_ID,
    "forced_eos_token_id": None,
    **DECODER_SPECIALS,
}

# Targets start with the padding id.
_MARIAN: Fields = {
    **_BART_LIKE,
    "decoder_vocab_size": 53,
    "scale_embedding": True,
    "activation_function": "silu",
    "decoder_start_token_id": 3,
}

_M2M100: Fields = {**_BART_LIKE, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
_PEGASUS: Fields = {**_BART_LIKE, "decoder_start_token_id": 3}

_XGLM: Fields = {
    "vocab_size": 53,
    "d_model": 12,
    "ffn_dim": 29,
    "num_layers": 3,
    "attention_heads": 3,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    **DECODER_SPECIALS,
}

_BIOGPT: Fields = {
    "vocab_size": 53,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    **DECODER_SPECIALS,
}

_T5_LIKE: Fields = {
    "vocab_size": 53,
    "d_model": 20,
    "d_kv": 6,
    "d_ff": 37,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 9,
    "dropout_rate": 0.0,
    "layer_norm_epsilon": 0.01,
    "decoder_start_token_id": START_ID,
    **DECODER_SPECIALS,
}

_GPT2: Fields = {
    "vocab_size": 53,
    "n_positions": 64,
    "n_embd": 12,
    "n_layer": 3,
    "n_head": 3,
    "n_inner": 29,
    "activation_function": "relu",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "layer_norm_epsilon": 0.01,
    **DECODER_SPECIALS,
}

_GPT_BIGCODE: Fields = {**_GPT2, "n_head": 6, "n_embd": 24}

_GPT: Fields = {name: value for name, value in _GPT2.items() if name not in ("n_inner", "activation_function")}

_OPT: Fields = {
    "vocab_size": 53,
    "hidden_size": 12,
    "word_embed_proj_dim": 10,
    "num_hidden_layers": 3,
    "ffn_dim": 29,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "activation_function": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    **DECODER_SPECIALS,
}

_GPT_NEOX: Fields = {
    "vocab_size": 53,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "hidden_act": "relu",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "max_position_embeddings": 64,
    "layer_norm_eps": 0.01,
    "use_parallel_residual": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5},
    **DECODER_SPECIALS,
}

# Distances up to 3 have rows of their own, larger ones share rows up to 20.
_DEBERTA: Fields = {
    **_BERT_LIKE,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 6,
    "max_relative_positions": 21,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}

_DEBERTA_1: Fields = {
    **_BERT_LIKE,
    "type_vocab_size": 0,
    "relative_attention": True,
    "max_relative_positions": 5,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
}

_ELECTRA: Fields = {**_BERT_LIKE, "embedding_size": 14, "hidden_act": "silu"}

_ALBERT: Fields = {
    **_BERT_LIKE,
    "embedding_size": 14,
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
    "inner_group_num": 2,
    "hidden_act": "relu",
}

_DISTILBERT: Fields = {
    "vocab_size": 61,
    "dim": 20,
    "hidden_dim": 37,
    "n_layers": 2,
    "n_heads": 5,
    "max_position_embeddings": 64,
    "activation": "relu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    **ENCODER_SPECIALS,
}

_MODERNBERT: Fields = {
    **_MODERNBERT_LIKE,
    "vocab_size": 61,
    "hidden_size": 20,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "hidden_activation": "silu",
    "cls_token_id": 6,
    "sep_token_id": 8,
    **ENCODER_SPECIALS,
}

_MODERNBERT_DECODER: Fields = {
    **_MODERNBERT_LIKE,
    "vocab_size": 53,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "hidden_activation": "silu",
    "cls_token_id": 5,
    "sep_token_id": 7,
    **DECODER_SPECIALS,
}

_EUROBERT: Fields = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,
    "attention_dropout": 0.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    **ENCODER_SPECIALS,
}

_ROTARY_BERT: Fields = {**_BERT_LIKE, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}

_QWEN: Fields = {
    **_LLAMA_LIKE,
    "use_sliding_window": True,
    "sliding_window": 3,
    "max_window_layers": 1,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}

_GEMMA2: Fields = {
    **_LLAMA_LIKE,
    "head_dim": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 7,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "attn_logit_softcapping": 0.7,
    "final_logit_softcapping": 1.5,
}

_GEMMA3: Fields = {
    **_LLAMA_LIKE,
    "head_dim": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 7,
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 55.0},
    },
}


_GPT_NEO: Fields = {
    "vocab_size": 53,
    "hidden_size": 12,
    "num_layers": 3,
    "num_heads": 3,
    "intermediate_size": 29,
    "max_position_embeddings": 64,
    "attention_types": [[["local", "global", "local"], 1]],
    "window_size": 3,
    "activation_function": "relu",
    "resid_dropout": 0.0,
    "embed_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_epsilon": 0.01,
    **DECODER_SPECIALS,
}

# Families of Llama's layout whose norms are layer norms.
_LAYER_NORMED: Fields = {name: value for name, value in _LLAMA_LIKE.items() if name != "rms_norm_eps"}

_STABLELM: Fields = {
    **_LAYER_NORMED,
    "hidden_size": 24,
    "layer_norm_eps": 0.01,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5},
}

_SMOLLM3: Fields = {
    **_LLAMA_LIKE,
    "use_sliding_window": True,
    "sliding_window": 3,
    "no_rope_layers": [0, 1, 0],
    "layer_types": ["full_attention", "full_attention", "sliding_attention"],
}


_LAYERS_WITH_WINDOWS: Fields = {
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

# 5.23 reads the older words of a base for one kind of layer, and takes the default, which is this, for the other.
_OLMO3: Fields = {
    **_LLAMA_LIKE,
    **_LAYERS_WITH_WINDOWS,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "yarn",
            "rope_theta": 500000.0,
            "factor": 3.0,
            "original_max_position_embeddings": 21,
            "attention_factor": 1.3,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
    },
}

_GRANITE: Fields = {
    **_LLAMA_LIKE,
    "embedding_multiplier": 1.7,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.6,
    "logits_scaling": 1.4,
}


def _phi3(original: int, share: float) -> Fields:
    """A head's share turns in two pairs, with factors of their own above `original` positions; 64 are to come."""
    return {
        **_LLAMA_LIKE,
        "hidden_size": 24,
        "max_position_embeddings": 2 * original,
        "original_max_position_embeddings": original,
        "longrope_length": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 77.0,
            "partial_rotary_factor": share,
            "short_factor": [1.1, 1.7],
            "long_factor": [2.3, 5.9],
        },
    }


_T5GEMMA_ENCODER: Fields = {
    **_GEMMA2,
    "vocab_size": 61,
    "hidden_size": 20,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["full_attention", "sliding_attention"],
}


_T5GEMMA2: Fields = {
    **_GEMMA3,
    "hidden_size": 20,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 4,
}

_T5GEMMA2_ENCODER: Fields = {
    "text_config": {
        **_T5GEMMA2,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "vision_config": {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    },
    "mm_tokens_per_image": 4,
    "boi_token_index": 1,
    "eoi_token_index": 12,  # an id that `oracle.batch` draws on either side
    "image_token_index": 2,
}


def _two_halves(encoder: Fields, decoder: Fields, **whole: Any) -> Fields:
    """A config with one config per half."""
    return {
        "encoder": encoder,
        "decoder": decoder,
        "vocab_size": 53,
        "dropout_rate": 0.0,
        "attention_dropout": 0.0,
        **DECODER_SPECIALS,
        **whole,
    }


_HALF_TURNED: Fields = {
    "hidden_size": 24,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5},
}

_PHI: Fields = {
    **_LAYER_NORMED,
    **_HALF_TURNED,
    "hidden_act": "relu",
    "layer_norm_eps": 0.01,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}

_COHERE: Fields = {**_LAYER_NORMED, "layer_norm_eps": 0.01, "logit_scale": 0.3, "hidden_act": "gelu"}

_COHERE2: Fields = {**_COHERE, **_LAYERS_WITH_WINDOWS}

_ERNIE45: Fields = {**_LLAMA_LIKE, "head_dim": 6}

# 5.23 has no size of a head where the config has none.
_MINISTRAL: Fields = {**_LLAMA_LIKE, "head_dim": 6}

_GLM: Fields = {**_LLAMA_LIKE, **_HALF_TURNED, "head_dim": 12, "hidden_act": "gelu"}

_GPTJ: Fields = {
    "vocab_size": 53,
    "n_positions": 64,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 3,
    "n_inner": 29,
    "rotary_dim": 6,
    "activation_function": "relu",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "layer_norm_epsilon": 0.01,
    **DECODER_SPECIALS,
}

_FALCON: Fields = {
    "vocab_size": 53,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "ffn_hidden_size": 29,
    "activation": "relu",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "max_position_embeddings": 64,
    "layer_norm_epsilon": 0.01,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    **DECODER_SPECIALS,
}


# 5 heads: three slopes more than the power of two below.
_FALCON_RW: Fields = {
    **{name: value for name, value in _FALCON.items() if name != "rope_parameters"},
    "alibi": True,
    "multi_query": False,
    "bias": True,
    "hidden_size": 20,
    "num_attention_heads": 5,
}

_BLOOM: Fields = {
    "vocab_size": 53,
    "hidden_size": 20,
    "n_layer": 3,
    "n_head": 5,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_epsilon": 0.01,
    **DECODER_SPECIALS,
}


def _rope(**parameters: Any) -> Fields:
    return {**_LLAMA_LIKE, "head_dim": 8, "rope_parameters": {"rope_theta": 77.0, **parameters}}


TINY: dict[str, Fields] = {
    "bert": {**_BERT_LIKE, "hidden_act": "gelu_new"},
    "bert/untied": {**_BERT_LIKE, "tie_word_embeddings": False},
    "bert/small": {**_BERT_LIKE, "vocab_size": 53, "hidden_size": 12, "num_attention_heads": 3, **DECODER_SPECIALS},
    "roberta": {**_BERT_LIKE, "hidden_act": "relu"},
    "roberta/untied": {**_BERT_LIKE, "tie_word_embeddings": False},
    "roberta/small": {**_BERT_LIKE, "vocab_size": 53, "hidden_size": 12, "num_attention_heads": 3, **DECODER_SPECIALS},
    "xlm-roberta": {**_BERT_LIKE, "type_vocab_size": 1},
    "camembert": {**_BERT_LIKE, "type_vocab_size": 1, "hidden_act": "silu"},
    "distilbert": _DISTILBERT,
    "distilbert/sinusoidal": {**_DISTILBERT, "activation": "gelu", "sinusoidal_pos_embds": True},
    "electra": _ELECTRA,
    "electra/flat": {**_ELECTRA, "embedding_size": 20, "hidden_act": "gelu", "tie_word_embeddings": False},
    "deberta": {**_DEBERTA_1, "hidden_act": "relu"},
    "deberta/biased": {
        **_DEBERTA_1,
        "type_vocab_size": 3,
        "max_relative_positions": -1,
        "position_biased_input": True,
    },
    "deberta/queries": {**_DEBERTA_1, "pos_att_type": ["c2p"], "embedding_size": 14},
    "deberta/keys": {**_DEBERTA_1, "pos_att_type": ["p2c"]},
    "deberta/absolute": {
        **_DEBERTA_1,
        "relative_attention": False,
        "pos_att_type": ["c2p"],
        "position_biased_input": True,
    },
    "deberta-v2": {**_DEBERTA, "hidden_act": "relu"},
    "deberta-v2/own": {
        **_DEBERTA,
        "type_vocab_size": 3,
        "position_buckets": -1,
        "max_relative_positions": 5,
        "norm_rel_ebd": "none",
        "share_att_key": False,
        "position_biased_input": True,
    },
    "deberta-v2/queries": {**_DEBERTA, "pos_att_type": ["c2p"], "embedding_size": 14, "max_relative_positions": -1},
    "deberta-v2/keys": {**_DEBERTA, "pos_att_type": ["p2c"], "share_att_key": False},
    "deberta-v2/absolute": {**_DEBERTA, "relative_attention": False, "pos_att_type": None, "norm_rel_ebd": "none"}
    | {"position_biased_input": True},
    "albert": _ALBERT,
    "albert/shared": {**_ALBERT, "num_hidden_groups": 1, "inner_group_num": 1, "hidden_act": "gelu_new"},
    "modernbert": _MODERNBERT,
    "modernbert/biases": {
        **_MODERNBERT,
        "hidden_activation": "gelu",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "decoder_bias": False,
        "tie_word_embeddings": False,
    },
    "modernbert-decoder": _MODERNBERT_DECODER,
    "modernbert-decoder/biases": {
        **_MODERNBERT_DECODER,
        "hidden_activation": "gelu",
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "decoder_bias": False,
        "tie_word_embeddings": False,
    },
    "bert-generation": {**_TYPELESS, "hidden_act": "relu"},
    "bert-generation/untied": {**_TYPELESS, "tie_word_embeddings": False},
    "roberta-prelayernorm": {**_BERT_LIKE, "hidden_act": "relu"},
    "megatron-bert": {**_BERT_LIKE, "hidden_act": "silu"},
    "xlm-roberta-xl": {**_BERT_LIKE, "type_vocab_size": 1, "hidden_act": "relu"},
    "ernie": {**_BERT_LIKE, "use_task_id": True, "task_type_vocab_size": 4, "hidden_act": "relu"},
    "ernie/taskless": _BERT_LIKE,
    "big_bird": {**_BERT_LIKE, "attention_type": "original_full", "rescale_embeddings": True, "hidden_act": "relu"},
    "big_bird/biasless": {**_BERT_LIKE, "attention_type": "original_full", "use_bias": False},
    "jina_embeddings_v3": {**_ROTARY_BERT, "hidden_act": "relu"},
    "nomic_bert": {**_ROTARY_BERT, "hidden_act": "relu", "head_dim": 6},
    "nomic_bert/untied": {
        **_ROTARY_BERT,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 3.0},
        "tie_word_embeddings": False,
    },
    "gte": {**_ROTARY_BERT, "hidden_act": "relu"},
    "gte/untyped": {**_ROTARY_BERT, "type_vocab_size": 0, "tie_word_embeddings": False},
    "eurobert": {**_EUROBERT, "hidden_act": "gelu"},
    "eurobert/biases": {**_EUROBERT, **_GROUPED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mpnet": {**_TYPELESS, "hidden_act": "relu", "pad_token_id": 1},
    "gpt2": _GPT2,
    "gpt2/wide": {**_GPT2, "n_embd": 20, "n_head": 5, "n_inner": None, "activation_function": "gelu_new"},
    "gpt2/untied": {**_GPT2, "tie_word_embeddings": False},
    "gpt2/scaled": {**_GPT2, "scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"},
    "gpt2/unscaled": {**_GPT2, "scale_attn_weights": False},
    "gpt_bigcode": _GPT_BIGCODE,
    "gpt_bigcode/many_heads": {
        **_GPT_BIGCODE,
        "multi_query": False,
        "n_inner": None,
        "activation_function": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
    },
    "gpt_bigcode/unscaled": {**_GPT_BIGCODE, "scale_attn_weights": False, "activation_function": "gelu"},
    "openai-gpt": _GPT,
    "openai-gpt/untied": {**_GPT, "n_embd": 20, "n_head": 5, "afn": "silu", "tie_word_embeddings": False},
    "opt": _OPT,
    "opt/postnorm": {**_OPT, "do_layer_norm_before": False, "activation_function": "relu"},
    "opt/flat": {**_OPT, "word_embed_proj_dim": 12, "activation_function": "relu", "tie_word_embeddings": False},
    "opt/bare": {**_OPT, "enable_bias": False, "layer_norm_elementwise_affine": False},
    "bart": {**_BART_LIKE, "activation_function": "relu"},
    "bart/scaled": {**_BART_LIKE, "scale_embedding": True},
    "bart/deep_decoder": {**_BART_LIKE, "encoder_layers": 2, "decoder_layers": 3},
    "mbart": {**_BART_LIKE, "scale_embedding": True, "activation_function": "relu"},
    "mbart/unscaled": _BART_LIKE,
    "marian": _MARIAN,
    "marian/two_vocabularies": {
        **_MARIAN,
        "vocab_size": 61,
        "share_encoder_decoder_embeddings": False,
        "scale_embedding": False,
        "activation_function": "relu",
    },
    "m2m_100": {**_M2M100, "scale_embedding": False},
    "m2m_100/scaled": {**_M2M100, "activation_function": "silu", "encoder_layers": 2, "decoder_layers": 3},
    "pegasus": {**_PEGASUS, "scale_embedding": True, "activation_function": "relu"},
    "pegasus/unscaled": _PEGASUS,
    "blenderbot": {**_BART_LIKE, "encoder_no_repeat_ngram_size": 0, "activation_function": "relu"},
    "blenderbot/scaled": {**_BART_LIKE, "encoder_no_repeat_ngram_size": 0, "scale_embedding": True},
    "blenderbot-small": {**_BART_LIKE, "scale_embedding": True, "activation_function": "relu"},
    "plbart": {**_BART_LIKE, "scale_embedding": False, "activation_function": "relu"},
    "mvp": {**_BART_LIKE, "scale_embedding": True, "activation_function": "relu"},
    "xglm": {**_XGLM, "activation_function": "relu"},
    "xglm/unscaled": {**_XGLM, "scale_embedding": False},
    "biogpt": {**_BIOGPT, "hidden_act": "relu"},
    "biogpt/unscaled": {**_BIOGPT, "scale_embedding": False},
    "t5": {**_T5_LIKE, "feed_forward_proj": "relu"},
    "t5/gated": {**_T5_LIKE, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**_T5_LIKE, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": _T5_LIKE,
    "umt5/plain": {**_T5_LIKE, "feed_forward_proj": "relu"},
    "mt5/plain": {**_T5_LIKE, "feed_forward_proj": "gelu", "tie_word_embeddings": True},
    "gpt_neox": _GPT_NEOX,
    "gpt_neox/sequential": {**_GPT_NEOX, "use_parallel_residual": False, "hidden_act": "gelu"},
    "gpt_neox/tied": {**_GPT_NEOX, "tie_word_embeddings": True, "attention_bias": False},
    "gpt_neo": _GPT_NEO,
    "gpt_neo/wide": {
        **_GPT_NEO,
        "hidden_size": 20,
        "num_heads": 5,
        "intermediate_size": None,
        "attention_types": [[["global", "local"], 1], [["global"], 1]],
        "activation_function": "gelu_new",
        "tie_word_embeddings": False,
    },
    "llama": {**_LLAMA_LIKE, "hidden_act": "gelu"},
    "llama/tied": {**_LLAMA_LIKE, "tie_word_embeddings": True},
    "llama/biases": {**_LLAMA_LIKE, **_GROUPED, "attention_bias": True, "mlp_bias": True},
    "llama/linear": _rope(rope_type="linear", factor=3.0),
    "llama/llama3": _rope(
        rope_type="llama3",
        factor=5.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    ),
    "llama/yarn": _rope(rope_type="yarn", factor=3.0, original_max_position_embeddings=21, beta_fast=8.0),
    "llama/dynamic": {**_rope(rope_type="dynamic", factor=3.0), "max_position_embeddings": 8},
    "mistral": {**_LLAMA_LIKE, "sliding_window": 3, "hidden_act": "gelu"},
    "mistral/full": {**_LLAMA_LIKE, **_GROUPED, "sliding_window": None, "head_dim": 6, "tie_word_embeddings": True},
    "ministral": {**_MINISTRAL, **_LAYERS_WITH_WINDOWS, "hidden_act": "gelu"},
    "ministral/full": {
        **_MINISTRAL,
        **_GROUPED,
        "layer_types": ["full_attention"] * 3,
        "tie_word_embeddings": True,
    },
    "gptj": _GPTJ,
    "gptj/tied": {**_GPTJ, "n_inner": None, "activation_function": "gelu_new", "tie_word_embeddings": True},
    "codegen": {**_GPTJ, "n_head": 4, "rotary_dim": 4},
    "codegen/shards": {**_GPTJ, "n_embd": 40, "n_head": 8, "rotary_dim": 4, "n_inner": None},
    "phi": _PHI,
    "phi/normed": {**_PHI, **_GROUPED, "qk_layernorm": True, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    "cohere": _COHERE,
    "cohere/normed": {
        **_COHERE,
        **_GROUPED,
        "hidden_size": 24,
        "use_qk_norm": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "cohere2": _COHERE2,
    "cohere2/grouped": {
        **_COHERE2,
        **_GROUPED,
        "hidden_size": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_act": "silu",
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "ernie4_5": {**_ERNIE45, "hidden_act": "gelu"},
    "ernie4_5/biases": {**_ERNIE45, **_GROUPED, "use_bias": True, "tie_word_embeddings": False},
    "glm": _GLM,
    "glm/tied": {**_GLM, **_GROUPED, "attention_bias": False, "tie_word_embeddings": True},
    "glm4": _GLM,
    "glm4/tied": {**_GLM, **_GROUPED, "attention_bias": False, "tie_word_embeddings": True},
    "falcon": _FALCON,
    "falcon/grouped": {
        **_FALCON,
        "new_decoder_architecture": True,
        "num_attention_heads": 6,
        "num_kv_heads": 3,
        "tie_word_embeddings": False,
    },
    "falcon/one_norm": {
        **_FALCON,
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "num_attention_heads": 6,
        "num_kv_heads": 3,
        "bias": True,
        "ffn_hidden_size": None,
    },
    "falcon/sequential": {**_FALCON, "parallel_attn": False, "multi_query": False, "activation": "gelu"},
    "falcon/alibi": {**_FALCON_RW, "parallel_attn": False},
    "falcon/alibi_parallel": {**_FALCON_RW, "num_attention_heads": 6, "hidden_size": 24},
    "bloom": _BLOOM,
    "bloom/untied": {**_BLOOM, "hidden_size": 24, "n_head": 4, "tie_word_embeddings": False},
    "olmo2": {**_LLAMA_LIKE, "hidden_act": "gelu"},
    "olmo2/grouped": {**_LLAMA_LIKE, **_GROUPED, "attention_bias": True, "tie_word_embeddings": True},
    "olmo3": {**_OLMO3, "hidden_act": "gelu"},
    "olmo3/grouped": {**_OLMO3, **_GROUPED, "attention_bias": True, "tie_word_embeddings": True},
    "exaone4": {**_LLAMA_LIKE, **_LAYERS_WITH_WINDOWS, "hidden_act": "gelu"},
    "exaone4/full": {
        **_LLAMA_LIKE,
        **_GROUPED,
        "head_dim": 6,
        "sliding_window": None,
        "layer_types": ["full_attention"] * 3,
        "tie_word_embeddings": True,
    },
    "granite": {**_GRANITE, "hidden_act": "gelu"},
    "granite/grouped": {
        **_GRANITE,
        **_GROUPED,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "phi3": {**_LLAMA_LIKE, "sliding_window": 3, "hidden_act": "gelu"},
    "phi3/short": {**_phi3(64, 1.0), **_GROUPED, "tie_word_embeddings": True},
    "phi3/long": {**_phi3(3, 0.5), "hidden_act": "relu"},
    "qwen2": {**_QWEN, "hidden_act": "gelu"},
    "qwen2/full": {**_LLAMA_LIKE, **_GROUPED, "use_sliding_window": False, "tie_word_embeddings": True},
    "qwen3": {**_QWEN, "head_dim": 6, "hidden_act": "gelu"},
    "qwen3/full": {**_LLAMA_LIKE, **_GROUPED, "head_dim": 6, "attention_bias": True, "tie_word_embeddings": True},
    "smollm3": {**_SMOLLM3, "hidden_act": "gelu"},
    "smollm3/full": {
        **_LLAMA_LIKE,
        **_GROUPED,
        "no_rope_layer_interval": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    "stablelm": {**_STABLELM, "hidden_act": "gelu"},
    "stablelm/parallel": {**_STABLELM, **_GROUPED, "use_parallel_residual": True},
    "stablelm/grouped": {**_STABLELM, **_GROUPED, "use_qkv_bias": True, "tie_word_embeddings": True},
    "starcoder2": {**_LAYER_NORMED, "norm_epsilon": 0.01, "sliding_window": 3, "hidden_act": "relu"},
    "starcoder2/bare": {
        **_LAYER_NORMED,
        **_GROUPED,
        "norm_epsilon": 0.01,
        "use_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    "gemma": {**_LLAMA_LIKE, "head_dim": 6, "hidden_act": "gelu"},
    "gemma/grouped": {
        **_LLAMA_LIKE,
        **_GROUPED,
        "head_dim": 8,
        "hidden_act": "relu",
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "gemma2": _GEMMA2,
    "gemma2/uncapped": {
        **_GEMMA2,
        **_GROUPED,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu",
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "gemma3_text": _GEMMA3,
    "gemma3_text/capped": {
        **_GEMMA3,
        **_GROUPED,
        "attn_logit_softcapping": 0.7,
        "final_logit_softcapping": 1.5,
        "hidden_activation": "gelu",
        "tie_word_embeddings": False,
    },
    "t5gemma": _two_halves(_T5GEMMA_ENCODER, _GEMMA2),
    "t5gemma/uncapped": _two_halves(
        {**_T5GEMMA_ENCODER, "vocab_size": 53, "attn_logit_softcapping": None, "attention_bias": True},
        {
            **_GEMMA2,
            **_GROUPED,
            "hidden_size": 24,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu",
            "attention_bias": True,
        },
        tie_word_embeddings=False,
    ),
    "t5gemma2": _two_halves(_T5GEMMA2_ENCODER, {**_T5GEMMA2, "final_logit_softcapping": 1.5}),
    "t5gemma2/odd": _two_halves(
        {**_T5GEMMA2_ENCODER, "text_config": {**_T5GEMMA2, "sliding_window": 3, "attention_bias": True}},
        {**_T5GEMMA2, "attention_bias": True, "hidden_activation": "gelu"},
        tie_word_embeddings=False,
    ),
}

_FAMILIES = families().items()
# What our registry says a family is; test_oracle.py holds it to transformers' own lists.
ENCODER_FAMILIES = tuple(name for name, family in _FAMILIES if family.encoder == "native")
CAUSAL_FAMILIES = tuple(name for name, family in _FAMILIES if family.encoder in ("bidirectional", None))
WHOLE_FAMILIES = tuple(name for name, family in _FAMILIES if family.whole is not None)
WITHOUT_CAUSAL_LM = tuple(name for name, family in _FAMILIES if family.decoder_architecture is None)
# Encoders that read both ways as trained, though transformers has no masked LM of them.
WITHOUT_MASKED_LM = ("bert-generation",)
# Autoencoding families and seq2seq halves that transformers also offers as a causal LM.
MADE_CAUSAL_FAMILIES = tuple(name for name, _ in _FAMILIES if name not in (*CAUSAL_FAMILIES, *WITHOUT_CAUSAL_LM))


def model_type(key: str) -> str:
    """Return the family of a key: `llama/yarn` is a `llama`."""
    return key.split("/", maxsplit=1)[0]


def keys_of(*families: str) -> list[str]:
    """Return every key, variants included, of the families named."""
    return [key for key in TINY if model_type(key) in families]


def target_words(key: str) -> int:
    """Return the size of the vocabulary that a key writes with."""
    return TINY[key].get("decoder_vocab_size", TINY[key]["vocab_size"])


def can_decode(key: str) -> bool:
    """Return whether the family of a key may be a decoder; MPNet may not."""
    return families()[model_type(key)].decoder is not None


ENCODER_KEYS = keys_of(*ENCODER_FAMILIES)
CAUSAL_KEYS = keys_of(*CAUSAL_FAMILIES)
WHOLE_KEYS = keys_of(*WHOLE_FAMILIES)
# transformers reads a half of two vocabularies as a causal LM, but scores it as if it had the other one.
DECODER_KEYS = CAUSAL_KEYS + [
    key for key in keys_of(*MADE_CAUSAL_FAMILIES) if target_words(key) == TINY[key]["vocab_size"]
]
