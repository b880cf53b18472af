"""DeBERTa (He et al. 2021, arXiv:2006.03654), v2 and v3 (arXiv:2111.09543): BERT whose attention reads distances."""

from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import HeadFused, NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families import bert
from conjoin.families.builders import head_size, plain_heads, require
from conjoin.families.names import QKV, layers, linears, weights
from conjoin.families.record import Role, masked_lm


class DebertaFields(bert.BertConfig):
    """Fields of the config.json of all versions.

    Args:
        pos_att_type: What is compared with distances: "c2p" (queries), "p2c" (keys); also as words joined by "|".
        max_relative_positions: The largest distance that the table of distances tells apart;
            max_position_embeddings if less than 1.
        pooler_dropout, pooler_hidden_act, legacy: Of heads that conjoin does not have.
    """

    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int | None = None
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_biased_input: bool = True
    pos_att_type: str | list[str] | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    legacy: bool = True

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        if isinstance(self.pos_att_type, str):
            self.pos_att_type = [word.strip() for word in self.pos_att_type.lower().split("|")]

    @property
    def span(self) -> int:
        """Half the number of rows of the table of distances, where each has one of its own."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings


class DebertaConfig(DebertaFields):
    """Fields of a DeBERTa config.json.

    Args:
        talking_head: Heads are mixed before and after the softmax, which conjoin does not compute.
    """

    model_type = "deberta"
    vocab_size: int = 50265
    talking_head: bool = False


class DebertaV2Config(DebertaFields):
    """Fields of a DeBERTa v2 or v3 config.json.

    Args:
        position_buckets: Distances that the table of distances tells apart, to each side; 0 or less for all.
        share_att_key: The projections of contents project distances, too.
        conv_kernel_size: Of a convolution beside the first layer, which conjoin does not compute.
    """

    model_type = "deberta-v2"
    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    attention_head_size: int | None = None
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    share_att_key: bool = False
    conv_kernel_size: int = 0


def stack(config: DebertaConfig, role: Role) -> spec.StackSpec:
    """BERT's stack, with a table of distances, and keys without biases.

    Raises:
        ConfigError: a setting that conjoin does not compute.
    """
    require(config, "talking_head", False, hint="no published DeBERTa mixes its heads.")
    heads = _heads(config, terms=len(config.pos_att_type or ()), k_bias=False)
    reads = _reads(config, shared=False, key_bias=False)
    return _stack(config, role, heads, reads, None if reads is None else spec.RelativeTable(span=config.span))


def stack_v2(config: DebertaV2Config, role: Role) -> spec.StackSpec:
    """BERT's stack, with a table of distances.

    Raises:
        ConfigError: a setting that conjoin does not compute.
    """
    hint = "it is a convolution beside the first layer; DeBERTa v3 and mDeBERTa have none."
    require(config, "conv_kernel_size", 0, hint=hint)
    require(config, "attention_head_size", None, head_size(config))
    heads = _heads(config, terms=len({"c2p", "p2c"}.intersection(config.pos_att_type or ())))
    reads = _reads(config, shared=config.share_att_key)
    return _stack(config, role, heads, reads, None if reads is None else _table(config))


def _stack(
    config: DebertaFields,
    role: Role,
    heads: spec.Attention,
    reads: spec.Disentangled | None,
    table: spec.RelativeTable | None,
) -> spec.StackSpec:
    plain = bert.stack(config, role)
    block = replace(plain.blocks[0], self_attn=spec.SelfAttention(attention=heads, disentangled=reads))
    return replace(
        plain,
        embedding=_embedding(config, plain.embedding),
        blocks=(block,) * plain.num_layers,
        relative_table=table,
    )


def _heads(config: DebertaFields, *, terms: int, **more: Any) -> spec.Attention:
    """Return the attention of scores that are sums of contents and as many terms of distances."""
    scale = (head_size(config) * (1 + terms)) ** -0.5
    return plain_heads(config, bias=True, dropout=config.attention_probs_dropout_prob, scale=scale, **more)


def _embedding(config: DebertaFields, plain: spec.Embedding) -> spec.Embedding:
    size = config.embedding_size or config.hidden_size
    if not config.position_biased_input:
        plain = replace(plain, position=spec.NoPosition())
    if size == config.hidden_size:
        return plain
    if config.position_biased_input or config.type_vocab_size:
        raise ConfigError(
            f"{config.model_type}: embedding_size = {size}, hidden_size = {config.hidden_size}, position_biased_input "
            f"= {config.position_biased_input} and type_vocab_size = {config.type_vocab_size}.\n"
            "Expected position_biased_input = False and type_vocab_size = 0 where the two widths differ."
        )
    return replace(plain, size=size, projection=spec.Projection(when="words", bias=False))


def _reads(config: DebertaFields, *, shared: bool, key_bias: bool = True) -> spec.Disentangled | None:
    kinds = set(config.pos_att_type or ())
    if unknown := kinds - {"c2p", "p2c"}:
        known = "expected c2p and p2c."
        raise ConfigError(f"{config.model_type}: pos_att_type has {', '.join(sorted(unknown))}; {known}")
    if not config.relative_attention:
        return None
    if not kinds:
        lacks = "relative_attention = True without pos_att_type; expected c2p, p2c or both."
        raise ConfigError(f"{config.model_type}: {lacks}")
    return spec.Disentangled(
        distance_keys="c2p" in kinds,
        distance_queries="p2c" in kinds,
        shared=shared,
        key_bias=key_bias,
        dropout=config.hidden_dropout_prob,
    )


def _table(config: DebertaV2Config) -> spec.RelativeTable:
    most, buckets = config.span, config.position_buckets
    if buckets > 0 and (buckets < 4 or buckets % 2 or most - 1 <= buckets // 2):
        raise ConfigError(
            f"{config.model_type}: position_buckets = {buckets} for distances of at most {most} "
            "(max_relative_positions, or max_position_embeddings if that is less than 1).\n"
            "Expected an even number, 4 or more and less than twice the distance."
        )
    norm = spec.LayerNorm(eps=config.layer_norm_eps) if "layer_norm" in config.norm_rel_ebd.lower() else None
    bucketed = buckets > 0
    return spec.RelativeTable(span=buckets if bucketed else most, max_distance=most if bucketed else None, norm=norm)


_OF_BERT = {name: ours for name, ours in bert.LAYER.items() if "self." not in name and "crossattention" not in name}
_SELF = "encoder.layer.{i}.attention.self"


def body(stack: spec.StackSpec) -> NameTable:
    """DebertaModel's names: queries, keys and values are one matrix, head by head."""
    heads = stack.blocks[0].self_attn.attention
    fused = HeadFused(heads.num_heads, heads.head_size)
    rules = (
        Rule(f"{_SELF}.in_proj.weight", tuple(f"blocks.{{i}}.{name}.weight" for name in QKV), fused),
        *(Rule(f"{_SELF}.{letter}_bias", f"blocks.{{i}}.self_attn.{letter}.bias") for letter in "qv"),
        *weights({f"{_SELF}.pos_proj": "blocks.{i}.self_attn.distance_k"}),
        *linears({f"{_SELF}.pos_q_proj": "blocks.{i}.self_attn.distance_q"}),
    )
    return _around(rules)


def body_v2(stack: spec.StackSpec) -> NameTable:
    """DebertaV2Model's names."""
    ours = {"query": "q", "key": "k", "value": "v", "pos_key": "distance_k", "pos_query": "distance_q"}
    rules = linears({f"{_SELF}.{theirs}_proj": f"blocks.{{i}}.self_attn.{name}" for theirs, name in ours.items()})
    top = linears({"encoder.LayerNorm": "relative_table.norm"})
    return _around((*rules, *top))


def _around(rules: tuple[Rule, ...]) -> NameTable:
    """Return the names of all versions, and those of one."""
    table = weights({"encoder.rel_embeddings": "relative_table", "embeddings.embed_proj": "embed.projection"})
    return NameTable((*bert.EMBEDDING, *table, *rules, *layers("encoder.layer.{i}", _OF_BERT)), bert.BUFFERS)


FAMILIES = (
    masked_lm(
        DebertaConfig,
        "Deberta",
        stack,
        body,
        decoder=None,
        prefixes=("deberta.",),
        known=("microsoft/deberta-base", "microsoft/deberta-large", "microsoft/deberta-xlarge"),
    ),
    masked_lm(
        DebertaV2Config,
        "DebertaV2",
        stack_v2,
        body_v2,
        decoder=None,
        prefixes=("deberta.",),
        known=("microsoft/deberta-v3-base", "microsoft/mdeberta-v3-base", "microsoft/deberta-v3-small"),
    ),
)
