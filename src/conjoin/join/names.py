"""The tensor names of a pair's file, and of the standalone checkpoints that it is joined from."""

from collections.abc import Iterable, Mapping

from conjoin import spec
from conjoin.checkpoint import Checkpoint, Dialect, Framework, Fused, Kind, Match, NameTable, Rule, Transposed
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig, Role, family, whole_names
from conjoin.join.pair import half_spec, pair_spec
from conjoin.join.plan import Offer

PROJECTION = NameTable(tuple(Rule(f"enc_to_dec_proj.{kind}", f"enc_to_dec_proj.{kind}") for kind in ("weight", "bias")))


def pair_names(config: PretrainedConfig, pair: spec.PairSpec, stored: set[str] | None = None) -> NameTable:
    """Return the name table of a pair's file: that of transformers' EncoderDecoderModel, or of a whole seq2seq model.

    Args:
        stored: Names in the file to read; None to write.
    """
    if not isinstance(config, EncoderDecoderConfig):
        return whole_names(family(config.model_type), pair, stored)
    encoder = family(config.encoder.model_type).names(pair.encoder, "encoder", config.encoder)
    decoder = family(config.decoder.model_type).names(pair.decoder, "decoder", config.decoder)
    return encoder.with_prefix("encoder.", "encoder.") + decoder.with_prefix("decoder.", "decoder.") + PROJECTION


def pair_offer(config: PretrainedConfig, pair: spec.PairSpec, checkpoint: Checkpoint) -> Offer:
    """Return the tensors that the file of a joined pair offers."""
    return Offer(str(checkpoint.folder), checkpoint, pair_names(config, pair, set(checkpoint)))


def half_offer(config: PretrainedConfig, stack: spec.StackSpec, role: Role, checkpoint: Checkpoint) -> Offer:
    """Return the tensors that a standalone checkpoint offers to one half."""
    table = family(stack.family).names_in(stack, role, set(checkpoint), config=config)
    return Offer(f"{role} {checkpoint.folder}", checkpoint, table, prefix=f"{role}.")


def dialect(framework: Framework, config: PretrainedConfig, names: Iterable[str]) -> Dialect:
    """Return the names and layouts that transformers' class for a framework gives the tensors of a checkpoint.

    Args:
        config: Of a pair, a whole seq2seq model or a single model.
        names: The checkpoint's PyTorch names.
    """
    stored = set(names)
    table, parameters = names_of_all(config, stored)
    kinds: dict[str, Kind] = {}
    for match in table.canonical(stored).matches:
        if match.canonical[0] in parameters:  # excludes a tied LM head's copy of the token embeddings
            kinds[match.name] = _kind(match, table, parameters)
    if isinstance(config, EncoderDecoderConfig):
        return Dialect(framework, kinds, body=_body(config.encoder), around="encoder.")
    body = _body(config)
    has_body = any(name.startswith(body) for name in stored)
    return Dialect(framework, kinds, body="" if has_body else body)


def left_out(config: PretrainedConfig, names: Iterable[str]) -> set[str]:
    """Return the names of tensors that hold no weights: buffers that older versions of transformers stored."""
    stored = set(names)
    return set(names_of_all(config, stored)[0].canonical(stored).ignored)


def _body(config: PretrainedConfig) -> str:
    """Return the prefix that a model with a head puts before the names of the bare model ("bert.")."""
    kind = family(config.model_type)
    return next(iter(kind.prefixes), "").removesuffix(kind.encoder_prefix)


def names_of_all(config: PretrainedConfig, stored: set[str]) -> tuple[NameTable, Mapping[str, spec.Parameter]]:
    """Return names and parameters of all that a checkpoint of this config can hold, with heads and cross-attention."""
    single = None if isinstance(config, EncoderDecoderConfig) else family(config.model_type)
    sides = [any(f"{side}." in name for name in stored) for side in ("encoder", "decoder")]
    if single is None or (single.whole and all(sides)):
        pair = pair_spec(config)
        return pair_names(config, pair, stored), spec.pair_parameters(pair)
    role: Role = "encoder" if single.decoder is None or (single.whole and not sides[1]) else "decoder"
    is_decoder = role == "decoder"
    stack = half_spec(config.copy(is_decoder=is_decoder, add_cross_attention=is_decoder), role)
    return single.names_in(stack, role, stored), spec.stack_parameters(stack)


def _kind(match: Match, table: NameTable, parameters: Mapping[str, spec.Parameter]) -> Kind:
    name = match.canonical[0]
    weight, bias = (name.removesuffix(f".{leaf}") + other for leaf, other in (("bias", ".weight"), ("weight", ".bias")))
    match parameters[name].kind:
        case "linear":
            return "conv1d" if _is_stored_in_out(match) else "linear"
        case "embedding" | "sinusoid":
            return "embedding"
        case "norm":
            return "norm" if bias in parameters else "scale"
        case "bias" if weight in parameters and parameters[weight].kind == "norm":
            return "norm_bias"
        case "bias":
            weight_match = table.match(match.name.removesuffix("bias") + "weight")
            return "conv1d_bias" if _is_stored_in_out(weight_match) else "bias"
        case "gate":
            return "plain"


def _is_stored_in_out(match: Match | None) -> bool:
    """True if a matrix is stored as (in, out)."""
    layout = match.rule.layout if match else None
    return isinstance(layout, Transposed) or (isinstance(layout, Fused) and layout.transposed)
