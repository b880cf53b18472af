"""config -> PairSpec: grafting, projection, sharing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.configuration import EncoderDecoderConfig, is_gated
from conjoin.errors import ConfigError, JoinError, listing
from conjoin.families import PretrainedConfig, Role, family


def pair_spec(config: PretrainedConfig) -> spec.PairSpec:
    """Return the spec of the pair that a config describes: an EncoderDecoderConfig, or a whole model's (BART, T5).

    Raises:
        JoinError: the two halves cannot be joined with the config's settings.
        ConfigError: the config is that of a single model.
    """
    if isinstance(config, EncoderDecoderConfig):
        return _joined(config)
    kind = family(config.model_type)
    if kind.whole is None:
        raise ConfigError(
            f"model_type = {config.model_type!r} is one half, not a pair.",
            hint="join it to another: EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder), or "
            "`conjoin join ENCODER DECODER`.",
        )
    decoder_config = config.copy(is_decoder=True, add_cross_attention=True)
    one_table = kind.whole.words == "shared" or config.tie_word_embeddings
    own: Mapping[str, Any] = getattr(config, "conjoin", None) or {}
    return spec.PairSpec(
        encoder=kind.stack(config, "encoder"),
        decoder=with_whole_head(kind.stack(decoder_config, "decoder")),
        share="embeddings" if one_table and own.get("share") != "none" else "none",
    )


def with_whole_head(decoder: spec.StackSpec) -> spec.StackSpec:
    """Give a decoder the head of a whole seq2seq model; BART's has a fixed bias that its causal LM lacks."""
    whole = family(decoder.family).whole
    if whole is None or decoder.head is None or not whole.fixed_bias:
        return decoder
    return replace(decoder, head=replace(decoder.head, bias="fixed"))


def half_spec(config: PretrainedConfig, role: Role) -> spec.StackSpec:
    """Return the spec of a single half; a decoder saved from a pair keeps its grafted cross-attention and gates."""
    stack = family(config.model_type).stack(config, role)
    if role == "encoder" or not config.add_cross_attention:
        return stack
    if stack.has_cross_attention:
        return _gate(stack) if is_gated(config) else stack
    return graft(stack, config.cross_attention_hidden_size or config.hidden_size, gated=is_gated(config))


def _joined(config: EncoderDecoderConfig) -> spec.PairSpec:
    encoder = family(config.encoder.model_type).stack(config.encoder, "encoder")
    decoder = family(config.decoder.model_type).stack(config.decoder, "decoder")
    source_size = config.decoder.cross_attention_hidden_size
    if source_size is not None and source_size != encoder.hidden_size:
        raise JoinError(
            f"decoder.cross_attention_hidden_size = {source_size}, but the encoder's hidden_size is "
            f"{encoder.hidden_size}.",
            hint="remove cross_attention_hidden_size from the decoder's config.",
        )
    gated = config.cross_attention_init == "zero_gate"
    if decoder.has_cross_attention:
        projection = encoder.hidden_size != decoder.hidden_size
        decoder = _gate(decoder) if gated else decoder
    else:
        projection = False
        decoder = graft(decoder, encoder.hidden_size, gated=gated)
    pair = spec.PairSpec(encoder=encoder, decoder=decoder, projection=projection, share=config.share)
    _check_sharing(pair)
    return pair


def graft(decoder: spec.StackSpec, source_size: int, *, gated: bool = False) -> spec.StackSpec:
    """Add cross-attention to every block: heads as in its self-attention, keys and values from the source's width.

    There are no rotary positions on either side: a source position has no distance to a target position.

    Args:
        gated: Scale it by a gate that starts at 0, so that the decoder starts as the language model it was.
    """
    if gated:
        _check_gate(decoder)
    cross = tuple(
        spec.CrossAttention(attention=block.self_attn.attention, source_size=source_size, gated=gated)
        for block in decoder.blocks
    )
    return decoder.with_cross_attention(cross)


def _gate(decoder: spec.StackSpec) -> spec.StackSpec:
    _check_gate(decoder)
    cross = tuple(replace(block.cross_attn, gated=True) if block.cross_attn else None for block in decoder.blocks)
    return decoder.with_cross_attention(cross)


def _check_gate(decoder: spec.StackSpec) -> None:
    if any(block.norms.post is not None for block in decoder.blocks):
        raise JoinError(
            f'cross_attention_init="zero_gate": {decoder.family} normalises after every branch, so even a closed gate '
            "changes what the block computes.",
            hint='use --cross-attention-init self_attention or normal (cross_attention_init="self_attention").',
        )


def _check_sharing(pair: spec.PairSpec) -> None:
    """Raise unless both halves have the parameters to share, in the same shapes."""
    if pair.share == "none":
        return
    encoder, decoder = spec.stack_parameters(pair.encoder), spec.stack_parameters(pair.decoder)
    names = shared_names(pair)
    wrong = [
        f"{name}: encoder {encoder[name].shape}, decoder {decoder[name].shape}"
        for name in names
        if encoder[name].shape != decoder[name].shape
    ]
    alike = pair.share == "embeddings" or (
        pair.encoder.num_layers == pair.decoder.num_layers and pair.encoder.weights_of == pair.decoder.weights_of
    )
    unmatched = [] if pair.share == "embeddings" else [f"{n}: only in the encoder" for n in encoder if n not in decoder]
    layers = [] if alike else [f"layers: encoder {pair.encoder.num_layers}, decoder {pair.decoder.num_layers}"]
    if problems := layers + unmatched + wrong:
        raise JoinError(
            f"share={pair.share!r}: {pair.encoder.family} and {pair.decoder.family} differ:\n{listing(problems)}",
            hint='--share embeddings (share="embeddings") only needs token embeddings of equal shape.',
        )


def shared_names(pair: spec.PairSpec) -> list[str]:
    """Return the names, within a stack, of the parameters that both stacks share."""
    match pair.share:
        case "none":
            return []
        case "embeddings":
            return ["embed.words.weight"]
        case "all":
            decoder = spec.stack_parameters(pair.decoder)
            return [name for name in spec.stack_parameters(pair.encoder) if name in decoder]
