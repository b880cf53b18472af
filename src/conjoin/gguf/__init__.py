"""llama.cpp's GGUF files in Hugging Face's words: config.json, tokenizer files and the names of tensors."""

from conjoin._lazy import public_dir
from conjoin.gguf.architectures import Renaming, renaming
from conjoin.gguf.header import SUFFIX, Header, Stored, read_header
from conjoin.gguf.unpack import WEIGHTS, unpacked

__all__ = ["SUFFIX", "WEIGHTS", "Header", "Renaming", "Stored", "read_header", "renaming", "unpacked"]

__dir__ = public_dir(__all__)
