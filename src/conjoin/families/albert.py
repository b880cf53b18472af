"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT's stack whose layers share weights, behind a narrow embedding.

transformers applies dropout after self-attention only; conjoin also after the MLP, as in BERT.
"""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families import bert
from conjoin.families.names import linears, twin_biased_head
from conjoin.families.record import Role, masked_lm


class AlbertConfig(bert.BertConfig):
    """Fields of an ALBERT config.json.

    Args:
        num_hidden_layers: Number of passes through a group.
        num_hidden_groups: Number of groups with weights of their own; consecutive passes share a group.
        inner_group_num: Number of blocks in a group.
        classifier_dropout_prob: Field of classification heads, which conjoin does not have.
    """

    model_type = "albert"
    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_groups: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3


def stack(config: AlbertConfig, role: Role) -> spec.StackSpec:
    """Return ALBERT's stack: one block per pass and block of a group, with fewer sets of weights."""
    plain = bert.factorised(bert.stack(config, role), config.embedding_size, projection=True)
    weights_of = _weights_of(config)
    block = replace(plain.blocks[0], cross_attn=None)
    return replace(plain, blocks=(block,) * len(weights_of), weights_of=weights_of)


def _weights_of(config: AlbertConfig) -> tuple[int, ...]:
    """Return for every layer the index of the block whose weights it uses.

    Raises:
        ConfigError: a group has no pass, or groups have several blocks although no passes share a group.
    """
    passes, groups, inner = config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num
    if not 1 <= groups <= passes or inner < 1 or (groups == passes and inner > 1):
        raise ConfigError(
            f"albert: num_hidden_layers = {passes}, num_hidden_groups = {groups}, inner_group_num = {inner}.\n"
            "Expected 1 <= num_hidden_groups <= num_hidden_layers, and fewer groups than layers where a group has "
            "several blocks."
        )
    return tuple(int(i / (passes / groups)) * inner + j for i in range(passes) for j in range(inner))


LAYER = {
    **{f"attention.{theirs}": f"self_attn.{theirs[0]}" for theirs in ("query", "key", "value")},
    "attention.dense": "self_attn.o",
    "attention.LayerNorm": "self_attn_norm",
    "ffn": "mlp.up",
    "ffn_output": "mlp.down",
    "full_layer_layer_norm": "mlp_norm",
}


def _inner(stack: spec.StackSpec) -> int:
    """Return the number of blocks in a group: the second pass begins where the index of weights stops growing."""
    order = stack.weights_of
    back = next((i for i in range(1, len(order)) if order[i] <= order[i - 1]), None)
    return 1 if back is None else order[back - 1] - order[back] + 1


def body(stack: spec.StackSpec) -> NameTable:
    """Return the names of AlbertModel."""
    inner = _inner(stack)
    layers = {
        f"encoder.albert_layer_groups.{index // inner}.albert_layers.{index % inner}.{theirs}": f"blocks.{index}.{ours}"
        for index in sorted(set(stack.weights_of))
        for theirs, ours in LAYER.items()
    }
    widen = {"encoder.embedding_hidden_mapping_in": "embed.projection"}
    return NameTable((*bert.EMBEDDING, *linears({**widen, **layers})), bert.BUFFERS)


def head(stack: spec.StackSpec) -> NameTable:
    """Return the names of the masked language model's head."""
    return twin_biased_head(stack, "predictions", dense="dense", norm="LayerNorm")


FAMILY = masked_lm(
    AlbertConfig,
    "Albert",
    stack,
    body,
    decoder="grafted",
    head=head,
    prefixes=("albert.",),
    known=("albert/albert-base-v2",),
)
