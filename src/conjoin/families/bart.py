"""BART (Lewis et al. 2019, arXiv:1910.13461) and mBART (Liu et al. 2020, arXiv:2001.08210): whole, or as two halves."""

from collections.abc import Callable
from typing import Any, ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable, Row, Rule
from conjoin.families.builders import (
    lm_head,
    plain_heads,
    plain_mlp,
    postnorm_stack,
    prenorm_stack,
    warn_no_effect,
    word_embedding,
)
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import layers, linears, weights
from conjoin.families.record import LM_HEAD, Family, Role, Whole


class BartConfig(PretrainedConfig):
    """Fields of a BART config.json. Layer drop is read, warned of and not applied."""

    model_type = "bart"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
        "initializer_range": "init_std",
    }
    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2


class MBartConfig(BartConfig):
    """Fields of an mBART config.json. A target starts with its language's code, so there is no start id by default."""

    model_type = "mbart"
    decoder_start_token_id: int | None = None


NORM = spec.LayerNorm(eps=1e-5)  # torch's default; no config says another


def half(config: BartConfig, role: Role, *, prenorm: bool, **embedding: Any) -> spec.StackSpec:
    """Either half: they differ in sizes only.

    Args:
        prenorm: Norms before every branch, and one at the end; else norms after every branch.
        embedding: Fields of the embedding that differ from BART's.
    """
    warn_no_effect(config, f"{role}_layerdrop")
    usual: dict[str, Any] = {
        "position": spec.Learned(max_positions=config.max_position_embeddings, offset=2),
        "scale": config.d_model**0.5 if config.scale_embedding else 1.0,
        "norm": NORM,
        "dropout": config.dropout,
    }
    words = word_embedding(config, **{**usual, **embedding})
    build = prenorm_stack if prenorm else postnorm_stack
    count, ffn = f"{role}_attention_heads", getattr(config, f"{role}_ffn_dim")
    heads = plain_heads(config, bias=True, dropout=config.attention_dropout, count=count)
    return build(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * getattr(config, f"{role}_layers"),
        mlp=plain_mlp(config, "activation_function", size=ffn, dropout=config.activation_dropout),
        norm=NORM,
        own_cross=True,
        blocks={"dropout": config.dropout},
        embedding=words,
        head=lm_head(config, vocab_size=words.vocab_size),
    )


def bart_stack(config: BartConfig, role: Role) -> spec.StackSpec:
    """BART's half: norms after every branch."""
    return half(config, role, prenorm=False)


def mbart_stack(config: MBartConfig, role: Role) -> spec.StackSpec:
    """mBART's half: norms before every branch, and one at the end."""
    return half(config, role, prenorm=True)


OWN = {
    **{f"self_attn.{name}_proj": f"self_attn.{name}" for name in "qkv"},
    "self_attn.out_proj": "self_attn.o",
    "self_attn_layer_norm": "self_attn_norm",
    "fc1": "mlp.up",
    "fc2": "mlp.down",
    "final_layer_norm": "mlp_norm",
}
"""Names in a block, without cross-attention."""
LAYER = {
    **OWN,
    **{f"encoder_attn.{name}_proj": f"cross_attn.{name}" for name in "qkv"},
    "encoder_attn.out_proj": "cross_attn.o",
    "encoder_attn_layer_norm": "cross_attn_norm",
}


def body(stack: spec.StackSpec) -> NameTable:
    """BartEncoder's and BartDecoder's names; only mBART has the last norm."""
    tables = weights({"embed_tokens": "embed.words", "embed_positions": "embed.positions"})
    norms = linears({"layernorm_embedding": "embed.norm", "layer_norm": "final_norm"})
    return NameTable((*tables, *layers("layers.{i}", LAYER), *norms))


def body_without_positions(stack: spec.StackSpec) -> NameTable:
    """Names of M2M100 and XGLM, whose positions are computed; files of transformers 4 may hold their table."""
    return body(stack) + NameTable(ignored=(r"embed_positions\.weights",), computed=("embed.positions.weight",))


WHOLE_HEAD = LM_HEAD + NameTable((Rule("final_logits_bias", "head.bias", Row()),))


def whole(architecture: str, **more: Any) -> Whole:
    """Layout of a whole checkpoint as BART has it; `more` are fields that a family adds or changes."""
    usual: dict[str, Any] = {
        "encoder": "encoder.",
        "decoder": "decoder.",
        "shared": "shared.weight",
        "prefix": "model.",
        "head": WHOLE_HEAD,
        "fixed_bias": True,
        "words": "tied",
    }
    return Whole(architecture=architecture, **{**usual, **more})


def seq2seq(
    config: type[BartConfig], name: str, stack: Callable[[Any, Role], spec.StackSpec], layout: Whole, **more: Any
) -> Family:
    """A family whose files have BART's names; `more` are fields that it adds or changes."""
    usual: dict[str, Any] = {
        "encoder_architecture": f"{name}Model",
        "decoder_architecture": f"{name}ForCausalLM",
        "body": body,
        "prefixes": ("model.",),
        "encoder_prefix": "encoder.",
        "decoder_prefix": "model.decoder.",
        "word_aliases": ("model.shared.weight", "shared.weight"),
        "num_layers": {"encoder": "encoder_layers", "decoder": "decoder_layers"},
        "generation": {"forced_eos_token_id": config.eos_token_id},
    }
    return Family(config=config, encoder="half", decoder="half", build=stack, whole=layout, **{**usual, **more})


FAMILIES = (
    seq2seq(
        BartConfig,
        "Bart",
        bart_stack,
        whole("BartForConditionalGeneration"),
        known=("facebook/bart-base", "facebook/bart-large-cnn", "sshleifer/distilbart-cnn-12-6"),
    ),
    seq2seq(
        MBartConfig,
        "MBart",
        mbart_stack,
        whole("MBartForConditionalGeneration", start="last_label"),
        known=("facebook/mbart-large-50", "facebook/mbart-large-cc25"),
    ),
)
