"""Other vocabulary sizes: word tables, heads, biases and configs of either half follow."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conjoin import spec as specs
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig, Role
from conjoin.join import JoinReport, shared_names
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.quantization import is_quantized
from conjoin.torch.pair.halves import Decoder, Encoder, Half
from conjoin.torch.pair.shrinking import require_ids_kept

NewRows = Literal["mean", "normal"]


class Resizing(nn.Module):
    """A pair whose vocabularies can grow and shrink."""

    config: PretrainedConfig
    spec: specs.PairSpec
    encoder: Encoder
    decoder: Decoder
    join_report: JoinReport

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        *,
        encoder: int | None = None,
        decoder: int | None = None,
        new_rows: NewRows = "mean",
    ) -> nn.Module:
        """Change how many words either half knows. Optimizers made before must be made anew.

        Where the halves share one word table, both change whichever is named.

        Args:
            new_num_tokens: For halves that share one word table.
            pad_to_multiple_of: Round the sizes up to a multiple of this; tensor cores like 64.
            encoder, decoder: New size of that half's vocabulary, as `len(tokenizer)`.
            new_rows: Start of added rows: the mean of the old ones (Hewitt 2021, "Initializing New Word Embeddings for
                Pretrained Language Models", as in transformers), or drawn as the half's fresh tables are.

        Returns:
            The encoder's word table.

        Raises:
            ConfigError: no size, one size for two separate tables, or different sizes for a shared one; an 8-bit model;
                a size that leaves out an id which the model itself writes or reads.
        """
        if is_quantized(self.config):
            raise ConfigError(
                "This model is in 8 bits, and new words would need training.",
                hint="resize the model that it was made of, train it, then call quantize('int8').",
            )
        sizes = self._sizes(new_num_tokens, encoder, decoder)
        if pad_to_multiple_of:
            sizes: dict[Role, int] = {
                role: -(-size // pad_to_multiple_of) * pad_to_multiple_of for role, size in sizes.items()
            }
        require_ids_kept(self, sizes)
        shares_words = self._shares_words
        for role, size in sizes.items():
            half = self.encoder if role == "encoder" else self.decoder
            _resize_half(half, size, new_rows)
            half.config.vocab_size = size
            self.spec = replace(self.spec, **{role: half.spec})
        if not isinstance(self.config, EncoderDecoderConfig):
            self.config.vocab_size = next(iter(sizes.values()), self.config.vocab_size)
        if shares_words:
            self.decoder.embed.words.weight = self.encoder.embed.words.weight
        self.join_report = replace(self.join_report, parameters=specs.pair_parameters(self.spec))
        return self.encoder.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's word table."""
        return self.encoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The layer whose weight is the decoder's vocabulary matrix."""
        return self.decoder.get_output_embeddings()

    @property
    def _shares_words(self) -> bool:
        declared = "embed.words.weight" in shared_names(self.spec)
        return declared and self.encoder.embed.words.weight is self.decoder.embed.words.weight

    def _sizes(self, both: int | None, encoder: int | None, decoder: int | None) -> dict[Role, int]:
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
        if both is not None and not self._shares_words:
            raise ConfigError(
                f"resize_token_embeddings({both}): the halves have a vocabulary each; one number does not say whose.",
                hint=f"model.resize_token_embeddings(encoder={both}) or decoder={both}, or both.",
            )
        if both is not None or (self._shares_words and len(set(sizes.values())) == 1):
            size = both if both is not None else next(iter(sizes.values()))
            sizes = {"encoder": size, "decoder": size}
        elif self._shares_words:
            raise ConfigError(f"The halves share one word table; it cannot have both {encoder} and {decoder} rows.")
        wrong = [f"{role} = {size}" for role, size in sizes.items() if size < 1]
        if wrong:
            raise ConfigError(f"resize_token_embeddings: {', '.join(wrong)}; expected 1 or more.")
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
    kept = min(size, len(old))
    new[:kept] = old[:kept]
    new[kept:] = _mean(old) if new_rows == "mean" else torch.empty_like(new[kept:]).normal_(kind.start, kind.std)
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _mean(old: Float[Tensor, "V *C"]) -> Float[Tensor, "*C"]:
    return old.float().mean(0).to(old.dtype)
