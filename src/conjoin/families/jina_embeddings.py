"""jina-embeddings-v3 (Sturua et al. 2024, arXiv:2409.10173): XLM-RoBERTa with rotary positions."""

from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.errors import warn
from conjoin.families import roberta, rotary_bert
from conjoin.families.builders import plain_mlp
from conjoin.families.names import QKV
from conjoin.families.record import Role, masked_lm
from conjoin.families.remote_code import without_fixed

FIXED: dict[str, tuple[Any, ...]] = {"position_embedding_type": ("rotary",)}
"""Switches of the hub's code, which also computes other models."""


class JinaEmbeddingsV3Config(rotary_bert.RotaryBertFields):
    """Fields of a jina-embeddings-v3 config.json, also in the words of the hub's code, whose model_type is XLM-R's.

    Adapters of tasks in the hub's file are not read: the model is the one that the hub's code runs without a task.

    Raises:
        ConfigError: a switch of the hub's code has a setting that transformers' class has not.
    """

    model_type = "jina_embeddings_v3"
    attribute_map = {"rotary_emb_base": "rope_theta"}  # noqa: RUF012
    vocab_size: int = 250002
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    max_position_embeddings: int = 8194
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def __init__(self, /, **values: Any) -> None:
        values = without_fixed("jina_embeddings_v3", values, FIXED)
        if tasks := values.pop("lora_adaptations", None):
            warn(
                f"jina_embeddings_v3: the adapters of the tasks {', '.join(map(str, tasks))} are left out: conjoin "
                "reads the model as it is without a task."
            )
        super().__init__(**values)


def stack(config: JinaEmbeddingsV3Config, role: Role) -> spec.StackSpec:
    """jina-embeddings-v3's stack."""
    return rotary_bert.stack(config, role, theta=20000.0, bias=True, mlp=plain_mlp(config))


_MLP = {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
_LAYER = {"mixer.out_proj": "self_attn.o", "norm1": "self_attn_norm", "norm2": "mlp_norm", **_MLP}
_ADAPTER = r".*\.parametrizations\.weight\.0\.lora_[AB]"


def body(stack: spec.StackSpec) -> NameTable:
    """JinaEmbeddingsV3Model's names, those of the hub's code, and of weights that have adapters there."""
    table = rotary_bert.body(_MLP, "encoder.layers", _LAYER, {"mixer.Wqkv": QKV})
    adapted = [
        Rule(rule.checkpoint.removesuffix("weight") + "parametrizations.weight.original", rule.canonical, rule.layout)
        for rule in table.rules
        if rule.checkpoint.endswith(".weight")
    ]
    return table + NameTable(tuple(adapted), (_ADAPTER,))


FAMILY = masked_lm(
    JinaEmbeddingsV3Config,
    "JinaEmbeddingsV3",
    stack,
    body,
    decoder="grafted",
    head=roberta.head,
    prefixes=("roberta.",),
    known=("jinaai/jina-embeddings-v3",),
)
