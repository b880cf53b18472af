"""The modules of a joined model: two halves and the projection between them."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from conjoin import spec as specs
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig
from conjoin.join import require_pad, require_start, starts_with_last_label
from conjoin.pretrained import JoinedModel
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.row_counts import over_rounded_rows
from conjoin.torch.model.loss import IGNORED, shift_right, wrap_right
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.pretrained import Pretrained


class PairModules(JoinedModel, Pretrained):
    """The part of an EncoderDecoderModel that its functions read and change."""

    encoder: Encoder
    decoder: Decoder
    enc_to_dec_proj: nn.Linear | None

    def _build(self, config: PretrainedConfig, pair: specs.PairSpec) -> None:
        """Build the modules on the meta device: shapes without storage."""
        self.config = config
        self.spec = pair
        joined = isinstance(config, EncoderDecoderConfig)
        with torch.device("meta"):
            self.encoder = Encoder(config.encoder if joined else config, pair.encoder)
            self.decoder = Decoder(config.decoder if joined else config, pair.decoder)
            sizes = (pair.encoder.hidden_size, pair.decoder.source_size)
            self.enc_to_dec_proj = Linear(*sizes) if pair.projection else None

    def project(self, encoder_hidden_states: Tensor | None) -> Tensor | None:
        """Return the encoder's output in the width that the decoder reads."""
        if self.enc_to_dec_proj is None or encoder_hidden_states is None:
            return encoder_hidden_states
        return over_rounded_rows(self.enc_to_dec_proj, encoder_hidden_states)

    def prepare_decoder_input_ids_from_labels(
        self, labels: Int[Tensor, "B T"], segment_ids: Int[Tensor, "B T"] | None = None
    ) -> Int[Tensor, "B T"]:
        """Return the decoder inputs: start id, then labels[:-1] with -100 replaced by the pad id, in every segment.

        A whole mBART checkpoint starts with the last label of the target, its language code, instead.

        Raises:
            ConfigError: the start id is unknown, or the pad id is unknown and needed.
        """
        if starts_with_last_label(self.config):
            return wrap_right(labels, require_pad(self.config), segment_ids)
        ignored = bool((labels == IGNORED).any())
        pad = require_pad(self.config) if ignored else 0
        return shift_right(labels, require_start(self.config), pad, segment_ids)

    def get_encoder(self) -> Encoder:
        """Return the half that reads the source."""
        return self.encoder

    def get_decoder(self) -> Decoder:
        """Return the half that writes the target."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's token embedding."""
        return self.encoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the module whose weight is the decoder's vocabulary matrix."""
        return self.decoder.get_output_embeddings()
