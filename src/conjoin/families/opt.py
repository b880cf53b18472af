"""OPT (Zhang et al. 2022, arXiv:2205.01068): positions count real tokens, words may be narrower than the stack."""

from dataclasses import replace
from typing import Any, ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bart
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
from conjoin.families.record import Role, causal_lm

EPS = 1e-5  # torch's default; no config says another


class OPTConfig(PretrainedConfig):
    """Fields of an OPT config.json. Layer drop is read, warned of and not applied.

    Args:
        word_embed_proj_dim: Width of the word table; hidden_size where it is missing.
        remove_final_layer_norm: `_remove_final_layer_norm` in files; set in those tuned before transformers 4.20.1.
    """

    model_type = "opt"
    attribute_map: ClassVar[dict[str, str]] = {
        "_remove_final_layer_norm": "remove_final_layer_norm",
        "intermediate_size": "ffn_dim",
        "initializer_range": "init_std",
    }
    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False
    word_embed_proj_dim: int | None = None
    dropout: float = 0.1
    attention_dropout: float = 0.0
    num_attention_heads: int = 12
    activation_function: str = "relu"
    layerdrop: float = 0.0
    init_std: float = 0.02
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 2

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        plain = super().to_dict()
        plain["_remove_final_layer_norm"] = plain.pop("remove_final_layer_norm")
        return plain


def embedding(config: OPTConfig, size: int) -> spec.Embedding:
    """Words, brought to the stack's width where theirs differs, and positions."""
    return word_embedding(
        config,
        size=size,
        position=spec.LearnedSkippingPads(
            max_positions=config.max_position_embeddings, padding_position=1, pads="mask"
        ),
        projection=spec.Projection(when="words", bias=False) if size != config.hidden_size else None,
    )


def stack(config: OPTConfig, role: Role) -> spec.StackSpec:
    """OPT's stack, with norms before its branches or after them (OPT-350m).

    As an encoder it ends before `project_out`, which belongs to the head.
    """
    warn_no_effect(config, "layerdrop")
    size = config.hidden_size if config.word_embed_proj_dim is None else config.word_embed_proj_dim
    heads = plain_heads(config, bias=config.enable_bias, dropout=config.attention_dropout)
    build = prenorm_stack if config.do_layer_norm_before else postnorm_stack
    norm = spec.LayerNorm(eps=EPS) if config.layer_norm_elementwise_affine else spec.BareLayerNorm(eps=EPS)
    built = build(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.num_hidden_layers,
        mlp=plain_mlp(config, "activation_function", bias=config.enable_bias),
        norm=norm,
        blocks={"dropout": config.dropout},
        embedding=embedding(config, size),
        head=lm_head(config, size=size, projection=size != config.hidden_size),
    )
    return replace(built, final_norm=None) if config.remove_final_layer_norm else built


MATRICES = {
    "embed_tokens": "embed.words",
    "embed_positions": "embed.positions",
    "project_in": "embed.projection",
    "project_out": "head.projection",
}


def body(stack: spec.StackSpec) -> NameTable:
    """OPTDecoder's names, the head's projection among them."""
    norm = linears({"final_layer_norm": "final_norm"})
    return NameTable((*weights(MATRICES), *layers("layers.{i}", bart.OWN), *norm))


FAMILY = causal_lm(
    OPTConfig,
    "OPT",
    stack,
    body,
    prefixes=("model.decoder.", "decoder."),
    encoder_prefix="decoder.",
    known=("facebook/opt-125m",),
)
