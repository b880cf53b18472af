"""MPNet (Song et al. 2020, arXiv:2004.09297): BERT's encoder with T5's relative bias beside its table of positions."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert
from conjoin.families.builders import require
from conjoin.families.names import layers, weights
from conjoin.families.record import Role, masked_lm

BUCKETS = 32  # fixed in transformers' code, whatever the config says
PAD = 1  # likewise: positions are counted over the ids that are not 1


class MPNetConfig(bert.BertConfig):
    """Fields of an MPNet config.json.

    Args:
        max_position_embeddings: Rows of the position table: two more than a text can have tokens.
        type_vocab_size: BERT's; MPNet has no token types.
    """

    model_type = "mpnet"
    vocab_size: int = 30527
    relative_attention_num_buckets: int = BUCKETS
    pad_token_id: int | None = PAD
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


def stack(config: MPNetConfig, role: Role) -> spec.StackSpec:
    """MPNet's stack.

    Raises:
        ConfigError: another number of buckets than the one that transformers computes.
    """
    hint = "transformers sorts distances into 32 buckets whatever the config says."
    require(config, "relative_attention_num_buckets", BUCKETS, hint=hint)
    plain = bert.stack(config, role)
    position = spec.LearnedSkippingPads(
        max_positions=config.max_position_embeddings - PAD - 1, padding_position=PAD, pads="ids", padding_id=PAD
    )
    return replace(
        plain,
        embedding=replace(plain.embedding, position=position, token_types=0),
        relative_bias=spec.RelativeBias(num_buckets=BUCKETS, max_distance=128, bidirectional=True),
    )


LAYER = {
    **{f"attention.attn.{letter}": f"self_attn.{letter}" for letter in "qkvo"},
    "attention.LayerNorm": "self_attn_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}


def body(stack: spec.StackSpec) -> NameTable:
    """MPNetModel's names."""
    bias = weights({"encoder.relative_attention_bias": "relative_bias"})
    return NameTable((*bert.EMBEDDING, *bias, *layers("encoder.layer.{i}", LAYER)), bert.BUFFERS)


FAMILY = masked_lm(
    MPNetConfig,
    "MPNet",
    stack,
    body,
    decoder=None,
    prefixes=("mpnet.",),
    known=("microsoft/mpnet-base", "sentence-transformers/all-mpnet-base-v2"),
)
