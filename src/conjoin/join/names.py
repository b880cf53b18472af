"""The tensor names of a pair's file, and of the standalone checkpoints that it is joined from."""

from conjoin import spec
from conjoin.checkpoint import Checkpoint, NameTable, Rule
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig, Role, family, whole_names
from conjoin.join.plan import Offer

PROJECTION = NameTable(tuple(Rule(f"enc_to_dec_proj.{kind}", f"enc_to_dec_proj.{kind}") for kind in ("weight", "bias")))


def pair_names(config: PretrainedConfig, pair: spec.PairSpec, found: set[str] | None = None) -> NameTable:
    """Names in the file of a joined pair: transformers' EncoderDecoderModel's, or a whole seq2seq model's.

    Args:
        found: Names in the file to read; None to write.
    """
    if not isinstance(config, EncoderDecoderConfig):
        return whole_names(family(config.model_type), pair, found)
    encoder = family(config.encoder.model_type).names(pair.encoder, "encoder")
    decoder = family(config.decoder.model_type).names(pair.decoder, "decoder")
    return encoder.with_prefix("encoder.", "encoder.") + decoder.with_prefix("decoder.", "decoder.") + PROJECTION


def pair_offer(config: PretrainedConfig, pair: spec.PairSpec, checkpoint: Checkpoint) -> Offer:
    """What the file of a joined pair offers."""
    return Offer(str(checkpoint.folder), checkpoint, pair_names(config, pair, set(checkpoint)))


def half_offer(stack: spec.StackSpec, role: Role, checkpoint: Checkpoint) -> Offer:
    """What a standalone checkpoint offers to one half."""
    table = family(stack.family).names_in(stack, role, set(checkpoint))
    return Offer(f"{role} {checkpoint.folder}", checkpoint, table, prefix=f"{role}.")
