"""BERT with rotary positions in place of a table: what Nomic BERT, GTE and jina-embeddings-v3 share.

transformers saves them under the names that the hub's own code has, and reads those of its own classes, too.
"""

from collections.abc import Mapping

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert, names
from conjoin.families.builders import activation, attention, head_size, masked_head, postnorm_stack, word_embedding
from conjoin.families.record import Role
from conjoin.families.rope import RopeFields, older_words, rotary


class RotaryBertFields(bert.BertFields, RopeFields):
    """Fields that these configs share.

    Args:
        classifier_dropout: For classification heads, which conjoin has none of.
    """

    type_vocab_size: int
    classifier_dropout: float | None = None
    rope_theta: float | None = None


def stack(
    config: RotaryBertFields,
    role: Role,
    *,
    theta: float,
    bias: bool,
    mlp: spec.MLP,
    head_activation: spec.Activation = "gelu",
) -> spec.StackSpec:
    """Post-norm blocks with rotary positions; as a decoder, causal with the masked language model's head.

    Args:
        theta: Rotary base where the config has none.
        bias: Of the attention's projections.
    """
    size, norm = getattr(config, "head_dim", None) or head_size(config), spec.LayerNorm(eps=config.layer_norm_eps)
    heads = attention(
        heads=config.num_attention_heads, size=size, bias=bias, dropout=config.attention_probs_dropout_prob
    )
    turning = rotary(config, size, older=older_words(config, fallback=theta))
    return postnorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads, rotary=turning)] * config.num_hidden_layers,
        mlp=mlp,
        norm=norm,
        blocks={"dropout": config.hidden_dropout_prob},
        embedding=word_embedding(
            config, token_types=config.type_vocab_size, norm=norm, dropout=config.hidden_dropout_prob
        ),
        head=masked_head(config, head_activation, norm),
    )


def gated_mlp(config: RotaryBertFields, *, down_bias: bool, dropout: float = 0.0) -> spec.GatedMLP:
    """The gated MLP of Nomic BERT and GTE."""
    return spec.GatedMLP(
        intermediate_size=config.intermediate_size,
        activation=activation(config, "hidden_act"),
        down_bias=down_bias,
        activation_dropout=dropout,
    )


_EMBEDDING = {
    "embeddings.word_embeddings": "embed.words",
    "embeddings.token_type_embeddings": "embed.token_types",
}
_LAYER = {
    **{f"self_attn.{letter}_proj": f"self_attn.{letter}" for letter in "qkvo"},
    "post_attention_layernorm": "self_attn_norm",
    "post_mlp_layernorm": "mlp_norm",
}
GATED = {f"mlp.{name}_proj": f"mlp.{name}" for name in ("gate", "up", "down")}
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)", r".*rotary_emb\.(inv_freq|original_inv_freq)")


def body(
    mlp: Mapping[str, str], place: str, older: Mapping[str, str], fused: Mapping[str, tuple[str, ...]]
) -> NameTable:
    """Names of transformers' class, which are written, and of the hub's code.

    Args:
        mlp: transformers' names of the MLP.
        place: What the names of a layer begin with in the hub's code.
        older: The other names of the hub's code: of a layer, and `emb_ln`.
        fused: Those that hold several canonical tensors.
    """
    top = {"embeddings.LayerNorm": "embed.norm", "emb_ln": "embed.norm"}
    rules = (
        *names.weights(_EMBEDDING),
        *names.linears(top),
        *names.layers("layers.{i}", {**_LAYER, **mlp}),
        *names.layers(f"{place}.{{i}}", older),
        *names.fused(f"{place}.{{i}}", fused),
    )
    return NameTable(rules, BUFFERS)
