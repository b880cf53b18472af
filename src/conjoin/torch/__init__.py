"""The PyTorch backend."""

from conjoin._lazy import public_dir
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.model import EncoderDecoderModel

__all__ = ["Decoder", "Encoder", "EncoderDecoderModel"]

__dir__ = public_dir(__all__)
