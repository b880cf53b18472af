"""Published encoders and seq2seq models load from files of their layouts: their config.json, and their tensors' names.

Sizes are tiny. What the families compute of such files is held to transformers elsewhere; here it counts that every
parameter is found under the name that the published file has, and that every value of the published config is taken.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conjoin import AutoConfig, EncoderDecoderModel
from conjoin.families import family
from conjoin.torch.pair.halves import Encoder

BERT: dict[str, Any] = {
    "model_type": "bert",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 20,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": 5,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 61,
}
ROBERTA = {
    **BERT,
    "model_type": "roberta",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
ROBERTA = {**ROBERTA, "layer_norm_eps": 1e-5, "max_position_embeddings": 66}
POSITIONS = {"embeddings.position_ids": torch.arange(64)[None]}
POOLER = {"pooler.dense.weight": torch.ones(20, 20), "pooler.dense.bias": torch.ones(20)}
MLM = {
    "cls.predictions.bias": torch.ones(61),
    "cls.predictions.transform.dense.weight": torch.ones(20, 20),
    "cls.predictions.transform.dense.bias": torch.ones(20),
    "cls.predictions.transform.LayerNorm.gamma": torch.ones(20),
    "cls.predictions.transform.LayerNorm.beta": torch.ones(20),
    "cls.predictions.decoder.weight": torch.ones(61, 20),
    "cls.seq_relationship.weight": torch.ones(2, 20),
    "cls.seq_relationship.bias": torch.ones(2),
}
MODERN: dict[str, Any] = {
    "model_type": "modernbert",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 1,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 2,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 20,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 5,
    "num_hidden_layers": 4,
    "pad_token_id": 3,
    "position_embedding_type": "absolute",
    "repad_logits_with_grad": False,
    "sep_token_id": 2,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
    "vocab_size": 61,
}
GEMMA: dict[str, Any] = {
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "dtype": "float32",
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 20,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "use_bidirectional_attention": True,
    "use_cache": True,
    "vocab_size": 61,
}
ROBERTA_HEAD = {
    "lm_head.bias": torch.ones(61),
    "lm_head.dense.weight": torch.ones(20, 20),
    "lm_head.dense.bias": torch.ones(20),
    "lm_head.layer_norm.weight": torch.ones(20),
    "lm_head.layer_norm.bias": torch.ones(20),
    "lm_head.decoder.weight": torch.ones(61, 20),
}
MODERN_HEAD = {
    "head.dense.weight": torch.ones(20, 20),
    "head.norm.weight": torch.ones(20),
    "decoder.bias": torch.ones(61),
}
CLASSES = {"classifier.weight": torch.ones(3, 20), "classifier.bias": torch.ones(3)}
DEBERTA: dict[str, Any] = {
    "model_type": "deberta",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 20,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 64,
    "max_relative_positions": -1,
    "num_attention_heads": 5,
    "num_hidden_layers": 2,
    "padding_idx": 0,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
    "relative_attention": True,
    "type_vocab_size": 0,
    "vocab_size": 61,
}
DEBERTA_HEAD = {
    "deberta.embeddings.position_embeddings.weight": torch.ones(64, 20),
    "lm_predictions.lm_head.bias": torch.ones(61),
    "lm_predictions.lm_head.dense.weight": torch.ones(20, 20),
    "lm_predictions.lm_head.dense.bias": torch.ones(20),
    "lm_predictions.lm_head.LayerNorm.weight": torch.ones(20),
    "lm_predictions.lm_head.LayerNorm.bias": torch.ones(20),
}
OLD = {"gradient_checkpointing": False, "position_embedding_type": "absolute", "use_cache": True}
LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
# name -> (config, prefix of the body in the file, other tensors there, whether norms have TensorFlow's names)
ENCODERS: dict[str, tuple[dict[str, Any], str, dict[str, Tensor], bool]] = {
    "e5": ({**BERT, **OLD, "architectures": ["BertModel"]}, "", {**POSITIONS, **POOLER}, False),
    "bge": ({**BERT, **OLD, **LABELS, "architectures": ["BertModel"]}, "", {**POSITIONS, **POOLER}, False),
    "minilm": ({**BERT, **OLD, "architectures": ["BertModel"]}, "", {**POSITIONS, **POOLER}, False),
    "scibert": (
        BERT,
        "bert.",
        {**{f"bert.{name}": x for name, x in POOLER.items()}, **MLM},
        True,
    ),
    "biobert": ({**BERT, "architectures": ["BertModel"]}, "", POOLER, False),
    "clinicalbert": (BERT, "bert.", {**{f"bert.{name}": x for name, x in POOLER.items()}, **MLM}, True),
    "german": ({**BERT, "directionality": "bidi", "pooler_type": "first_token_transform"}, "bert.", MLM, True),
    "legal": ({**BERT, "output_past": True}, "bert.", MLM, False),
    "finbert": (BERT, "bert.", {**{f"bert.{name}": x for name, x in POOLER.items()}, **CLASSES}, False),
    "arabert": (BERT, "bert.", MLM, False),
    "multilingual-e5": (
        {**ROBERTA, **OLD, "model_type": "xlm-roberta", "output_past": True},
        "",
        {"embeddings.position_ids": torch.arange(66)[None], **POOLER},
        False,
    ),
    "bge-m3": ({**ROBERTA, **OLD, "model_type": "xlm-roberta", "classifier_dropout": None}, "", POOLER, False),
    "arctic-embed-l-v2": ({**ROBERTA, **OLD, "model_type": "xlm-roberta"}, "", POOLER, False),
    "graphcodebert": ({**ROBERTA, "output_past": True}, "roberta.", ROBERTA_HEAD, False),
    "bertweet": ({**ROBERTA, **OLD, "tokenizer_class": "BertweetTokenizer"}, "roberta.", ROBERTA_HEAD, False),
    "phobert": ({**ROBERTA, **OLD, "tokenizer_class": "PhobertTokenizer"}, "roberta.", ROBERTA_HEAD, False),
    "codebert": ({**ROBERTA, "output_past": True, "architectures": ["RobertaModel"]}, "", POOLER, False),
    "unixcoder": (
        {**ROBERTA, **OLD, "classifier_dropout": None, "type_vocab_size": 10, "output_past": True},
        "",
        POOLER,
        False,
    ),
    "moderncamembert": ({**MODERN, "architectures": ["ModernBertForMaskedLM"]}, "model.", {}, False),
    "mmbert": ({**MODERN, "bos_token_id": 2, "eos_token_id": 1, "mask_token_id": 4}, "model.", MODERN_HEAD, False),
    "ettin": ({**MODERN, "cls_token_id": 50, "is_causal": False}, "model.", MODERN_HEAD, False),
    "deberta": (DEBERTA, "deberta.", DEBERTA_HEAD, False),
    "deberta-mnli": ({**DEBERTA, **LABELS}, "deberta.", {**POOLER, **CLASSES}, False),
    "embeddinggemma": ({**GEMMA, "architectures": ["Gemma3TextModel"]}, "", {}, False),
}  # fmt: skip


@torch.no_grad()
def stir(model: Any) -> Any:
    """Make every parameter random."""
    for parameter in model.parameters():
        parameter.normal_()
    return model


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A checkpoint of one file."""
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: x.contiguous().clone() for name, x in tensors.items()}, folder / "model.safetensors")


def old_norms(name: str) -> str:
    """A norm's parameter as files of TensorFlow's time call it."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_found_whole(name: str, tmp_path: Path) -> None:
    config, prefix, others, is_old = ENCODERS[name]
    ours = stir(Encoder.from_config(AutoConfig.from_dict(config)))
    kind = family(config["model_type"])
    state = dict(ours.named_parameters())
    body = kind.body(ours.spec).with_prefix(prefix, "")
    tensors = {undo.name: undo(*(state[n].detach() for n in undo.canonical)) for undo in body.undo(state)}
    write(tmp_path, config, {**{old_norms(n) if is_old else n: x for n, x in tensors.items()}, **others})
    found = dict(Encoder.from_pretrained(tmp_path).named_parameters())
    assert found.keys() == state.keys()
    for parameter, expected in state.items():
        assert torch.equal(found[parameter], expected), parameter


def test_embeddinggemmas_layers_read_both_ways() -> None:
    config = AutoConfig.from_dict(GEMMA)
    stack = family("gemma3_text").stack(config, "encoder")
    assert not any(block.causal for block in stack.blocks)
    assert [block.self_attn.window for block in stack.blocks] == [257, None]  # of 512, half on each side and itself


T5: dict[str, Any] = {
    "model_type": "t5",
    "d_ff": 37,
    "d_kv": 6,
    "d_model": 20,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "n_positions": 512,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 61,
}
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# name -> (config, names beside `shared` under which the word table stands in the file)
WHOLE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "flan-t5": ({**T5, "dense_act_fn": "gelu_new", "is_gated_act": True}, TABLES),
    "madlad400": ({**T5, "dense_act_fn": "gelu_new", "is_gated_act": True, "relative_attention_max_distance": 128}, ()),
    "codet5": (
        {**T5, "feed_forward_proj": "relu", "tie_word_embeddings": True, "gradient_checkpointing": False},
        TABLES,
    ),
    "byt5": ({**T5, "tokenizer_class": "ByT5Tokenizer", "gradient_checkpointing": False}, ()),
    "ul2": ({**T5, "dense_act_fn": "silu", "feed_forward_proj": "gated-silu", "is_gated_act": True}, ()),
    "mt0": ({**T5, "model_type": "mt5", "tokenizer_class": "T5Tokenizer"}, TABLES),
    "aya-101": ({**T5, "model_type": "mt5", "tokenizer_class": "T5Tokenizer", "is_gated_act": True}, TABLES),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_seq2seq_model_is_found_whole(name: str, tmp_path: Path) -> None:
    config, tables = WHOLE[name]
    first = EncoderDecoderModel(config=AutoConfig.from_dict(config))
    stir(first).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {table: tensors["shared.weight"] for table in tables}
    write(tmp_path, config, tensors)
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    state = dict(again.named_parameters(remove_duplicate=False))
    for parameter, expected in first.named_parameters(remove_duplicate=False):
        assert torch.equal(state[parameter], expected), parameter
    assert not any(again.join_report.unused.values())
