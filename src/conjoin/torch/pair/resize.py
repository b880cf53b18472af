"""Change vocabulary sizes: those of token embeddings, heads, biases and configs of either half."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conjoin import spec as specs
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError
from conjoin.families import Role, family
from conjoin.join import is_quantized, shared_names
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.pair.halves import Decoder, Half
from conjoin.torch.pair.modules import PairModules
from conjoin.torch.pair.shrinking import require_ids_kept

NewRows = Literal["mean", "normal"]


def resize(
    model: PairModules,
    new_num_tokens: int | None,
    pad_to_multiple_of: int | None,
    encoder: int | None,
    decoder: int | None,
    new_rows: NewRows,
) -> None:
    """See EncoderDecoderModel.resize_token_embeddings."""
    if is_quantized(model.config):
        raise ConfigError(
            "This model is in 8 bits, and new words would need training.",
            hint="resize the model that it was made of, train it, then call quantize('int8').",
        )
    shares_table = _shares_table(model)
    sizes = _sizes(new_num_tokens, encoder, decoder, shares_table=shares_table)
    if pad_to_multiple_of:
        sizes: dict[Role, int] = {
            role: -(-size // pad_to_multiple_of) * pad_to_multiple_of for role, size in sizes.items()
        }
    require_ids_kept(model, sizes)
    for role, size in sizes.items():
        half = model.encoder if role == "encoder" else model.decoder
        _resize_half(half, size, new_rows)
        kind, joined = family(half.config.model_type), isinstance(model.config, EncoderDecoderConfig)
        for name in kind.vocab_size.values() if joined else (kind.vocab_size[role],):
            setattr(kind.half(half.config, role), name, size)
        if not joined and kind.half(half.config, role) is not half.config:
            half.config.vocab_size = size
        model.spec = replace(model.spec, **{role: half.spec})
    if shares_table:
        model.decoder.embed.words.weight = model.encoder.embed.words.weight
    model.join_report = replace(model.join_report, parameters=specs.pair_parameters(model.spec))


def _shares_table(model: PairModules) -> bool:
    declared = "embed.words.weight" in shared_names(model.spec)
    return declared and model.encoder.embed.words.weight is model.decoder.embed.words.weight


def _sizes(both: int | None, encoder: int | None, decoder: int | None, *, shares_table: bool) -> dict[Role, int]:
    sizes: dict[Role, int] = {}
    if encoder is not None:
        sizes["encoder"] = encoder
    if decoder is not None:
        sizes["decoder"] = decoder
    if (both is None) == (not sizes):
        raise ConfigError(
            "resize_token_embeddings: no size is given." if both is None else "Two kinds of size are given.",
            hint="model.resize_token_embeddings(encoder=len(source_tokenizer), decoder=len(target_tokenizer))",
        )
    if both is not None and not shares_table:
        raise ConfigError(
            f"resize_token_embeddings({both}): the halves have a vocabulary each; one number does not say whose.",
            hint=f"model.resize_token_embeddings(encoder={both}) or decoder={both}, or both.",
        )
    if both is not None or (shares_table and len(set(sizes.values())) == 1):
        size = both if both is not None else next(iter(sizes.values()))
        sizes = {"encoder": size, "decoder": size}
    elif shares_table:
        raise ConfigError(f"The halves share one word table; it cannot have both {encoder} and {decoder} rows.")
    too_small = [f"{role} = {size}" for role, size in sizes.items() if size < 1]
    if too_small:
        raise ConfigError(f"resize_token_embeddings: {', '.join(too_small)}; expected 1 or more.")
    return sizes


@torch.no_grad()
def _resize_half(half: Half, size: int, new_rows: NewRows) -> None:
    half.spec = half.spec.with_vocab_size(size)
    parameters = specs.stack_parameters(half.spec)
    embed = half.embed
    embed.kind = half.spec.embedding
    embed.words.weight = _resized(embed.words.weight, size, parameters["embed.words.weight"], new_rows)
    embed.words.num_embeddings = size
    if not isinstance(half, Decoder):
        return
    head = half.head
    assert half.spec.head is not None
    head.kind = half.spec.head
    if isinstance(head.vocab, Linear):
        head.vocab.weight = _resized(head.vocab.weight, size, parameters["head.vocab.weight"], new_rows)
        head.vocab.out_features = size
    if head.bias is not None:
        rows: NewRows = new_rows if head.kind.bias == "trained" else "normal"
        head.bias = _resized(head.bias, size, parameters["head.bias"], rows)


def _resized(old: Tensor, size: int, kind: specs.Parameter, new_rows: NewRows) -> nn.Parameter:
    new = old.new_empty(size, *old.shape[1:])
    common = min(size, len(old))
    new[:common] = old[:common]
    new[common:] = _mean(old) if new_rows == "mean" else torch.empty_like(new[common:]).normal_(kind.start, kind.std)
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _mean(old: Float[Tensor, "V *C"]) -> Float[Tensor, "*C"]:
    return old.float().mean(0).to(old.dtype)
