"""config -> PairSpec: grafting, projection, sharing."""

from collections.abc import Mapping, Sequence
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
    own: Mapping[str, Any] = getattr(config, "conjoin", None) or {}
    return spec.PairSpec(
        encoder=kind.stack(config, "encoder"),
        decoder=with_whole_head(kind.stack(decoder_config, "decoder")),
        share="embeddings" if kind.whole.has_one_table(config) and own.get("share") != "none" else "none",
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
    if stack.reads_source:
        return _gate(stack) if is_gated(config) else stack
    return graft(stack, config.cross_attention_hidden_size or config.hidden_size, gated=is_gated(config))


def _joined(config: EncoderDecoderConfig) -> spec.PairSpec:
    encoder = _encoder(config)
    decoder = family(config.decoder.model_type).stack(config.decoder, "decoder")
    source_size = config.decoder.cross_attention_hidden_size
    if source_size is not None and source_size != encoder.hidden_size:
        raise JoinError(
            f"decoder.cross_attention_hidden_size = {source_size}, but the encoder's hidden_size is "
            f"{encoder.hidden_size}.",
            hint="remove cross_attention_hidden_size from the decoder's config.",
        )
    if config.source_layers is not None and config.cross_attention_init != "layerwise":
        raise JoinError(
            f"source_layers = {config.source_layers} with cross_attention_init={config.cross_attention_init!r}: only "
            '"layerwise" reads layers of the encoder.',
            hint="leave source_layers out.",
        )
    projection = False
    match config.cross_attention_init:
        case "merged":
            decoder = read_merged(encoder, decoder)
        case "layerwise":
            encoder, decoder = read_layerwise(encoder, decoder, config.source_layers)
        case init if decoder.reads_source:
            projection = encoder.hidden_size != decoder.source_size
            decoder = _gate(decoder) if init == "zero_gate" else decoder
        case init:
            decoder = graft(decoder, encoder.hidden_size, gated=init == "zero_gate")
    pair = spec.PairSpec(encoder=encoder, decoder=decoder, projection=projection, share=config.share)
    _check_sharing(pair)
    return pair


def _encoder(config: EncoderDecoderConfig) -> spec.StackSpec:
    """The encoder's stack; one that reads causally is a decoder's without a head."""
    kind = family(config.encoder.model_type)
    if config.encoder_attention == "bidirectional":
        return kind.stack(config.encoder, "encoder")
    if kind.encoder == "half" or kind.decoder is None:
        raise JoinError(
            f'encoder_attention="causal": {kind.model_type} cannot read its sources like a decoder.',
            hint='use --encoder-attention bidirectional (encoder_attention="bidirectional").',
        )
    return replace(kind.stack(config.encoder, "decoder"), head=None)


def read_merged(encoder: spec.StackSpec, decoder: spec.StackSpec) -> spec.StackSpec:
    """Let a decoder's self-attention read the encoder's output, too (T5Gemma 2): no new parameters.

    Raises:
        JoinError: the widths differ.
    """
    if encoder.hidden_size != decoder.hidden_size:
        raise JoinError(
            f'cross_attention_init="merged": {encoder.family} has hidden_size {encoder.hidden_size}, {decoder.family} '
            f"{decoder.hidden_size}; expected the same, since the decoder's own keys and values read both.",
            hint='use --cross-attention-init self_attention (cross_attention_init="self_attention").',
        )
    return decoder.with_source([spec.MergedSource()] * decoder.num_layers)


def read_layerwise(
    encoder: spec.StackSpec, decoder: spec.StackSpec, layers: Sequence[int] | None
) -> tuple[spec.StackSpec, spec.StackSpec]:
    """Let each layer of a decoder read the source as a layer of the encoder does, as a prefix of the target.

    Nothing reads the encoder's last layer and final norm, which are left out.

    Args:
        layers: For each decoder layer, the encoder layer whose input it reads; by default the one of its number.

    Raises:
        JoinError: the halves' blocks are of different kinds, or the layers do not fit.
    """
    layers = _source_layers(encoder, decoder, layers)
    if problems := _differences(encoder, decoder, layers):
        raise JoinError(
            f'cross_attention_init="layerwise": {encoder.family} and {decoder.family} differ, but the decoder must '
            f"read the encoder's states as its own:\n{listing(problems)}",
            hint="join a checkpoint to itself or to one of its kind, or use --cross-attention-init self_attention "
            '(cross_attention_init="self_attention").',
        )
    states = tuple(sorted(set(layers)))
    sources = [spec.PrefixSource(state=states.index(layer)) for layer in layers]
    return encoder.with_states(states), decoder.with_source(sources)


def _source_layers(encoder: spec.StackSpec, decoder: spec.StackSpec, layers: Sequence[int] | None) -> Sequence[int]:
    count, most = decoder.num_layers, encoder.num_layers
    if layers is None and count == most:
        return range(count)
    if layers is None or len(layers) != count or not all(0 <= layer < most for layer in layers):
        spread = [layer * most // count for layer in range(count)]
        given = "is not given" if layers is None else f"= {list(layers)}"
        raise JoinError(
            f'cross_attention_init="layerwise": the encoder has {most} layers, the decoder {count}, and source_layers '
            f"{given}.\nExpected {count} numbers from 0 to {most - 1}: the encoder layer that each decoder layer reads "
            "with, the one that had its place before layers were dropped.",
            hint=f"evenly spread: --source-layers {','.join(map(str, spread))} (source_layers={spread})",
        )
    return layers


def _differences(encoder: spec.StackSpec, decoder: spec.StackSpec, layers: Sequence[int]) -> list[str]:
    """What keeps a decoder from reading an encoder's states as its own."""
    problems: list[str] = []
    if encoder.hidden_size != decoder.hidden_size:
        problems.append(f"hidden_size: encoder {encoder.hidden_size}, decoder {decoder.hidden_size}")
    for own, layer in enumerate(layers):
        theirs, ours = encoder.blocks[layer], decoder.blocks[own]
        pairs = {
            "norms": (theirs.norms_of("self_attn"), ours.norms_of("self_attn")),
            "heads": (_key_shape(theirs), _key_shape(ours)),
            "rotary positions": (theirs.self_attn.rotary, ours.self_attn.rotary),
            "distances": (theirs.self_attn.disentangled, ours.self_attn.disentangled),
            "parallel branches": (theirs.parallel, ours.parallel),
        }
        unlike = [name for name, (one, other) in pairs.items() if one != other]
        if unlike:
            problems.append(f"decoder layer {own}, encoder layer {layer}: {', '.join(unlike)}")
    return problems


def _key_shape(block: spec.Block) -> tuple[Any, ...]:
    heads = block.self_attn.attention
    return heads.num_heads, heads.num_kv_heads, heads.head_size, heads.qk_norm


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
    if decoder.merges_source:
        raise JoinError(
            f'cross_attention_init="zero_gate": {decoder.family} reads source and target in one softmax, which has no '
            "branch that a gate could close.",
            hint="leave cross_attention_init out.",
        )
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
    count = len(pair.encoder.weights_of) if pair.encoder.states else pair.decoder.num_layers
    alike = pair.share == "embeddings" or pair.encoder.weights_of == pair.decoder.weights_of[:count]
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
            both = pair.encoder.embedding, pair.decoder.embedding
            replaced = all(each.replaced is not None for each in both)
            return ["embed.words.weight", *["embed.replacement"] * replaced]
        case "all":
            decoder = spec.stack_parameters(pair.decoder)
            return [name for name in spec.stack_parameters(pair.encoder) if name in decoder]
