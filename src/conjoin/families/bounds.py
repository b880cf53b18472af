"""What the numbers of a config may be: checked before anything is built of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conjoin.families.ids import is_id_field
from conjoin.limits import LAYERS, POSITIONS, VOCAB, WIDTH


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest value."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:,} to {self.most:,}"


_LAYERS = Bounds(1, LAYERS)
_WIDTH = Bounds(1, WIDTH)
_SHARE = Bounds(0, 1)
_POSITIVE = Bounds(1e-9, 1e18)
_ANY = Bounds(-POSITIONS, POSITIONS)

_FIELDS: dict[str, Bounds] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_hidden_groups", "inner_group_num"), _LAYERS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embedding_size", "cross_attention_hidden_size"), _WIDTH),
    **dict.fromkeys(("d_model", "d_ff", "d_kv", "dim", "hidden_dim", "head_dim", "n_embd", "n_inner"), _WIDTH),
    "attention_head_size": _WIDTH,
    **dict.fromkeys(("ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "word_embed_proj_dim"), _WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "n_head", "n_heads"), _WIDTH),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "global_attn_every_n_layers"), _WIDTH),
    "attention_heads": _WIDTH,
    **dict.fromkeys(("relative_attention_num_buckets", "no_rope_layer_interval"), _WIDTH),
    "sliding_window_pattern": Bounds(0, WIDTH),  # 0: transformers' word for no windows in an EXAONE 4
    **dict.fromkeys(("vocab_size", "decoder_vocab_size"), Bounds(1, VOCAB)),
    **dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "rotary_dim", "n_embed"), _WIDTH),
    **dict.fromkeys(
        ("type_vocab_size", "task_type_vocab_size", "num_random_blocks", "conv_kernel_size"), Bounds(0, WIDTH)
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "relative_attention_max_distance"), Bounds(1, POSITIONS)
    ),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), Bounds(0, 1000)),
    **dict.fromkeys(("rope_theta", "global_rope_theta", "local_rope_theta", "rope_local_base_freq"), _POSITIVE),
    **dict.fromkeys(("rotary_emb_base", "query_pre_attn_scalar"), _POSITIVE),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _POSITIVE),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), _SHARE),
    **dict.fromkeys(("longrope_length", "original_max_position_embeddings"), Bounds(2, POSITIONS)),
    **dict.fromkeys(("logits_scaling", "logit_scale"), _POSITIVE),
    **dict.fromkeys(("embedding_multiplier", "attention_multiplier", "residual_multiplier"), _POSITIVE),
    **dict.fromkeys(("block_size", "window_size", "pretraining_tp", "num_ln_in_parallel_attn"), _WIDTH),
    "n_ctx": Bounds(1, POSITIONS),
    **dict.fromkeys(("max_relative_positions", "position_buckets"), Bounds(-1, POSITIONS)),  # -1: not said
}
"""Field -> its bounds; the rest by the rules of `bounds_of`."""

_RULES: tuple[tuple[Callable[[str], bool], Bounds], ...] = (
    (is_id_field, Bounds(0, VOCAB)),
    (lambda name: "dropout" in name or name.endswith(("_pdrop", "layerdrop")), _SHARE),
    (lambda name: name.endswith(("_eps", "_epsilon")), _SHARE),
)


def bounds_of(name: str) -> Bounds:
    """What a number of a field of this name may be."""
    return _FIELDS.get(name) or next((bounds for fits, bounds in _RULES if fits(name)), _ANY)


def outside(name: str, value: Any) -> Bounds | None:
    """The bounds that a number breaks; None where it keeps them or is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    bounds = bounds_of(name)
    keeps = (isinstance(value, int) or math.isfinite(value)) and bounds.least <= value <= bounds.most
    return None if keeps else bounds
