"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, no token types.

transformers drops out behind the MLP only; here self-attention's output is dropped out too, as in BERT itself.
"""

from typing import ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
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
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Family, Role

NORM = spec.LayerNorm(eps=1e-12)  # fixed in transformers' code, no config key


class DistilBertConfig(PretrainedConfig):
    """Fields of a DistilBERT config.json.

    Args:
        sinusoidal_pos_embds: The position table holds sines and cosines and is not trained.
        qa_dropout, seq_classif_dropout: For heads that conjoin has none of.
    """

    model_type = "distilbert"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "intermediate_size": "hidden_dim",
    }
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0


def block(config: DistilBertConfig, role: Role) -> spec.Block:
    """One block: post-norm, biases everywhere."""
    size = head_size(config, "dim", "n_heads")
    return spec.Block(
        norms=spec.Branch(post=NORM),
        causal=role == "decoder",
        self_attn=spec.SelfAttention(
            attention=attention(heads=config.n_heads, size=size, bias=True, dropout=config.attention_dropout)
        ),
        mlp=spec.PlainMLP(intermediate_size=config.hidden_dim, activation=activation(config, "activation")),
        dropout=config.dropout,
    )


def stack(config: DistilBertConfig, role: Role) -> spec.StackSpec:
    """DistilBERT's stack; as a decoder it is causal and has the masked language model's head."""
    position = spec.Sinusoidal if config.sinusoidal_pos_embds else spec.Learned
    transform = spec.HeadTransform(size=config.dim, activation=activation(config, "activation"), norm=NORM)
    return stack_spec(
        config,
        role,
        embedding=word_embedding(
            config,
            position=position(max_positions=config.max_position_embeddings),
            norm=NORM,
            dropout=config.dropout,
        ),
        blocks=repeat(block(config, role), config.n_layers),
        head=lm_head(config, bias="trained", transform=transform),
    )


LAYER = {
    **{f"attention.{letter}_lin": f"self_attn.{letter}" for letter in "qkv"},
    "attention.out_lin": "self_attn.o",
    "sa_layer_norm": "self_attn_norm",
    "ffn.lin1": "mlp.up",
    "ffn.lin2": "mlp.down",
    "output_layer_norm": "mlp_norm",
}


def body(stack: spec.StackSpec) -> NameTable:
    """DistilBertModel's names."""
    layers = {f"transformer.layer.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in LAYER.items()}
    return NameTable(
        (
            Rule("embeddings.word_embeddings.weight", "embed.words.weight"),
            Rule("embeddings.position_embeddings.weight", "embed.positions.weight"),
            *linears({"embeddings.LayerNorm": "embed.norm", **layers}),
        ),
        ignored=(r"embeddings\.position_ids",),
    )


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return NameTable(
        (
            Rule("vocab_projector.bias", "head.bias"),
            Rule("vocab_projector.weight", "head.vocab.weight"),
            *linears({"vocab_transform": "head.dense", "vocab_layer_norm": "head.norm"}),
        )
    )


FAMILY = Family(
    config=DistilBertConfig,
    encoder="native",
    decoder="grafted",
    encoder_architecture="DistilBertModel",
    build=stack,
    body=body,
    head=head,
    prefixes=("distilbert.",),
    known=("distilbert/distilbert-base-uncased",),
)
