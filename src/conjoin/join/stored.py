"""Where a checkpoint's file contradicts its config: the file wins, and the config is set right."""

from collections.abc import Mapping
from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import Checkpoint
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import warn
from conjoin.families import PretrainedConfig, Role, family
from conjoin.join.layers import table_of_kept
from conjoin.join.names import half_offer
from conjoin.join.pair import half_spec
from conjoin.join.plan import Offer, unshared

_TWO_MATRICES = (
    "The decoder's config ties the head to the word table, but its file stores two different matrices: both are "
    "loaded, and the head is not tied."
)


def untie_head(config: PretrainedConfig, pair: spec.PairSpec) -> spec.PairSpec:
    """Return the pair with an untied head, which its file stores although its config ties it; the config is set right.

    A whole BART's config keeps its value, since it stands for the halves' word tables too.
    """
    assert pair.decoder.head is not None
    warn(_TWO_MATRICES)
    if isinstance(config, EncoderDecoderConfig):
        config.decoder.tie_word_embeddings = False
    elif (whole := family(config.model_type).whole) and whole.words != "tied":
        config.tie_word_embeddings = False
    return replace(pair, decoder=replace(pair.decoder, head=replace(pair.decoder.head, tied=False)))


def has_own_head(stack: spec.StackSpec, offer: Offer) -> bool:
    """True if a decoder's head is declared tied, but its file stores a matrix that differs from the word table."""
    is_tied = stack.head is not None and stack.head.tied
    return is_tied and not offer.same("decoder.head.vocab.weight", "decoder.embed.words.weight")


def untie_half(config: PretrainedConfig, stack: spec.StackSpec) -> tuple[PretrainedConfig, spec.StackSpec]:
    """Return config and spec of one decoder with an untied head; see `untie_head`."""
    assert stack.head is not None
    warn(_TWO_MATRICES)
    return config.copy(tie_word_embeddings=False), replace(stack, head=replace(stack.head, tied=False))


def loosen_sharing(config: PretrainedConfig, pair: spec.PairSpec, offer: Offer) -> spec.PairSpec:
    """Return the pair without sharing where its file stores the halves apart, with different contents; the config too.

    transformers 5 writes `tie_encoder_decoder: true` and trains two stacks nevertheless; tying them would lose one.
    """
    apart = unshared(pair, offer) if isinstance(config, EncoderDecoderConfig) else []
    if not apart:
        return pair
    assert isinstance(config, EncoderDecoderConfig)
    warn(
        f"The config says that the halves share parameters, but the file stores {len(apart)} of them twice with "
        f"different contents, {apart[0]} first: both are loaded, and nothing is shared."
    )
    config.share = "none"
    return replace(pair, share="none")


def joining_offer(
    config: PretrainedConfig, role: Role, checkpoint: Checkpoint, blocks: Mapping[int, int] | None = None
) -> Offer:
    """What a standalone checkpoint offers to one half of a new pair, cross-attention included.

    Args:
        config: Config of the checkpoint.
        blocks: Index of a block in the checkpoint -> its index in the pair, without dropped ones; None for all.
    """
    stack = half_spec(config, role)
    if role == "decoder" and not stack.has_cross_attention:
        stack = half_spec(config.copy(is_decoder=True, add_cross_attention=True), role)
    offer = half_offer(config, stack, role, checkpoint)
    return offer if blocks is None else Offer(offer.label, checkpoint, table_of_kept(offer.table, blocks))
