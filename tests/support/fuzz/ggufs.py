"""GGUF files: their bytes, the values of their metadata, the tensors that they list."""

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import torch

import gguf_files
from conjoin import AutoTokenizer
from conjoin.torch.pair.halves import Decoder
from fuzz.mutators import change_bytes, changed, mangled
from fuzz.runner import Kind
from tokenizer_samples import BPE_SPM, TEXTS, spm_bytes

_SIZES: dict[str, Any] = {
    "context_length": 512,
    "embedding_length": 8,
    "feed_forward_length": 6,
    "block_count": 1,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.key_length": 4,
    "attention.layer_norm_rms_epsilon": 1e-3,
    "rope.freq_base": 77.0,
    "rope.dimension_count": 4,
}
_SHAPES = {
    "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8), "attn_norm": (8,), "ffn_norm": (8,),
    "ffn_gate": (6, 8), "ffn_up": (6, 8), "ffn_down": (8, 6),
}  # fmt: skip
_WORDS = [
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scale_linear",
    "expert_count", "attention.value_length", "split.count", "general.alignment", "general.architecture",
    "tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.precompiled_charsmap", "tokenizer.chat_template",
    "tokenizer.ggml.padding_token_id", "attention.sliding_window", "decoder_start_token_id",
]  # fmt: skip
_NAME = "model.gguf"


def _metadata() -> dict[str, Any]:
    words = {"model": "llama", **gguf_files.spm_words(spm_bytes(**BPE_SPM))}
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return {**_SIZES, **{f"tokenizer.ggml.{key}": value for key, value in {**words, **ids}.items()}}


def _tensors(rows: int) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    shapes = {f"blk.0.{name}.weight": shape for name, shape in _SHAPES.items()}
    shapes |= {"token_embd.weight": (rows, 8), "output_norm.weight": (8,)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _write(folder: Path) -> None:
    metadata = _metadata()
    rows = len(metadata["tokenizer.ggml.tokens"])
    gguf_files.write(folder / _NAME, "llama", None, metadata, more=_tensors(rows))


def _change(folder: Path, draw: Random) -> None:
    path = folder / _NAME
    match draw.randrange(4):
        case 0:
            change_bytes(path, draw)
        case 1:  # what stands before the numbers
            raw = path.read_bytes()
            place = raw.index(b"token_embd.weight")
            path.write_bytes(mangled(raw[:place], draw) + raw[place:])
        case 2:  # the list of tensors
            raw = path.read_bytes()
            start, end = raw.index(b"blk.0.attn_q.weight"), raw.index(b"output_norm.weight") + 50
            path.write_bytes(raw[:start] + mangled(raw[start:end], draw) + raw[end:])
        case _:
            _change_values(path, draw)


def _change_values(path: Path, draw: Random) -> None:
    tensors = _tensors(len(_metadata()["tokenizer.ggml.tokens"]))
    if draw.random() < 0.2:
        del tensors[draw.choice(list(tensors))]
    metadata: Any = changed(_metadata(), draw, words=_WORDS)
    writer = gguf.GGUFWriter(path, draw.choice(("llama", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "t5")))
    for key, value in metadata.items():
        named = key if key.startswith(("tokenizer.", "general.", "split.")) else f"{writer.arch}.{key}"
        kind = gguf.GGUFValueType.get_type(value)
        if kind == gguf.GGUFValueType.INT32 and not -(2**31) <= value < 2**31:
            kind = gguf.GGUFValueType.INT64
        writer.add_key_value(named, value, kind)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _use(folder: Path) -> None:
    tempfile.tempdir = str(folder)  # where the file is unpacked, which is the case's own then
    path = folder / _NAME
    model = Decoder.from_pretrained(path)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), f"{name} has numbers that are not finite"
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    tokenizer = AutoTokenizer.from_pretrained(path)
    for text in TEXTS[::8]:
        tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


KINDS = (Kind("gguf", _write, _change, _use),)
