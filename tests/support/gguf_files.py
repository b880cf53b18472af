"""GGUF files of a checkpoint's tensors, as llama.cpp's convert_hf_to_gguf.py writes them."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

DECODER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
SANDWICH = {
    **DECODER,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
T5 = {
    "shared": "token_embd",
    "lm_head": "output",
    "encoder.final_layer_norm": "enc.output_norm",
    "decoder.final_layer_norm": "dec.output_norm",
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.EncDecAttention.q": "cross_attn_q",
    "layer.1.EncDecAttention.k": "cross_attn_k",
    "layer.1.EncDecAttention.v": "cross_attn_v",
    "layer.1.EncDecAttention.o": "cross_attn_o",
    **{f"layer.{place}.DenseReluDense.wi": "ffn_up" for place in (1, 2)},
    **{f"layer.{place}.DenseReluDense.wi_0": "ffn_gate" for place in (1, 2)},
    **{f"layer.{place}.DenseReluDense.wi_1": "ffn_up" for place in (1, 2)},
    **{f"layer.{place}.DenseReluDense.wo": "ffn_down" for place in (1, 2)},
}


def theirs(architecture: str, name: str) -> str:
    """The name that llama.cpp gives a tensor."""
    stem, _, end = name.rpartition(".")
    table = T5 if architecture == "t5" else SANDWICH if architecture in ("gemma2", "gemma3") else DECODER
    if stem in table:
        return f"{table[stem]}.{end}"
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
        return f"blk.{found[1]}.{table[found[2]]}.{end}"
    found = re.fullmatch(r"(enc|dec)oder\.block\.(\d+)\.(.+)", stem)
    assert found is not None, name
    norms = {"enc": ("attn_norm", "ffn_norm"), "dec": ("attn_norm", "cross_attn_norm", "ffn_norm")}[found[1]]
    norm = re.fullmatch(r"layer\.(\d)\.layer_norm", found[3])
    return f"{found[1]}.blk.{found[2]}.{norms[int(norm[1])] if norm else table[found[3]]}.{end}"


def changed(architecture: str, name: str, array: Any, heads: tuple[int, int]) -> Any:
    """A tensor as llama.cpp stores it."""
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    turned = {".q_proj.": heads[0], ".k_proj.": heads[1]} if architecture == "llama" else {}
    for part, count in turned.items():
        if part in name:
            return array.reshape(count, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    return array


def write(
    file: Path,
    architecture: str,
    folder: Path | None,
    metadata: dict[str, Any],
    *,
    kind: Kind = Kind.F32,
    heads: tuple[int, int] = (1, 1),
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a GGUF file; returns the arrays that it holds, decoded, by llama.cpp's names.

    Args:
        folder: Of the checkpoint; None: no tensors but `more`.
        metadata: Without a dot in front: keys of the architecture; others as they are.
        kind: Of matrices; vectors are float32.
        more: Other tensors.
    """
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in metadata.items():
        _add(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    held: dict[str, Any] = {}
    tensors = load_file(folder / "model.safetensors") if folder else {}
    arrays = {theirs(architecture, n): changed(architecture, n, a, heads) for n, a in tensors.items()}
    for name, array in {**arrays, **(more or {})}.items():
        stored = kind if array.ndim > 1 else Kind.F32
        raw = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), stored)
        writer.add_tensor(name, raw, raw_dtype=stored)
        held[name] = gguf.quants.dequantize(raw, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def spm_words(model: bytes) -> dict[str, Any]:
    """The metadata of a SentencePiece model's vocabulary."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    words: dict[str, Any] = {
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "token_type": [piece.type for piece in proto.pieces],
        "add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
        "remove_extra_whitespaces": proto.normalizer_spec.remove_extra_whitespaces,
    }
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        words["precompiled_charsmap"] = list(charsmap)
    return words


def byte_level_words(vocab: dict[str, int], merges: str, special: set[str]) -> dict[str, Any]:
    """The metadata of a byte-level BPE."""
    tokens = sorted(vocab, key=vocab.__getitem__)
    lines = [line for line in merges.splitlines() if line and not line.startswith("#version")]
    return {"tokens": tokens, "merges": lines, "token_type": [3 if token in special else 1 for token in tokens]}
