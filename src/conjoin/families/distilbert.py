"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, no token types.

transformers drops out behind the MLP only; here self-attention's output is dropped out too, as in BERT itself.
"""

from typing import ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families.builders import activation, masked_head, plain_heads, plain_mlp, postnorm_stack, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import biased_head, layers, linears, weights
from conjoin.families.record import Role, masked_lm

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


def stack(config: DistilBertConfig, role: Role) -> spec.StackSpec:
    """DistilBERT's stack; as a decoder it is causal and has the masked language model's head."""
    heads = plain_heads(config, bias=True, dropout=config.attention_dropout)
    position = spec.Sinusoidal if config.sinusoidal_pos_embds else spec.Learned
    return postnorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.n_layers,
        mlp=plain_mlp(config, "activation"),
        norm=NORM,
        blocks={"dropout": config.dropout},
        embedding=word_embedding(
            config,
            position=position(max_positions=config.max_position_embeddings),
            norm=NORM,
            dropout=config.dropout,
        ),
        head=masked_head(config, activation(config, "activation"), NORM),
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
    embedding = {"embeddings.word_embeddings": "embed.words", "embeddings.position_embeddings": "embed.positions"}
    norm = linears({"embeddings.LayerNorm": "embed.norm"})
    rules = (*weights(embedding), *norm, *layers("transformer.layer.{i}", LAYER))
    return NameTable(rules, ignored=(r"embeddings\.position_ids",))


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return biased_head("vocab_projector", {"vocab_transform": "head.dense", "vocab_layer_norm": "head.norm"})


FAMILY = masked_lm(
    DistilBertConfig,
    "DistilBert",
    stack,
    body,
    decoder="grafted",
    head=head,
    prefixes=("distilbert.",),
    known=("distilbert/distilbert-base-uncased",),
)
