"""DeBERTa v2 and v3 (He et al. 2021, arXiv:2006.03654 and arXiv:2111.09543): BERT whose attention reads distances."""

from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families import bert
from conjoin.families.builders import head_size, plain_heads, require
from conjoin.families.names import layers, linears, weights
from conjoin.families.record import Role, masked_lm


class DebertaV2Config(bert.BertConfig):
    """Fields of a DeBERTa v2 or v3 config.json.

    Args:
        pos_att_type: What is compared with distances: "c2p" (queries), "p2c" (keys); also as words joined by "|".
        position_buckets: Distances that the table of distances tells apart, to each side; 0 or less for all.
        max_relative_positions: The largest distance that it does; max_position_embeddings if less than 1.
        share_att_key: The projections of contents project distances, too.
        conv_kernel_size: Of a convolution beside the first layer, which conjoin does not compute.
        pooler_dropout, pooler_hidden_act, legacy: Of heads that conjoin does not have.
    """

    model_type = "deberta-v2"
    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int | None = None
    attention_head_size: int | None = None
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    share_att_key: bool = False
    position_biased_input: bool = True
    pos_att_type: str | list[str] | None = None
    conv_kernel_size: int = 0
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    legacy: bool = True

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        if isinstance(self.pos_att_type, str):
            self.pos_att_type = [word.strip() for word in self.pos_att_type.lower().split("|")]


def stack(config: DebertaV2Config, role: Role) -> spec.StackSpec:
    """BERT's stack, with a table of distances.

    Raises:
        ConfigError: a setting that conjoin does not compute.
    """
    size = head_size(config)
    hint = "it is a convolution beside the first layer; DeBERTa v3 and mDeBERTa have none."
    require(config, "conv_kernel_size", 0, hint=hint)
    require(config, "attention_head_size", None, size)
    plain = bert.stack(config, role)
    kinds = set(config.pos_att_type or ())
    scale = (size * (1 + len(kinds & {"c2p", "p2c"}))) ** -0.5
    heads = plain_heads(config, bias=True, dropout=config.attention_probs_dropout_prob, scale=scale)
    reads = _reads(config, kinds)
    block = replace(plain.blocks[0], self_attn=spec.SelfAttention(attention=heads, disentangled=reads))
    return replace(
        plain,
        embedding=_embedding(config, plain.embedding),
        blocks=(block,) * plain.num_layers,
        relative_table=None if reads is None else _table(config),
    )


def _embedding(config: DebertaV2Config, plain: spec.Embedding) -> spec.Embedding:
    size = config.embedding_size or config.hidden_size
    if not config.position_biased_input:
        plain = replace(plain, position=spec.NoPosition())
    if size == config.hidden_size:
        return plain
    if config.position_biased_input:
        raise ConfigError(
            f"deberta-v2: embedding_size = {size}, hidden_size = {config.hidden_size} and position_biased_input = True."
            "\nExpected position_biased_input = False where the two widths differ."
        )
    return replace(plain, size=size, projection=spec.Projection(when="words", bias=False))


def _reads(config: DebertaV2Config, kinds: set[str]) -> spec.Disentangled | None:
    if unknown := kinds - {"c2p", "p2c"}:
        raise ConfigError(f"deberta-v2: pos_att_type has {', '.join(sorted(unknown))}; expected c2p and p2c.")
    if not config.relative_attention:
        return None
    if not kinds:
        raise ConfigError("deberta-v2: relative_attention = True without pos_att_type; expected c2p, p2c or both.")
    return spec.Disentangled(
        distance_keys="c2p" in kinds,
        distance_queries="p2c" in kinds,
        shared=config.share_att_key,
        dropout=config.hidden_dropout_prob,
    )


def _table(config: DebertaV2Config) -> spec.RelativeTable:
    most, buckets = config.max_relative_positions, config.position_buckets
    most = most if most > 0 else config.max_position_embeddings
    if buckets > 0 and (buckets < 4 or buckets % 2 or most - 1 <= buckets // 2):
        raise ConfigError(
            f"deberta-v2: position_buckets = {buckets} for distances of at most {most} (max_relative_positions, or "
            "max_position_embeddings if that is less than 1).\n"
            "Expected an even number, 4 or more and less than twice the distance."
        )
    norm = spec.LayerNorm(eps=config.layer_norm_eps) if "layer_norm" in config.norm_rel_ebd.lower() else None
    bucketed = buckets > 0
    return spec.RelativeTable(span=buckets if bucketed else most, max_distance=most if bucketed else None, norm=norm)


_ATTENTION = {"query_proj": "q", "key_proj": "k", "value_proj": "v", "pos_key_proj": "distance_k"}
_LAYER = {
    **{name: ours for name, ours in bert.LAYER.items() if "self." not in name and "crossattention" not in name},
    **{f"attention.self.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "attention.self.pos_query_proj": "self_attn.distance_q",
}


def body(stack: spec.StackSpec) -> NameTable:
    """DebertaV2Model's names."""
    table = weights({"encoder.rel_embeddings": "relative_table"})
    top = linears({"encoder.LayerNorm": "relative_table.norm", "embeddings.embed_proj": "embed.projection"})
    return NameTable((*bert.EMBEDDING, *table, *top, *layers("encoder.layer.{i}", _LAYER)), bert.BUFFERS)


FAMILY = masked_lm(
    DebertaV2Config,
    "DebertaV2",
    stack,
    body,
    decoder=None,
    prefixes=("deberta.",),
    known=("microsoft/deberta-v3-base", "microsoft/mdeberta-v3-base", "microsoft/deberta-v3-small"),
)
