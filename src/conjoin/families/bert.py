"""BERT (Devlin et al. 2018, arXiv:1810.04805), and what its kin (RoBERTa, ELECTRA, ALBERT) take from it."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families.builders import (
    activation,
    attention,
    head_size,
    linears,
    lm_head,
    own_cross_attention,
    repeat,
    stack_spec,
    word_embedding,
)
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Family, Role


class BertConfig(PretrainedConfig):
    """Fields of a BERT config.json.

    Args:
        position_embedding_type: transformers 4's word; only "absolute" can be honoured.
        classifier_dropout: For classification heads, which conjoin has none of.
    """

    model_type = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    classifier_dropout: float | None = None


def block(config: BertConfig, role: Role) -> spec.Block:
    """One block of BERT's shape: post-norm, biases everywhere."""
    size = head_size(config)
    heads = attention(
        heads=config.num_attention_heads, size=size, bias=True, dropout=config.attention_probs_dropout_prob
    )
    return spec.Block(
        norms=spec.Branch(post=spec.LayerNorm(eps=config.layer_norm_eps)),
        causal=role == "decoder",
        self_attn=spec.SelfAttention(attention=heads),
        cross_attn=own_cross_attention(config, role, heads),
        mlp=spec.PlainMLP(intermediate_size=config.intermediate_size, activation=activation(config, "hidden_act")),
        dropout=config.hidden_dropout_prob,
    )


def stack(config: BertConfig, role: Role) -> spec.StackSpec:
    """BERT's stack; as a decoder it is causal and has the masked language model's head."""
    _check_positions(config)
    norm = spec.LayerNorm(eps=config.layer_norm_eps)
    transform = spec.HeadTransform(size=config.hidden_size, activation=activation(config, "hidden_act"), norm=norm)
    return stack_spec(
        config,
        role,
        embedding=word_embedding(
            config,
            position=spec.Learned(max_positions=config.max_position_embeddings),
            token_types=config.type_vocab_size,
            norm=norm,
            dropout=config.hidden_dropout_prob,
        ),
        blocks=repeat(block(config, role), config.num_hidden_layers),
        head=lm_head(config, bias="trained", transform=transform),
    )


def _check_positions(config: BertConfig) -> None:
    if config.position_embedding_type != "absolute":
        raise ConfigError(
            f"{config.model_type}: config.json has position_embedding_type = "
            f'"{config.position_embedding_type}", which conjoin does not know.\nExpected: absolute.',
            hint="transformers 5 drops this key and computes something else; transformers 4 honours it.",
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
    Rule("embeddings.word_embeddings.weight", "embed.words.weight"),
    Rule("embeddings.position_embeddings.weight", "embed.positions.weight"),
    Rule("embeddings.token_type_embeddings.weight", "embed.token_types.weight"),
    *linears({"embeddings.LayerNorm": "embed.norm"}),
)
BUFFERS = (r"embeddings\.position_ids",)
"""Stored by transformers 4, and nothing that is learned."""


def body(stack: spec.StackSpec) -> NameTable:
    """BertModel's names."""
    layers = {f"encoder.layer.{{i}}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in LAYER.items()}
    return NameTable((*EMBEDDING, *linears(layers)), BUFFERS)


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return NameTable(
        (
            *twin_bias(stack, "cls.predictions.bias", "cls.predictions.decoder.bias"),
            Rule("cls.predictions.decoder.weight", "head.vocab.weight"),
            *linears(
                {"cls.predictions.transform.dense": "head.dense", "cls.predictions.transform.LayerNorm": "head.norm"}
            ),
        )
    )


def twin_bias(stack: spec.StackSpec, own: str, decoder: str) -> tuple[Rule, ...]:
    """Rules of a head's bias that transformers holds twice.

    The head has one of its own and one in the vocabulary layer, and adds the latter. Where words are tied the two are
    one; else they differ, and files written by transformers 4 have only the first.
    """
    if stack.head is None or stack.head.tied:
        return Rule(own, "head.bias"), Rule(decoder, "head.bias")
    return Rule(decoder, "head.bias", copies=(own,)), Rule(own, "head.bias")


FAMILY = Family(
    config=BertConfig,
    encoder="native",
    decoder="own",
    encoder_architecture="BertModel",
    decoder_architecture="BertLMHeadModel",
    build=stack,
    body=body,
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
