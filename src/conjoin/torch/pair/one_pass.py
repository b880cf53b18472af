"""A causal language model that was joined to itself is trained in one pass over each source and its target.

Its decoder reads, layer by layer, what its encoder makes of the source (decision 41). While both have the same weights,
that is what the language model makes of the source before the target, in one row. Two passes compute the same, but read
the weights twice, and make keys and values of the source twice (decision 52).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.join import special_tokens
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.model.checks import as_ids, check_labels
from conjoin.torch.model.loss import IGNORED, label_mask
from conjoin.torch.model.route import has_hooks
from conjoin.torch.model.stack_inputs import StackInputs
from conjoin.torch.pair.modules import PairModules


@dataclass(frozen=True, slots=True)
class Rows:
    """Sources with their targets behind them, without the padding between them.

    Args:
        ids: [B, N].
        wanted: [B, N], True where the state counts.
        places: [B, T], where the tokens of the targets stand; those that are not needed may stand anywhere.
    """

    ids: Int[Tensor, "B N"]
    wanted: Bool[Tensor, "B N"]
    places: Int[Tensor, "B T"]

    @classmethod
    def of(
        cls,
        source: Int[Tensor, "B S"],
        mask: Bool[Tensor, "B S"] | None,
        target: Int[Tensor, "B T"],
        wanted: Bool[Tensor, "B T"],
    ) -> "Rows":
        """Put the targets behind their sources.

        Args:
            mask: True at the real tokens of the sources; None if all are.
            wanted: True at the tokens of the targets whose states count.
        """
        steps = torch.arange(target.shape[1], device=target.device)
        needed = torch.where(wanted, steps + 1, 0).amax(1)
        mask = torch.ones_like(source, dtype=torch.bool) if mask is None else mask
        lengths = mask.sum(1)
        source = source.gather(1, (~mask).to(torch.int8).argsort(dim=1, stable=True))  # real tokens first
        places = lengths[:, None] + steps
        size = int((lengths + needed).max())
        ids = source.new_zeros(len(source), source.shape[1] + target.shape[1])
        ids[:, : source.shape[1]] = source
        ids.scatter_(1, places, target.to(ids.dtype))
        counts = torch.zeros_like(ids, dtype=torch.bool).scatter_(1, places, wanted)
        return cls(ids[:, :size], counts[:, :size], places.clamp(max=max(size - 1, 0)))


def states_in_one_pass(
    model: PairModules,
    source: Tensor | None,
    mask: Tensor | None,
    target: Tensor | None,
    target_mask: Tensor | None,
    labels: Int[Tensor, "B T"],
) -> Float[Tensor, "B T D"] | None:
    """Return the decoder's last states where labels count, and any others elsewhere; None if it takes two passes.

    Args:
        source, mask: [B, S], as forward has them; None means that all tokens are real.
        target, target_mask: [B, T], the decoder's; None means that they are made from the labels.
    """
    if source is None or not _reads_as_one(model):
        return None
    if target is None:
        target = model.prepare_decoder_input_ids_from_labels(labels)
        target_mask = label_mask(labels, special_tokens(model.config)) if target_mask is None else target_mask
    shapes = [each.shape for each in (source, target, labels)]
    if any(len(shape) != 2 or shape[0] != shapes[0][0] or not shape.numel() for shape in shapes):
        return None  # what is wrong is told by the other way
    if target.shape != labels.shape or (mask is not None and mask.shape != source.shape):
        return None
    wanted = labels != IGNORED
    if target_mask is not None and (target_mask.shape != labels.shape or _hides(target_mask.bool(), wanted)):
        return None
    check_labels(labels, target, None, model.decoder.spec.vocab_size)
    source, target = as_ids("input_ids", source), as_ids("decoder_input_ids", target)
    assert source is not None and target is not None
    rows = Rows.of(source, None if mask is None else mask.bool(), target, wanted)
    if not rows.ids.numel():
        return None
    states = model.decoder.run(StackInputs(input_ids=rows.ids, wanted=rows.wanted, holds_source=True))
    return states.gather(1, rows.places[:, :, None].expand(-1, -1, states.shape[-1]))


def _hides(mask: Bool[Tensor, "B T"], wanted: Bool[Tensor, "B T"]) -> bool:
    """True if a token is hidden that a wanted state would read."""
    return bool((wanted.flip(1).cummax(1).values.flip(1) & ~mask).any())


def _reads_as_one(model: PairModules) -> bool:
    """True if both halves are one causal language model, and nobody looks at one of them."""
    encoder, decoder = model.encoder, model.decoder
    return (
        model.enc_to_dec_proj is None
        and _is_one_spec(encoder.spec, decoder.spec)
        and _are_same(encoder.embed, decoder.embed)
        and all(_are_same(own, other) for own, other in zip(encoder.blocks, decoder.blocks, strict=False))
        and (encoder.training, encoder.checkpoint_every) == (decoder.training, decoder.checkpoint_every)
        and not any(half.config.output_attentions or half.config.output_hidden_states for half in (encoder, decoder))
        and is_eager(decoder.embed.words.weight)
        and not (has_hooks(encoder) or has_hooks(decoder))
    )


def _is_one_spec(encoder: spec.StackSpec, decoder: spec.StackSpec) -> bool:
    """True if the layers of both halves are alike, and each reads the state that it continues."""
    if not decoder.continues_source or spec.skipped_pads(decoder.embedding.position) is not None:
        return False
    count = encoder.num_layers
    reads = [block.self_attn.source for block in decoder.blocks]
    return (
        encoder.embedding == decoder.embedding
        and encoder.relative_bias == decoder.relative_bias
        and encoder.weights_of == decoder.weights_of[:count]
        and all(isinstance(read, spec.PrefixSource) for read in reads)
        and [encoder.states[read.state] for read in reads if isinstance(read, spec.PrefixSource)]
        == list(range(decoder.num_layers))
        and all(block.causal for block in (*encoder.blocks, *decoder.blocks))
        and all(
            own == replace(other, self_attn=replace(other.self_attn, source=None))
            for own, other in zip(encoder.blocks, decoder.blocks, strict=False)
        )
    )


def _are_same(own: nn.Module, other: nn.Module) -> bool:
    """True if two modules have the same parameters, not merely equal ones."""
    mine, others = dict(own.named_parameters()), dict(other.named_parameters())
    return mine.keys() == others.keys() and all(others[name] is parameter for name, parameter in mine.items())
