"""T5 (arXiv:1910.10683), mT5 (arXiv:2010.11934) and UMT5 (arXiv:2304.09151): whole, or as two halves."""

from typing import Any, ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families.builders import ACTIVATIONS, attention, lm_head, prenorm_stack, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import weights
from conjoin.families.record import Family, Role, Whole


class T5Config(PretrainedConfig):
    """Fields of a T5 config.json.

    Args:
        scale_decoder_outputs: The head's input is multiplied by d_model ** -0.5. Where a file does not say,
            its tie_word_embeddings does: T5 scales and ties, T5 1.1 does neither.
    """

    model_type = "t5"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool | None = None
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self.tie_word_embeddings


class MT5Config(T5Config):
    """Fields of an mT5 config.json. Its head never scales, tied or not."""

    model_type = "mt5"
    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    scale_decoder_outputs: bool | None = False
    decoder_start_token_id: int | None = 0


class UMT5Config(T5Config):
    """Fields of a UMT5 config.json, whose blocks have a relative bias each."""

    model_type = "umt5"
    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    feed_forward_proj: str = "gated-gelu"
    num_heads: int = 6
    decoder_start_token_id: int | None = 0


def mlp(config: T5Config) -> spec.MLP:
    """The feed-forward brick that `feed_forward_proj` names: "relu", "gated-gelu", "gated-silu" ...

    Raises:
        ConfigError: conjoin does not know it.
    """
    name = config.feed_forward_proj
    gated, plain = name.startswith("gated-"), name.removeprefix("gated-")
    known = "gelu_new" if name == "gated-gelu" else plain  # T5 1.1 was trained with the tanh form
    if known not in ACTIVATIONS:
        raise ConfigError(
            f'{config.model_type}: config.json has feed_forward_proj = "{name}", which conjoin does not know.\n'
            f"Expected one of: {', '.join(sorted(ACTIVATIONS))}; or gated- and one of these."
        )
    fields: dict[str, Any] = {
        "intermediate_size": config.d_ff,
        "activation": ACTIVATIONS[known],
        "up_bias": False,
        "down_bias": False,
        "activation_dropout": config.dropout_rate,
    }
    return spec.GatedMLP(**fields) if gated else spec.PlainMLP(**fields)


def stack(config: T5Config, role: Role) -> spec.StackSpec:
    """Either half of a T5: no biases, scores not scaled; positions are the relative bias alone."""
    layers = config.num_layers if role == "encoder" or config.num_decoder_layers is None else config.num_decoder_layers
    heads = attention(heads=config.num_heads, size=config.d_kv, bias=False, dropout=config.dropout_rate, scale=1.0)
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * layers,
        mlp=mlp(config),
        norm=spec.RMSNorm(eps=config.layer_norm_epsilon),
        own_cross=True,
        blocks={"dropout": config.dropout_rate, "wide_in_float16": True},
        embedding=word_embedding(config, dropout=config.dropout_rate),
        relative_bias=spec.RelativeBias(
            num_buckets=config.relative_attention_num_buckets,
            max_distance=config.relative_attention_max_distance,
            bidirectional=role == "encoder",
            per_block=config.model_type == "umt5",
        ),
        final_dropout=config.dropout_rate,
        head=lm_head(config, scale=config.d_model**-0.5 if config.scale_decoder_outputs else 1.0),
        init=spec.FanInInit(factor=config.initializer_factor),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """T5Stack's names; in the decoder the cross-attention is a block's second layer, and the MLP its third."""
    mlp_layer = 2 if stack.blocks[0].causal else 1
    gated = isinstance(stack.blocks[0].mlp, spec.GatedMLP)
    up = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
    layer = {
        **{f"0.SelfAttention.{name}": f"self_attn.{name}" for name in "qkvo"},
        "0.layer_norm": "self_attn_norm",
        **{f"1.EncDecAttention.{name}": f"cross_attn.{name}" for name in "qkvo"},
        **{f"{mlp_layer}.DenseReluDense.{theirs}": f"mlp.{ours}" for theirs, ours in {**up, "wo": "down"}.items()},
        f"{mlp_layer}.layer_norm": "mlp_norm",
    }
    if stack.blocks[0].causal:
        layer["1.layer_norm"] = "cross_attn_norm"
    bias = stack.relative_bias
    layer_of, ours_of = ("{i}", "blocks.{i}.") if isinstance(bias, spec.RelativeBias) and bias.per_block else ("0", "")
    theirs = f"block.{layer_of}.layer.0.SelfAttention.relative_attention_bias"
    top = {"embed_tokens": "embed.words", theirs: f"{ours_of}relative_bias", "final_layer_norm": "final_norm"}
    return NameTable(
        (*weights(top), *weights({f"block.{{i}}.layer.{k}": f"blocks.{{i}}.{ours}" for k, ours in layer.items()})),
        ignored=(r"block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def _family(config: type[T5Config], name: str, *known: str) -> Family:
    return Family(
        config=config,
        encoder="half",
        decoder="half",
        encoder_architecture=f"{name}EncoderModel",
        build=stack,
        body=body,
        encoder_prefix="encoder.",
        decoder_prefix="decoder.",
        word_aliases=("shared.weight",),
        num_layers={"encoder": "num_layers", "decoder": "num_decoder_layers"},
        whole=Whole(
            architecture=f"{name}ForConditionalGeneration",
            encoder="encoder.",
            decoder="decoder.",
            shared="shared.weight",
        ),
        known=known,
    )


FAMILIES = (
    _family(
        T5Config,
        "T5",
        "google-t5/t5-small",
        "google/t5-v1_1-small",
        "google/flan-t5-base",
        "google/madlad400-3b-mt",
        "Salesforce/codet5-base",
        "google/ul2",
        "google/byt5-small",
    ),
    _family(MT5Config, "MT5", "google/mt5-small", "bigscience/mt0-small", "CohereLabs/aya-101"),
    _family(UMT5Config, "UMT5", "google/umt5-small", "google/umt5-base"),
)
