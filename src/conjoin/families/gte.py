"""GTE (Zhang et al. 2024, arXiv:2407.19669): BERT with rotary positions and gated MLPs; "new" on the hub."""

from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families import rotary_bert
from conjoin.families.builders import head_size
from conjoin.families.names import QKV, biased_head
from conjoin.families.record import Role, masked_lm
from conjoin.families.remote_code import without_fixed

FIXED: dict[str, tuple[Any, ...]] = {
    "layer_norm_type": ("layer_norm",),
    "logn_attention_scale": (False,),
    "position_embedding_type": ("rope",),
}
"""Switches of the hub's code, which also computes other models."""


class GteConfig(rotary_bert.RotaryBertFields):
    """Fields of a GTE config.json, also in the words of the hub's code.

    Raises:
        ConfigError: a switch of the hub's code has a setting that transformers' class has not.
    """

    model_type = "gte"
    vocab_size: int = 250048
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 8192
    type_vocab_size: int = 1
    pad_token_id: int | None = 1

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**without_fixed("gte", values, FIXED))
        if (scaling := self.rope_scaling) and (scaling.get("rope_type") or scaling.get("type")) == "ntk":
            self.rope_scaling, self.rope_theta = None, None
            self.rope_parameters = _fixed_ntk(scaling, float(values.get("rope_theta", 10000.0)), head_size(self))


def _fixed_ntk(scaling: dict[str, Any], theta: float, size: int) -> dict[str, Any]:
    """The hub's "ntk" scaling in transformers' words.

    Frequency i of E / 2 is (base * factor)^(-2i / E) / factor^(2 / E): a larger base, all of it slower by one number.
    """
    if scaling.get("mixed_b") is not None:
        raise ConfigError(f"gte: rope_scaling has mixed_b = {scaling['mixed_b']}, which conjoin does not compute.")
    factor = float(scaling["factor"])
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / size)}


def stack(config: GteConfig, role: Role) -> spec.StackSpec:
    """GTE's stack."""
    mlp = rotary_bert.gated_mlp(config, down_bias=True, dropout=config.hidden_dropout_prob)
    return rotary_bert.stack(config, role, theta=160000.0, bias=True, mlp=mlp)


_LAYER = {
    **{f"attention.{letter}_proj": f"self_attn.{letter}" for letter in "qkvo"},
    "attn_ln": "self_attn_norm",
    "mlp_ln": "mlp_norm",
    "mlp.down_proj": "mlp.down",
}
_FUSED = {"attention.qkv_proj": QKV, "mlp.up_gate_proj": ("mlp.up", "mlp.gate")}


def body(stack: spec.StackSpec) -> NameTable:
    """GteModel's names, and those of the hub's code."""
    return rotary_bert.body(rotary_bert.GATED, "encoder.layer", _LAYER, _FUSED)


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head, and what the hub's code calls its norm."""
    transform = {"lm_head.dense": "head.dense", "lm_head.layer_norm": "head.norm", "lm_head.norm": "head.norm"}
    return biased_head("lm_head.decoder", transform)


FAMILY = masked_lm(
    GteConfig,
    "Gte",
    stack,
    body,
    decoder="grafted",
    head=head,
    prefixes=("gte.", "new."),
    known=(
        "Alibaba-NLP/gte-multilingual-base",
        "Alibaba-NLP/gte-base-en-v1.5",
        "Snowflake/snowflake-arctic-embed-m-v2.0",
    ),
)
