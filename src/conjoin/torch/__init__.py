"""The PyTorch backend."""

from conjoin.torch.halves import Decoder, Encoder
from conjoin.torch.model import EncoderDecoderModel

__all__ = ["Decoder", "Encoder", "EncoderDecoderModel"]
