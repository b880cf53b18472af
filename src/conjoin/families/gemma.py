"""Gemma (arXiv:2403.08295), Gemma 2 (arXiv:2408.00118) and the text models of Gemma 3 (arXiv:2503.19786)."""

from dataclasses import replace
from functools import partial
from typing import Any

from conjoin import spec
from conjoin.families import llama
from conjoin.families.builders import lm_head, word_embedding
from conjoin.families.layer_types import LayerType, every_nth, layer_types
from conjoin.families.record import Role
from conjoin.families.rope import older_words, rotary


class GemmaConfig(llama.LlamaFields):
    """Fields of a Gemma config.json.

    Args:
        hidden_activation: Name of the activation in files of transformers 4, which then left `hidden_act` unread.
    """

    model_type = "gemma"
    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    head_dim: int | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_activation: str | None = None
    max_position_embeddings: int = 8192
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = 2


class Gemma2Config(llama.LlamaFields):
    """Fields of a Gemma 2 config.json."""

    model_type = "gemma2"
    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    attention_bias: bool = False
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    bos_token_id: int | None = 2


class Gemma3TextConfig(Gemma2Config):
    """Fields of the config.json of a Gemma 3 text model."""

    model_type = "gemma3_text"
    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window_pattern: int = 6
    rope_local_base_freq: float = 10000.0
    use_bidirectional_attention: bool = False


def _norm(config: llama.LlamaFields) -> spec.RMSNorm:
    return spec.RMSNorm(eps=config.rms_norm_eps, offset=1.0, scale_in_float32=True)


def _heads(config: Gemma2Config, **more: Any) -> spec.Attention:
    return llama.grouped_heads(config, bias=config.attention_bias, scale=config.query_pre_attn_scalar**-0.5, **more)


def _scaled_words(config: llama.LlamaFields) -> spec.Embedding:
    return word_embedding(config, scale=config.hidden_size**0.5, round_scale=True)


def stack(config: GemmaConfig, role: Role) -> spec.StackSpec:
    """Gemma's stack: Llama's with Gemma's norm. The first files say "gelu" where tanh's approximation is meant."""
    mlp = llama.gated_mlp(config, "hidden_activation" if config.hidden_activation else "hidden_act")
    if mlp.activation == "gelu" and not config.hidden_activation:
        mlp = replace(mlp, activation="gelu_tanh")
    layers = llama.rotary_layers(config, llama.grouped_heads(config, bias=config.attention_bias))
    return llama.decoder_stack(config, role, layers, mlp=mlp, norm=_norm(config), embedding=_scaled_words(config))


def _sandwich_stack(config: Gemma2Config, role: Role, self_attn: list[spec.SelfAttention]) -> spec.StackSpec:
    """What Gemma 2 and 3 share: norms on both sides of every branch.

    Args:
        self_attn: Of every layer.
    """
    norm = _norm(config)
    return llama.decoder_stack(
        config,
        role,
        self_attn,
        mlp=llama.gated_mlp(config, "hidden_activation"),
        norm=norm,
        norms=spec.Branch(pre=norm, out=norm),
        embedding=_scaled_words(config),
        head=lm_head(config, softcap=config.final_logit_softcapping),
    )


def stack2(config: Gemma2Config, role: Role) -> spec.StackSpec:
    """Gemma 2's stack: every other layer slides."""
    heads = _heads(config, softcap=config.attn_logit_softcapping)
    turning = rotary(config, heads.head_size)
    windows: dict[LayerType, int | None] = {"full_attention": None, "sliding_attention": config.sliding_window}
    types = layer_types(config, every_nth(2, first=1))
    readings = [spec.SelfAttention(attention=heads, rotary=turning, window=windows[kind]) for kind in types]
    return _sandwich_stack(config, role, readings)


def stack3(config: Gemma3TextConfig, role: Role) -> spec.StackSpec:
    """Gemma 3's stack: sliding layers turn with a base of their own, and query and key heads are normalised.

    `attn_logit_softcapping` is null in every published config; transformers keeps the key and reads it nowhere.
    """
    heads = _heads(config, qk_norm=spec.QKNorm(norm=_norm(config)))
    older = older_words(config, fallback=1e6)
    full = rotary(config, heads.head_size, layer_type="full_attention", older=older)
    local = {"rope_theta": config.rope_local_base_freq}
    sliding = rotary(config, heads.head_size, layer_type="sliding_attention", older=local)
    kinds: dict[LayerType, spec.SelfAttention] = {
        "full_attention": spec.SelfAttention(attention=heads, rotary=full),
        "sliding_attention": spec.SelfAttention(attention=heads, rotary=sliding, window=_window(config)),
    }
    pattern = every_nth(config.sliding_window_pattern, first=config.sliding_window_pattern - 1)
    return _sandwich_stack(config, role, [kinds[kind] for kind in layer_types(config, pattern)])


def _window(config: Gemma3TextConfig) -> int | None:
    """How far a sliding layer sees; what a model trained both ways calls its window is the width of both sides."""
    if config.sliding_window is None or not config.use_bidirectional_attention:
        return config.sliding_window
    return config.sliding_window // 2 + 1


NORMS = {
    "input_layernorm": "self_attn_norm",
    "post_attention_layernorm": "self_attn_post_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}


FAMILIES = (
    llama.family(GemmaConfig, "Gemma", stack, known=("google/gemma-2b", "google/gemma-7b-it")),
    llama.family(Gemma2Config, "Gemma2", stack2, partial(llama.body, norms=NORMS), known=("google/gemma-2-2b",)),
    llama.family(
        Gemma3TextConfig,
        "Gemma3Text",
        stack3,
        partial(llama.body, norms=NORMS),
        known=("google/gemma-3-270m", "google/gemma-3-1b-pt", "google/embeddinggemma-300m", "google/gemma-3-4b-it"),
    ),
)
