"""T5Gemma 2 (Zhang et al. 2025, arXiv:2512.14856), for text: two Gemma 3 stacks, merged attention in the decoder."""

from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.families import gemma, llama
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import REPLACEMENT, Role
from conjoin.families.two_gemmas import NORMS, TwoGemmasConfig, family, with_dropout


class T5Gemma2TextConfig(gemma.Gemma3TextConfig):
    """Fields of the `text_config` of the encoder."""

    model_type = "t5gemma2_text"


class T5Gemma2DecoderConfig(gemma.Gemma3TextConfig):
    """Fields of the config of the decoder."""

    model_type = "t5gemma2_decoder"


class T5Gemma2EncoderConfig(PretrainedConfig):
    """Fields of the config of the encoder: the text's, and those of images, of which only the end's id is read."""

    model_type = "t5gemma2_encoder"
    text_config: T5Gemma2TextConfig
    vision_config: dict[str, Any] | None = None
    mm_tokens_per_image: int | None = 256
    boi_token_index: int | None = 255999
    eoi_token_index: int | None = 256000
    image_token_index: int | None = 262144
    initializer_range: float | None = 0.02


class T5Gemma2Config(TwoGemmasConfig):
    """Fields of a T5Gemma 2 config.json."""

    model_type = "t5gemma2"
    encoder: T5Gemma2EncoderConfig
    decoder: T5Gemma2DecoderConfig
    initializer_range: float = 0.02
    image_token_index: int = 256001
    eoi_token_index: int | None = None


def stack(config: T5Gemma2Config, role: Role) -> spec.StackSpec:
    """Either half; the decoder's self-attention reads both sides of a pair."""
    text = config.encoder.text_config if role == "encoder" else config.decoder
    text = text.copy(**config.of_halves, use_bidirectional_attention=False)
    plain = with_dropout(gemma.stack3(text, role), config.dropout_rate)
    if role == "encoder":
        plain = replace(plain, blocks=tuple(map(_uneven, plain.blocks)))
    elif config.add_cross_attention:
        plain = plain.with_source([spec.MergedSource()] * plain.num_layers)
    embedding = replace(plain.embedding, replaced=config.encoder.eoi_token_index)
    return replace(plain, family=config.model_type, embedding=embedding)


def _uneven(block: spec.Block) -> spec.Block:
    """Let a window of w keys reach (w - 1) // 2 keys back and w // 2 ahead."""
    width = block.self_attn.window
    sides = {} if width is None else {"window": (width + 1) // 2, "window_ahead": width // 2 + 1}
    return replace(block, self_attn=replace(block.self_attn, **sides))


def body(stack: spec.StackSpec) -> NameTable:
    """The names in files, where transformers leaves out the encoder's `text_model`, and those in its memory."""
    own = llama.body(stack, NORMS) + NameTable((Rule("embed_tokens.eoi_embedding", REPLACEMENT),))
    return own + own.with_prefix("text_model.", "")


FAMILY = family(
    T5Gemma2Config,
    "T5Gemma2",
    stack,
    body,
    encoder="T5Gemma2Model",
    configs={"encoder": "encoder.text_config", "decoder": "decoder"},
    unsaved="the vision tower",
    unread=("encoder.vision_tower.", "encoder.multi_modal_projector."),
    words="tied",
    known=("google/t5gemma-2-270m-270m", "google/t5gemma-2-1b-1b"),
)
