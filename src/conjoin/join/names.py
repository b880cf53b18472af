"""The tensor names of a pair's file, and of the standalone checkpoints that it is joined from."""

from collections.abc import Iterable, Mapping

from conjoin import spec
from conjoin.checkpoint import Checkpoint, Dialect, Framework, Fused, Kind, Match, NameTable, Rule, Transposed
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig, Role, family, whole_names
from conjoin.join.pair import half_spec, pair_spec
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


def half_offer(config: PretrainedConfig, stack: spec.StackSpec, role: Role, checkpoint: Checkpoint) -> Offer:
    """What a standalone checkpoint offers to one half."""
    tied = config.tie_word_embeddings
    table = family(stack.family).names_in(stack, role, set(checkpoint), tied=tied)
    return Offer(f"{role} {checkpoint.folder}", checkpoint, table, prefix=f"{role}.")


def dialect(framework: Framework, config: PretrainedConfig, names: Iterable[str]) -> Dialect:
    """How a framework's own class names and lays out the tensors of a checkpoint.

    Args:
        config: A pair's, a whole seq2seq model's or a single model's.
        names: The checkpoint's names, as PyTorch has them.
    """
    found = set(names)
    table, parameters = _everything(config, found)
    kinds: dict[str, Kind] = {}
    for match in table.canonical(found).matches:
        if match.canonical[0] in parameters:  # a tied head's copy of the word table is not
            kinds[match.name] = _kind(match, table, parameters)
    if isinstance(config, EncoderDecoderConfig):
        return Dialect(framework, kinds, body=_body(config.encoder), around="encoder.")
    body = _body(config)
    has_body = any(name.startswith(body) for name in found)
    return Dialect(framework, kinds, body="" if has_body else body)


def left_out(config: PretrainedConfig, names: Iterable[str]) -> set[str]:
    """Tensors of a checkpoint that hold nothing: buffers that older versions of transformers stored."""
    found = set(names)
    return set(_everything(config, found)[0].canonical(found).ignored)


def _body(config: PretrainedConfig) -> str:
    """What a model with a head puts before the names of the bare one ("bert.")."""
    made = family(config.model_type)
    return next(iter(made.prefixes), "").removesuffix(made.encoder_prefix)


def _everything(config: PretrainedConfig, found: set[str]) -> tuple[NameTable, Mapping[str, spec.Parameter]]:
    """Names and parameters of all that a checkpoint of this config can hold, heads and cross-attention included."""
    made = None if isinstance(config, EncoderDecoderConfig) else family(config.model_type)
    sides = [any(f"{side}." in name for name in found) for side in ("encoder", "decoder")]
    if made is None or (made.whole and all(sides)):
        pair = pair_spec(config)
        return pair_names(config, pair, found), spec.pair_parameters(pair)
    role: Role = "encoder" if made.decoder is None or (made.whole and not sides[1]) else "decoder"
    reads = role == "decoder"
    stack = half_spec(config.copy(is_decoder=reads, add_cross_attention=reads), role)
    return made.names_in(stack, role, found), spec.stack_parameters(stack)


def _kind(match: Match, table: NameTable, parameters: Mapping[str, spec.Parameter]) -> Kind:
    name = match.canonical[0]
    weight, bias = (name.removesuffix(f".{leaf}") + other for leaf, other in (("bias", ".weight"), ("weight", ".bias")))
    match parameters[name].kind:
        case "linear":
            return "conv1d" if _lies_in_out(match) else "linear"
        case "embedding" | "sinusoid":
            return "embedding"
        case "norm":
            return "norm" if bias in parameters else "scale"
        case "bias" if weight in parameters and parameters[weight].kind == "norm":
            return "norm_bias"
        case "bias":
            return "conv1d_bias" if _lies_in_out(table.match(match.name.removesuffix("bias") + "weight")) else "bias"
        case "gate":
            return "plain"


def _lies_in_out(match: Match | None) -> bool:
    """Whether a matrix is stored (in, out)."""
    layout = match.rule.layout if match else None
    return isinstance(layout, Transposed) or (isinstance(layout, Fused) and layout.transposed)
