"""Blenderbot (Roller et al. 2020, arXiv:2004.13637): mBART's halves whose positions start at the table's first row."""

from conjoin import spec
from conjoin.families import bart
from conjoin.families.record import Role


class BlenderbotConfig(bart.BartConfig):
    """Fields of a Blenderbot config.json."""

    model_type = "blenderbot"
    vocab_size: int = 8008
    max_position_embeddings: int = 128
    d_model: int = 2560
    encoder_layers: int = 2
    encoder_ffn_dim: int = 10240
    encoder_attention_heads: int = 32
    decoder_layers: int = 24
    decoder_ffn_dim: int = 10240
    decoder_attention_heads: int = 32
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1


class BlenderbotSmallConfig(BlenderbotConfig):
    """Fields of a Blenderbot Small config.json."""

    model_type = "blenderbot-small"
    vocab_size: int = 50265
    max_position_embeddings: int = 512
    d_model: int = 512
    encoder_layers: int = 8
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 16
    decoder_layers: int = 8
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 16


def stack(config: BlenderbotConfig, role: Role) -> spec.StackSpec:
    """Blenderbot's half: norms before every branch and at the end, none behind the embedding."""
    return bart.half(config, role, prenorm=True, position=_positions(config), norm=None)


def small_stack(config: BlenderbotSmallConfig, role: Role) -> spec.StackSpec:
    """Blenderbot Small's half: BART's, but the decoder normalises words, unscaled, before it adds positions."""
    changed = {"norm_of": "words", "scale": 1.0} if role == "decoder" else {}
    return bart.half(config, role, prenorm=False, position=_positions(config), **changed)


def _positions(config: BlenderbotConfig) -> spec.Learned:
    return spec.Learned(max_positions=config.max_position_embeddings)


FAMILIES = (
    bart.seq2seq(
        BlenderbotConfig,
        "Blenderbot",
        stack,
        bart.whole("BlenderbotForConditionalGeneration"),
        generation={"forced_eos_token_id": 2, "encoder_no_repeat_ngram_size": 3},
        known=("facebook/blenderbot-400M-distill",),
    ),
    bart.seq2seq(
        BlenderbotSmallConfig,
        "BlenderbotSmall",
        small_stack,
        bart.whole("BlenderbotSmallForConditionalGeneration"),
        known=("facebook/blenderbot_small-90M",),
    ),
)
