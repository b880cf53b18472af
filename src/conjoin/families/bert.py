"""BERT (Devlin et al. 2018, arXiv:1810.04805), and what its kin (RoBERTa, ELECTRA, ALBERT) take from it."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families.builders import (
    activation,
    masked_head,
    plain_heads,
    plain_mlp,
    postnorm_stack,
    require,
    word_embedding,
)
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import layers, linears, twin_biased_head, weights
from conjoin.families.record import Role, masked_lm


class BertFields(PretrainedConfig):
    """Fields of a BERT config.json that other families have too, whatever their positions and their embedding."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12


class BertConfig(BertFields):
    """Fields of a BERT config.json.

    Args:
        position_embedding_type: transformers 4's word; only "absolute" can be honoured.
        classifier_dropout: For classification heads, which conjoin has none of.
    """

    model_type = "bert"
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    classifier_dropout: float | None = None


def stack(config: BertConfig, role: Role) -> spec.StackSpec:
    """BERT's stack: norms behind branches, biases everywhere; as a decoder with the masked language model's head.

    Raises:
        ConfigError: relative positions, which transformers 4 knew.
    """
    hint = "transformers 5 drops this key and computes something else; transformers 4 honours it."
    require(config, "position_embedding_type", "absolute", hint=hint)
    norm = spec.LayerNorm(eps=config.layer_norm_eps)
    heads = plain_heads(config, bias=True, dropout=config.attention_probs_dropout_prob)
    return postnorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.num_hidden_layers,
        mlp=plain_mlp(config),
        norm=norm,
        own_cross=True,
        blocks={"dropout": config.hidden_dropout_prob},
        embedding=word_embedding(
            config,
            position=spec.Learned(max_positions=config.max_position_embeddings),
            token_types=config.type_vocab_size,
            norm=norm,
            dropout=config.hidden_dropout_prob,
        ),
        head=masked_head(config, activation(config, "hidden_act"), norm),
    )


def factorised(stack: spec.StackSpec, size: int, *, projection: bool) -> spec.StackSpec:
    """The same stack with an embedding, and a head's transform, of another width (ELECTRA, ALBERT).

    Args:
        projection: A linear layer widens the finished embedding.
    """
    widen = spec.Projection(when="sum", bias=True) if projection else None
    embedding = replace(stack.embedding, size=size, projection=widen)
    head = stack.head
    if head is not None and head.transform is not None:
        head = replace(head, size=size, transform=replace(head.transform, size=size))
    return replace(stack, embedding=embedding, head=head)


def exact_gelu_head(stack: spec.StackSpec) -> spec.StackSpec:
    """The same stack whose head has GELU, whatever its blocks have (RoBERTa, ELECTRA)."""
    head = stack.head
    if head is None or head.transform is None:
        return stack
    return replace(stack, head=replace(head, transform=replace(head.transform, activation="gelu")))


_ATTENTION = {"self.query": "q", "self.key": "k", "self.value": "v", "output.dense": "o"}
LAYER = {
    **{f"attention.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "attention.output.LayerNorm": "self_attn_norm",
    **{f"crossattention.{theirs}": f"cross_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "crossattention.output.LayerNorm": "cross_attn_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}
EMBEDDING = (
    *weights(
        {
            "embeddings.word_embeddings": "embed.words",
            "embeddings.position_embeddings": "embed.positions",
            "embeddings.token_type_embeddings": "embed.token_types",
        }
    ),
    *linears({"embeddings.LayerNorm": "embed.norm"}),
)
BUFFERS = (r"embeddings\.position_ids",)
"""Stored by transformers 4, and nothing that is learned."""


def body(stack: spec.StackSpec) -> NameTable:
    """BertModel's names."""
    return NameTable((*EMBEDDING, *layers("encoder.layer.{i}", LAYER)), BUFFERS)


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return twin_biased_head(stack, "cls.predictions", dense="transform.dense", norm="transform.LayerNorm")


FAMILY = masked_lm(
    BertConfig,
    "Bert",
    stack,
    body,
    decoder="own",
    decoder_architecture="BertLMHeadModel",
    head=head,
    prefixes=("bert.",),
    known=(
        "google-bert/bert-base-uncased",
        "intfloat/e5-base-v2",
        "BAAI/bge-small-en-v1.5",
        "sentence-transformers/all-MiniLM-L6-v2",
        "allenai/scibert_scivocab_uncased",
        "dmis-lab/biobert-v1.1",
        "emilyalsentzer/Bio_ClinicalBERT",
        "nlpaueb/legal-bert-base-uncased",
        "ProsusAI/finbert",
        "aubmindlab/bert-base-arabertv02",
        "dbmdz/bert-base-german-cased",
    ),
)
