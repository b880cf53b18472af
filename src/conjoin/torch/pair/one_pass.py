"""A causal language model that was joined to itself learns in one pass over each source and its target.

Its decoder reads, layer by layer, what its encoder makes of the source (decision 41). While both have the same weights,
that is what the language model makes of the source before the target, in one row. Two passes compute the same, but read
the weights twice, and make keys and values of the source twice (decision 52).
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.join import special_tokens
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.model.checks import as_ids, check_labels
from conjoin.torch.model.loss import IGNORED, hides_inputs, label_mask
from conjoin.torch.model.route import has_hooks
from conjoin.torch.model.stack_inputs import StackInputs
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.modules import PairModules


def counted_states(
    model: PairModules,
    source: Tensor | None,
    mask: Tensor | None,
    target: Tensor | None,
    target_mask: Tensor | None,
    labels: Int[Tensor, "B T"],
) -> Float[Tensor, "N D"] | None:
    """Return the decoder's last states at the labels that count, row by row; None if that takes two passes.

    Args:
        source, mask: [B, S], as forward has them; None means that all tokens are real.
        target, target_mask: [B, T], the decoder's; None means that they are made from the labels.
    """
    if source is None or not _learns_as_one(model):
        return None
    if target is None:
        target = model.prepare_decoder_input_ids_from_labels(labels)
        target_mask = label_mask(labels, special_tokens(model.config)) if target_mask is None else target_mask
    if source.dim() != 2 or target.shape != labels.shape or len(source) != len(target) or not source.numel():
        return None  # what is wrong is told on the other way
    if any(m is not None and m.shape != ids.shape for m, ids in ((mask, source), (target_mask, target))):
        return None
    if target_mask is not None and hides_inputs(target_mask.bool(), labels):
        return None
    check_labels(labels, target, None, model.decoder.spec.vocab_size)
    source, target = as_ids("input_ids", source), as_ids("decoder_input_ids", target)
    assert source is not None and target is not None
    ids, wanted = _rows(source, None if mask is None else mask.bool(), target, labels != IGNORED)
    if not ids.numel():
        return None
    return model.decoder.run(StackInputs(input_ids=ids, wanted=wanted, holds_source=True))[wanted]


def _rows(
    source: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"] | None,
    target: Int[Tensor, "B T"],
    counted: Bool[Tensor, "B T"],
) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Return rows of sources with the targets behind their real tokens, as long as needed; and where they count."""
    steps = torch.arange(target.shape[1], device=target.device)
    needed = torch.where(counted, steps + 1, 0).amax(1)
    mask = torch.ones_like(source, dtype=torch.bool) if mask is None else mask
    lengths = mask.sum(1)
    source = source.gather(1, (~mask).to(torch.int8).argsort(dim=1, stable=True))  # real tokens first
    ids = torch.cat((source, source.new_zeros(target.shape)), 1)
    places, size = lengths[:, None] + steps, int((lengths + needed).max())
    ids = ids.scatter(1, places, target.to(ids.dtype))
    return ids[:, :size], torch.zeros_like(ids, dtype=torch.bool).scatter(1, places, counted)[:, :size]


def _learns_as_one(model: PairModules) -> bool:
    """True if both halves are one causal language model in training, and nobody looks at one of them."""
    encoder, decoder = model.encoder, model.decoder
    return (
        torch.is_grad_enabled()
        and is_eager(decoder.embed.words.weight)
        and model.enc_to_dec_proj is None
        and _is_one_spec(encoder.spec, decoder.spec)
        and _are_same(encoder.embed, decoder.embed)
        and all(_are_same(own, other) for own, other in zip(encoder.blocks, decoder.blocks, strict=False))
        and (encoder.training, encoder.checkpoint_every) == (decoder.training, decoder.checkpoint_every)
        and not any(_is_watched(half) for half in (encoder, decoder))
    )


def _is_watched(half: Encoder | Decoder) -> bool:
    """True if somebody sees what this half, or a part of it, computes, or computes it otherwise."""
    own, replaced = vars(half), ("forward", "_compiled_call_impl")
    return (
        half.config.output_attentions
        or half.config.output_hidden_states
        or has_hooks(half)
        or any(vars(each)["_backward_hooks"] or vars(each)["_backward_pre_hooks"] for each in half.modules())
        or any(own.get(name) is not None for name in replaced)
    )


def _is_one_spec(encoder: spec.StackSpec, decoder: spec.StackSpec) -> bool:
    """True if the layers of both halves are alike, and each reads the state that it continues."""
    if not decoder.continues_source or spec.skipped_pads(decoder.embedding.position) is not None:
        return False
    count = encoder.num_layers
    reads = [block.self_attn.source for block in decoder.blocks]
    return (
        encoder.embedding == decoder.embedding
        and not encoder.final_dropout
        and (encoder.relative_bias, encoder.relative_table) == (decoder.relative_bias, decoder.relative_table)
        and encoder.weights_of == decoder.weights_of[:count]
        and [encoder.states[read.state] for read in reads if isinstance(read, spec.PrefixSource)]
        == list(range(decoder.num_layers))
        and all(block.causal for block in (*encoder.blocks, *decoder.blocks))
        and all(
            own == replace(other, self_attn=replace(other.self_attn, source=None))
            for own, other in zip(encoder.blocks, decoder.blocks, strict=False)
        )
    )


def _are_same(own: nn.Module, other: nn.Module) -> bool:
    """True if two modules have the same parameters, not merely equal ones; replicas and shards have none to compare."""
    mine, others = dict(own.named_parameters()), dict(other.named_parameters())
    return bool(mine) and mine.keys() == others.keys() and all(others[name] is each for name, each in mine.items())
