"""T5Gemma (Zhang et al. 2025, arXiv:2504.06225): two Gemma 2 stacks as one seq2seq model, whole or as two halves."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import gemma, llama
from conjoin.families.names import layers
from conjoin.families.record import Role
from conjoin.families.two_gemmas import NORMS, TwoGemmasConfig, family, with_dropout


class T5GemmaModuleConfig(gemma.Gemma2Config):
    """Fields of the config of one half, `encoder` or `decoder` in a T5Gemma config.json."""

    model_type = "t5_gemma_module"


class T5GemmaConfig(TwoGemmasConfig):
    """Fields of a T5Gemma config.json. Its vocab_size is written and read nowhere: each half has its own."""

    model_type = "t5gemma"
    encoder: T5GemmaModuleConfig
    decoder: T5GemmaModuleConfig
    vocab_size: int = 256000


def stack(config: T5GemmaConfig, role: Role) -> spec.StackSpec:
    """Either half; what the decoder reads of the source has neither positions nor a window."""
    half = config.encoder if role == "encoder" else config.decoder
    plain = with_dropout(gemma.stack2(half.copy(**config.of_halves), role), config.dropout_rate)
    if role == "encoder":
        plain = replace(plain, blocks=tuple(map(_wider, plain.blocks)))
    elif config.add_cross_attention:
        size = config.encoder.hidden_size
        cross = [spec.CrossAttention(attention=b.self_attn.attention, source_size=size) for b in plain.blocks]
        plain = plain.with_cross_attention(tuple(cross))
    return replace(plain, family=config.model_type)


def _wider(block: spec.Block) -> spec.Block:
    """Let a window of w keys reach w keys to each side of a query's own, as the encoder means it."""
    window = block.self_attn.window
    return replace(block, self_attn=replace(block.self_attn, window=window and window + 1))


def body(stack: spec.StackSpec) -> NameTable:
    """T5GemmaEncoder's and T5GemmaDecoder's names."""
    cross = {f"cross_attn.{name}_proj": f"cross_attn.{name}" for name in "qkvo"}
    return llama.body(stack, NORMS) + NameTable(layers("layers.{i}", cross))


FAMILY = family(
    T5GemmaConfig,
    "T5Gemma",
    stack,
    body,
    encoder="T5GemmaEncoderModel",
    configs={"encoder": "encoder", "decoder": "decoder"},
    words="own",
    known=("google/t5gemma-s-s-prefixlm", "google/t5gemma-2b-2b-prefixlm-it", "google/t5gemma-9b-2b-ul2"),
)
