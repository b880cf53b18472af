"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT's stack whose layers share weights, behind a narrow embedding.

transformers drops out behind self-attention only; here the MLP's output is dropped out too, as in BERT itself.
"""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families import bert
from conjoin.families.builders import linears, repeat
from conjoin.families.record import Family, Role


class AlbertConfig(bert.BertConfig):
    """Fields of an ALBERT config.json.

    Args:
        num_hidden_layers: Passes through a group.
        num_hidden_groups: Groups that have weights of their own; neighbouring passes share one.
        inner_group_num: Blocks in a group.
        classifier_dropout_prob: For classification heads, which conjoin has none of.
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
    """ALBERT's stack: as many blocks as passes times blocks in a group, fewer sets of weights."""
    plain = bert.factorised(bert.stack(config, role), config.embedding_size, projection=True)
    weights_of = _weights_of(config)
    block = replace(bert.block(config, role), cross_attn=None)
    return replace(plain, blocks=repeat(block, len(weights_of)), weights_of=weights_of)


def _weights_of(config: AlbertConfig) -> tuple[int, ...]:
    """Layer -> block whose weights it uses.

    Raises:
        ConfigError: groups that no pass uses, or several blocks in groups that nothing shares.
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
    """Blocks in a group: where the order of weights first steps back, a pass begins."""
    order = stack.weights_of
    back = next((i for i in range(1, len(order)) if order[i] <= order[i - 1]), None)
    return 1 if back is None else order[back - 1] - order[back] + 1


def body(stack: spec.StackSpec) -> NameTable:
    """AlbertModel's names."""
    inner = _inner(stack)
    layers = {
        f"encoder.albert_layer_groups.{index // inner}.albert_layers.{index % inner}.{theirs}": f"blocks.{index}.{ours}"
        for index in sorted(set(stack.weights_of))
        for theirs, ours in LAYER.items()
    }
    widen = {"encoder.embedding_hidden_mapping_in": "embed.projection"}
    return NameTable((*bert.EMBEDDING, *linears({**widen, **layers})), bert.BUFFERS)


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return NameTable(
        (
            *bert.twin_bias(stack, "predictions.bias", "predictions.decoder.bias"),
            Rule("predictions.decoder.weight", "head.vocab.weight"),
            *linears({"predictions.dense": "head.dense", "predictions.LayerNorm": "head.norm"}),
        )
    )


FAMILY = Family(
    config=AlbertConfig,
    encoder="native",
    decoder="grafted",
    encoder_architecture="AlbertModel",
    build=stack,
    body=body,
    head=head,
    prefixes=("albert.",),
)
