"""ModernBERT (Warner et al. 2024, arXiv:2412.13663) and the causal models trained beside it (Ettin, 2507.11412)."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families.builders import activation, head_size, lm_head, plain_heads, prenorm_stack, word_embedding
from conjoin.families.layer_types import LayerType, every_nth, layer_types
from conjoin.families.names import QKV, biased_head, fused, layers, linears, weights
from conjoin.families.record import Role, causal_lm, masked_lm
from conjoin.families.rope import RopeFields, older_words, rotary


class ModernBertConfig(RopeFields):
    """Fields of a ModernBERT config.json."""

    model_type = "modernbert"
    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    local_attention: int | None = 128
    layer_types: list[str] | None = None
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float | None = 10000.0
    pad_token_id: int | None = 50283
    eos_token_id: int | list[int] | None = 50282
    bos_token_id: int | None = 50281
    cls_token_id: int | None = 50281
    sep_token_id: int | None = 50282


class ModernBertDecoderConfig(ModernBertConfig):
    """Fields of the config.json of a causal ModernBERT."""

    model_type = "modernbert-decoder"


def _mlp(config: ModernBertConfig) -> spec.GatedMLP:
    return spec.GatedMLP(
        intermediate_size=config.intermediate_size,
        activation=activation(config, "hidden_activation"),
        up_bias=config.mlp_bias,
        down_bias=config.mlp_bias,
        activation_dropout=config.mlp_dropout,
    )


def _readings(config: ModernBertConfig) -> dict[LayerType, spec.SelfAttention]:
    """The two kinds of self-attention, each with its own rotary base.

    transformers' class also drops out the output of the attention; no checkpoint does, and here only weights drop out.
    """
    size, heads = head_size(config), plain_heads(config, bias=config.attention_bias, dropout=config.attention_dropout)
    base = config.global_rope_theta
    older, local = older_words(config, "global_rope_theta"), older_words(config, "local_rope_theta", fallback=base)
    full = rotary(config, size, layer_type="full_attention", older=older)
    sliding = rotary(config, size, layer_type="sliding_attention", older=local)
    return {
        "full_attention": spec.SelfAttention(attention=heads, rotary=full),
        "sliding_attention": spec.SelfAttention(attention=heads, rotary=sliding, window=_window(config)),
    }


def _window(config: ModernBertConfig) -> int | None:
    """How far a local layer sees. `local_attention` is the width of both sides.

    ModernBERT reads half of it to each side, and the position itself; the causal models read half with the position.
    """
    if not config.local_attention:
        return None
    half = config.local_attention // 2
    return half if isinstance(config, ModernBertDecoderConfig) else half + 1


def stack(config: ModernBertConfig, role: Role) -> spec.StackSpec:
    """ModernBERT's stack; as a decoder it has the language model's head.

    The first block reads the embedding, which is normalised already, as it is.
    """
    norm = spec.LayerNorm(eps=config.norm_eps, bias=config.norm_bias)
    kinds = _readings(config)
    transform = spec.HeadTransform(
        size=config.hidden_size,
        activation=activation(config, "classifier_activation"),
        norm=norm,
        bias=config.classifier_bias,
    )
    built = prenorm_stack(
        config,
        role,
        [kinds[each] for each in layer_types(config, every_nth(config.global_attn_every_n_layers, first=0))],
        mlp=_mlp(config),
        norm=norm,
        embedding=word_embedding(config, norm=norm, dropout=config.embedding_dropout),
        head=lm_head(config, bias="trained" if config.decoder_bias else None, transform=transform),
    )
    first = replace(built.blocks[0], self_attn_norms=spec.Branch())
    return replace(built, blocks=(first, *built.blocks[1:]))


_LAYER = {"attn.Wo": "self_attn.o", "attn_norm": "self_attn_norm", "mlp_norm": "mlp_norm", "mlp.Wo": "mlp.down"}
_APART = {f"attn.{letter}_proj": f"self_attn.{letter}" for letter in "qkv"}


def _body(layer: dict[str, str], in_one: dict[str, tuple[str, ...]]) -> NameTable:
    table = weights({"embeddings.tok_embeddings": "embed.words"})
    top = linears({"embeddings.norm": "embed.norm", "final_norm": "final_norm"})
    return NameTable((*table, *fused("layers.{i}", in_one), *layers("layers.{i}", layer), *top))


def body(stack: spec.StackSpec) -> NameTable:
    """ModernBertModel's names."""
    return _body(_LAYER, {"attn.Wqkv": QKV, "mlp.Wi": ("mlp.gate", "mlp.up")})


def causal_body(stack: spec.StackSpec) -> NameTable:
    """ModernBertDecoderModel's names: q, k and v apart."""
    return _body({**_LAYER, **_APART}, {"mlp.Wi": ("mlp.gate", "mlp.up")})


def _head(transform: str) -> NameTable:
    return biased_head("decoder", {f"{transform}.dense": "head.dense", f"{transform}.norm": "head.norm"})


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return _head("head")


def causal_head(stack: spec.StackSpec) -> NameTable:
    """Names of the causal language model's head."""
    return _head("lm_head")


FAMILIES = (
    masked_lm(
        ModernBertConfig,
        "ModernBert",
        stack,
        body,
        decoder="grafted",
        head=head,
        prefixes=("model.",),
        known=(
            "answerdotai/ModernBERT-base",
            "jhu-clsp/mmBERT-base",
            "jhu-clsp/ettin-encoder-150m",
            "almanach/moderncamembert-base",
        ),
    ),
    causal_lm(
        ModernBertDecoderConfig,
        "ModernBertDecoder",
        stack,
        causal_body,
        head=causal_head,
        known=("jhu-clsp/ettin-decoder-150m",),
    ),
)
