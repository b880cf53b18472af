"""Nomic BERT (Nussbaum et al. 2024, arXiv:2402.01613): BERT with rotary positions, gated MLPs and no biases."""

from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError, warn
from conjoin.families import rotary_bert
from conjoin.families.builders import activation
from conjoin.families.names import QKV, twin_biased_head
from conjoin.families.record import Role, masked_lm
from conjoin.families.remote_code import without_fixed

THETA = 1000.0
_NO, _YES, _NONE = (False, None), (True, None), (None, 0)
FIXED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("causal", "parallel_block", "parallel_block_tied_norm", "prenorm", "use_rms_norm"), _NO),
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved"), _NO),
    **dict.fromkeys(("scale_attn_by_inverse_layer_idx", "tie_encoder_decoder"), _NO),
    **dict.fromkeys(("num_experts", "moe_every_n_layers", "rotary_emb_scale_base"), _NONE),
    "scale_attn_weights": _YES,
    "rotary_emb_fraction": (1.0, None),
}
"""Switches of the hub's code, which also computes other models."""
_GATES = {"swiglu": "silu", "geglu": "gelu"}


class NomicBertConfig(rotary_bert.RotaryBertFields):
    """Fields of a Nomic BERT config.json, also in GPT-2's words, which the hub's files have.

    Raises:
        ConfigError: a switch of the hub's code has a setting that transformers' class has not.
    """

    model_type = "nomic_bert"
    attribute_map = {  # noqa: RUF012
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
        "rotary_emb_base": "rope_theta",
    }
    vocab_size: int = 30528
    hidden_act: str = "silu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    head_dim: int | None = None

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**_in_transformers_words(values))


def _in_transformers_words(values: dict[str, Any]) -> dict[str, Any]:
    values = without_fixed("nomic_bert", values, FIXED)
    if (gate := values.pop("activation_function", None)) is not None:
        if gate not in _GATES:
            raise ConfigError(f'nomic_bert: activation_function = "{gate}"; expected {" or ".join(_GATES)}.')
        values["hidden_act"] = _GATES[gate]
    if factor := values.pop("rotary_scaling_factor", None):
        limit = values.get("max_trained_positions", 2048)
        warn(
            f"nomic_bert: config.json has rotary_scaling_factor = {factor}, with which the code on the hub stretches "
            f"rotations in texts of more than {limit} tokens. conjoin and transformers do not; shorter texts are exact."
        )
    return values


def stack(config: NomicBertConfig, role: Role) -> spec.StackSpec:
    """Nomic BERT's stack."""
    mlp = rotary_bert.gated_mlp(config, down_bias=False)
    act = activation(config, "hidden_act")
    return rotary_bert.stack(config, role, theta=THETA, bias=False, mlp=mlp, head_activation=act)


_LAYER = {"attn.out_proj": "self_attn.o", "norm1": "self_attn_norm", "norm2": "mlp_norm"}
_MLP = {"mlp.fc11": "mlp.up", "mlp.fc12": "mlp.gate", "mlp.fc2": "mlp.down"}


def body(stack: spec.StackSpec) -> NameTable:
    """NomicBertModel's names, and those of the hub's code."""
    return rotary_bert.body(rotary_bert.GATED, "encoder.layers", {**_LAYER, **_MLP}, {"attn.Wqkv": QKV})


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return twin_biased_head(stack, "cls.predictions", dense="transform.dense", norm="transform.layer_norm")


FAMILY = masked_lm(
    NomicBertConfig,
    "NomicBert",
    stack,
    body,
    decoder="grafted",
    head=head,
    prefixes=("nomic_bert.", "bert."),
    known=("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1", "nomic-ai/nomic-bert-2048"),
)
