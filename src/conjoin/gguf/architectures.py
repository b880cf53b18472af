"""llama.cpp's architectures in Hugging Face's words: config.json, names of tensors, and what was changed in them.

Facts are from llama.cpp: convert_hf_to_gguf.py writes these files, and src/llama-model.cpp reads them.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from conjoin.errors import ConfigError, warn
from conjoin.gguf.header import Header

_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA2 = {
    **_LLAMA,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_T5_ENDS = {
    "token_embd": "shared",
    "output": "lm_head",
    "enc.output_norm": "encoder.final_layer_norm",
    "dec.output_norm": "decoder.final_layer_norm",
}
_T5_ATTENTION = {**{letter: letter for letter in "qkvo"}, "rel_b": "relative_attention_bias"}
_T5_MLP = {"gate": "wi_0", "up": "wi", "down": "wo"}
_FREQUENCIES = "rope_freqs.weight"
"""Llama 3.1's scaling, a factor for every frequency."""
_WITHOUT_EFFECT = (
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "tensor_data_layout",
    "embedding_scale",
    "pooling_type",
)
"""Keys of an architecture that change nothing that is computed here, besides those that `_Words` reads."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """One tensor in Hugging Face's words.

    Args:
        heads: Not 0: rows of each of so many heads are interleaved; llama.cpp turns neighbours, transformers halves.
        offset: To be added to every number: Gemma's norms are stored as what they multiply with, 1 more.
    """

    name: str
    heads: int = 0
    offset: float = 0.0


class _Words:
    """The metadata of an architecture, which notes what has been read."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._prefix = f"{header.architecture}."
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value; a list that holds the same number for every layer counts as this number.

        Numbers are float32, and written as short as they can be: 1e-05, not 9.999999747378752e-06.
        """
        self._read.add(key)
        value: Any = self.header.metadata.get(self._prefix + key, default)
        if isinstance(value, list):
            if len(set(cast("list[Any]", value))) != 1:
                raise ConfigError(f"{self.header.path}: {self._prefix}{key} differs from layer to layer.")
            value = cast("list[Any]", value)[0]
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, key: str) -> Any:
        """Return a value that every such file has."""
        if (value := self.get(key)) is None:
            raise ConfigError(f"{self.header.path}: no {self._prefix}{key} in its metadata.")
        return value

    def unread(self) -> list[str]:
        """Return the keys that nothing has asked for."""
        names = [n.removeprefix(self._prefix) for n in self.header.metadata if n.startswith(self._prefix)]
        return [name for name in names if name not in self._read and name not in _WITHOUT_EFFECT]


def config_of(header: Header) -> dict[str, Any]:
    """Return the config.json of a file's model.

    Raises:
        ConfigError: an architecture that is not read, or metadata that it does not allow.
    """
    if header.architecture not in _CONFIGS:
        raise ConfigError(
            f"{header.path}: conjoin does not read general.architecture = {header.architecture!r} from GGUF files.\n"
            f"Expected one of: {', '.join(sorted(_CONFIGS))}.",
            hint="take the model's original checkpoint, a folder with config.json, if `conjoin families` lists it",
        )
    words = _Words(header)
    if words.get("expert_count", 0):
        raise ConfigError(
            f"{header.path}: a mixture of {words.get('expert_count')} experts, which no family of conjoin is."
        )
    config = {**_CONFIGS[header.architecture](words), **_special_ids(header)}
    if unread := words.unread():
        warn(
            f"{header.path}: its metadata has settings that conjoin does not know and leaves out: {', '.join(unread)}."
        )
    return config


def renaming(header: Header) -> dict[str, Renaming]:
    """Return the file's tensors in Hugging Face's words, by their names in the file.

    Names that the architecture does not have are kept, and count as unused; rope_freqs is part of the config.
    """
    rename = _t5_name if header.architecture in ("t5", "t5encoder") else _decoder_name
    return {name: rename(header, name) for name in header.tensors if name != _FREQUENCIES}


def _decoder_name(header: Header, name: str) -> Renaming:
    kind = header.architecture
    stem, _, end = name.rpartition(".")
    offset = -1.0 if kind.startswith("gemma") and stem.endswith("norm") else 0.0
    if stem in _ENDS:
        return Renaming(f"{_ENDS[stem]}.{end}", offset=offset)
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    names = _GEMMA2 if kind in ("gemma2", "gemma3") else _LLAMA
    if found is None or found[2] not in names:
        return Renaming(name)
    heads = 0
    if kind == "llama" and found[2] in ("attn_q", "attn_k"):
        words = _Words(header)
        count = words.need("attention.head_count")
        heads = count if found[2] == "attn_q" else words.get("attention.head_count_kv", count)
    return Renaming(f"model.layers.{found[1]}.{names[found[2]]}.{end}", heads, offset)


def _t5_name(header: Header, name: str) -> Renaming:
    stem, _, end = name.rpartition(".")
    if stem in _T5_ENDS:
        return Renaming(f"{_T5_ENDS[stem]}.{end}")
    found = re.fullmatch(r"(enc|dec)\.blk\.(\d+)\.(cross_)?(attn|ffn)_(\w+)", stem)
    if found is None:
        return Renaming(name)
    half, layer, cross, branch, part = found.groups()
    if part == "norm":
        inner = "layer_norm"
    elif branch == "attn" and part in _T5_ATTENTION:
        inner = f"{'EncDecAttention' if cross else 'SelfAttention'}.{_T5_ATTENTION[part]}"
    elif branch == "ffn" and part in _T5_MLP:
        gated = f"{half}.blk.{layer}.ffn_gate.{end}" in header.tensors
        inner = f"DenseReluDense.{'wi_1' if gated and part == 'up' else _T5_MLP[part]}"
    else:
        return Renaming(name)
    place = 2 if branch == "ffn" and half == "dec" else 1 if branch == "ffn" or cross else 0
    return Renaming(f"{half}oder.block.{layer}.layer.{place}.{inner}.{end}")


def _decoder(words: _Words) -> dict[str, Any]:
    """Return what all families built on Llama have."""
    heads, width = words.need("attention.head_count"), words.need("embedding_length")
    words.get("vocab_size")
    size = words.get("attention.key_length") or words.get("rope.dimension_count") or width // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := words.get(key, size)) != size:
            raise ConfigError(f"{words.header.path}: {key} = {other}, but heads of {size}; expected the same.")
    return {
        "vocab_size": _rows(words.header, "token_embd.weight"),
        "hidden_size": width,
        "intermediate_size": words.need("feed_forward_length"),
        "num_hidden_layers": words.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": words.get("attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": words.need("context_length"),
        "rms_norm_eps": words.need("attention.layer_norm_rms_epsilon"),
        "rope_theta": words.get("rope.freq_base", 10000.0),
        "rope_scaling": _scaling(words),
        "tie_word_embeddings": "output.weight" not in words.header.tensors,
    }


def _llama(words: _Words) -> dict[str, Any]:
    biased = "blk.0.attn_q.bias" in words.header.tensors
    return {**_decoder(words), "model_type": "llama", "attention_bias": biased}


def _qwen(words: _Words) -> dict[str, Any]:
    return {**_decoder(words), "model_type": words.header.architecture}


def _gemma(words: _Words) -> dict[str, Any]:
    return {**_decoder(words), "model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}


def _gemma2(words: _Words) -> dict[str, Any]:
    config = _decoder(words)
    more = {
        "model_type": "gemma2",
        "query_pre_attn_scalar": _queries(config, large=46),
        "attn_logit_softcapping": words.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": words.get("final_logit_softcapping", 30.0),
        "sliding_window": words.get("attention.sliding_window", 4096),
    }
    return {**config, **more}


def _gemma3(words: _Words) -> dict[str, Any]:
    config = _decoder(words)
    more = {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": _queries(config, large=62),
        "rope_theta": words.get("rope.freq_base", 1e6),
        "rope_local_base_freq": words.get("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": words.get("final_logit_softcapping"),
        "sliding_window": words.get("attention.sliding_window", 1024),
        "sliding_window_pattern": words.get("attention.sliding_window_pattern", 6),
    }
    return {**config, **more}


def _queries(config: Mapping[str, Any], large: int) -> float:
    """Return what queries are scaled by the root of, which files leave out: it differs in the 27B models alone."""
    if config["num_hidden_layers"] == large:
        return config["hidden_size"] / config["num_attention_heads"]
    return config["head_dim"]


def _t5(words: _Words) -> dict[str, Any]:
    tensors = words.header.tensors
    for known_otherwise in ("vocab_size", "attention.head_count_kv", "attention.value_length"):
        words.get(known_otherwise)
    gated = any(name.endswith("ffn_gate.weight") for name in tensors)
    layers = words.need("block_count")
    epsilon = words.get("attention.layer_norm_rms_epsilon")
    other = words.get("attention.layer_norm_epsilon", 1e-6)
    return {
        "model_type": "umt5" if "enc.blk.1.attn_rel_b.weight" in tensors else "t5",
        "vocab_size": _rows(words.header, "token_embd.weight"),
        "d_model": words.need("embedding_length"),
        "d_kv": words.need("attention.key_length"),
        "d_ff": words.need("feed_forward_length"),
        "num_layers": layers,
        "num_decoder_layers": words.get("decoder_block_count", layers),
        "num_heads": words.need("attention.head_count"),
        "n_positions": words.get("context_length", 512),
        "relative_attention_num_buckets": words.get("attention.relative_buckets_count", 32),
        "layer_norm_epsilon": other if epsilon is None else epsilon,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": "output.weight" not in tensors,
        "decoder_start_token_id": words.get("decoder_start_token_id", 0),
    }


_CONFIGS: dict[str, Callable[[_Words], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "t5": _t5,
    "t5encoder": _t5,
}


def _rows(header: Header, name: str) -> int:
    if name not in header.tensors:
        raise ConfigError(f"{header.path}: no tensor {name} in the file.")
    return header.tensors[name].shape[0]


def _special_ids(header: Header) -> dict[str, int | None]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {name: header.metadata.get(f"tokenizer.ggml.{word}_token_id") for name, word in names.items()}


def _scaling(words: _Words) -> dict[str, Any] | None:
    """Return how the frequencies of rotary positions are scaled."""
    kind, factor = words.get("rope.scaling.type", "none"), words.get("rope.scaling.factor")
    original = words.get("rope.scaling.original_context_length")
    if _FREQUENCIES in words.header.tensors:
        return _llama3_scaling(words)
    match kind:
        case "none":
            # Older files have the factor alone, which then is linear.
            linear = words.get("rope.scale_linear")
            return None if linear in (None, 1.0) else {"rope_type": "linear", "factor": linear}
        case "linear" if factor is not None:
            return {"rope_type": "linear", "factor": factor}
        case "yarn" if factor is not None and original is not None:
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        case _:
            found = f"rope.scaling.type = {kind!r}, factor {factor}, original_context_length {original}"
            raise ConfigError(
                f"{words.header.path}: {found}.\n"
                "Expected none; linear with a factor; or yarn with a factor and the original length."
            )


def _llama3_scaling(words: _Words) -> dict[str, Any]:
    """Return Llama 3.1's scaling, whose numbers the file has only as a factor of every frequency.

    Raises:
        ConfigError: the factors are others.
    """
    header, stored = words.header, words.header.tensors[_FREQUENCIES]
    if stored.kind != "F32":
        raise ConfigError(f"{header.path}: {_FREQUENCIES} is of type {stored.kind}; expected F32.")
    with open(header.path, "rb") as file:
        file.seek(stored.start)
        factors = struct.unpack(f"<{stored.length // 4}f", file.read(stored.length))
    found = {"rope_type": "llama3", "factor": max(factors), **_LLAMA3}
    base, size = words.get("rope.freq_base", 10000.0), 2 * len(factors)
    expected = [_llama3_factor(base ** (-2 * place / size), found) for place in range(len(factors))]
    if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(factors, expected, strict=True)):
        raise ConfigError(f"{header.path}: {_FREQUENCIES} is not Llama 3.1's scaling by {max(factors)}, as expected.")
    return found


_LLAMA3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The same in all of Llama 3.1, 3.2 and 3.3."""


def _llama3_factor(frequency: float, scaling: Mapping[str, Any]) -> float:
    """Return what a frequency is divided by (Llama 3.1's apply_scaling)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
    if turns > high:
        return 1.0
    if turns < low:
        return scaling["factor"]
    smooth = (turns - low) / (high - low)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)
