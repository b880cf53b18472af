"""BERT with rotary positions in place of a table: what Nomic BERT, GTE and jina-embeddings-v3 share.

transformers saves them under the names that the hub's own code has, and reads those of its own classes, too.
"""

from collections.abc import Mapping

from conjoin import spec
from conjoin.checkpoint import Fused, NameTable, Rule
from conjoin.families.builders import (
    activation,
    attention,
    head_size,
    linears,
    lm_head,
    repeat,
    stack_spec,
    word_embedding,
)
from conjoin.families.record import Role
from conjoin.families.rope import RopeFields, older_words, rotary


class RotaryBertFields(RopeFields):
    """Fields that these configs share.

    Args:
        classifier_dropout: For classification heads, which conjoin has none of.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
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
    block = spec.Block(
        norms=spec.Branch(post=norm),
        causal=role == "decoder",
        self_attn=spec.SelfAttention(
            attention=heads, rotary=rotary(config, size, older=older_words(config, fallback=theta))
        ),
        mlp=mlp,
        dropout=config.hidden_dropout_prob,
    )
    transform = spec.HeadTransform(size=config.hidden_size, activation=head_activation, norm=norm)
    embedding = word_embedding(
        config, token_types=config.type_vocab_size, norm=norm, dropout=config.hidden_dropout_prob
    )
    return stack_spec(
        config,
        role,
        embedding=embedding,
        blocks=repeat(block, config.num_hidden_layers),
        head=lm_head(config, bias="trained", transform=transform),
    )


def gated_mlp(config: RotaryBertFields, *, down_bias: bool, dropout: float = 0.0) -> spec.GatedMLP:
    """The gated MLP of Nomic BERT and GTE."""
    return spec.GatedMLP(
        intermediate_size=config.intermediate_size,
        activation=activation(config, "hidden_act"),
        down_bias=down_bias,
        activation_dropout=dropout,
    )


_EMBEDDING = {"word_embeddings": "words", "token_type_embeddings": "token_types"}
_LAYER = {
    **{f"self_attn.{letter}_proj": f"self_attn.{letter}" for letter in "qkvo"},
    "post_attention_layernorm": "self_attn_norm",
    "post_mlp_layernorm": "mlp_norm",
}
GATED = {f"mlp.{name}_proj": f"mlp.{name}" for name in ("gate", "up", "down")}
QKV = ("self_attn.q", "self_attn.k", "self_attn.v")
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)", r".*rotary_emb\.(inv_freq|original_inv_freq)")


def body(
    mlp: Mapping[str, str], layers: str, names: Mapping[str, str], fused: Mapping[str, tuple[str, ...]]
) -> NameTable:
    """Names of transformers' class, which are written, and of the hub's code.

    Args:
        mlp: transformers' names of the MLP.
        layers: What the hub's code puts before the names of a layer.
        names: The other names of the hub's code: of a layer, and `emb_ln`.
        fused: Those that hold several canonical tensors.
    """
    rules = [Rule(f"embeddings.{theirs}.weight", f"embed.{ours}.weight") for theirs, ours in _EMBEDDING.items()]
    own = {f"layers.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in {**_LAYER, **mlp}.items()}
    older = {f"{layers}.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in names.items()}
    rules += linears({"embeddings.LayerNorm": "embed.norm", **own, **older, "emb_ln": "embed.norm"})
    rules += [
        Rule(f"{layers}.{{i}}.{theirs}.{kind}", tuple(f"blocks.{{i}}.{name}.{kind}" for name in ours), Fused())
        for theirs, ours in fused.items()
        for kind in ("weight", "bias")
    ]
    return NameTable(tuple(rules), BUFFERS)
