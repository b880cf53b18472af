"""GGUF files are read as the checkpoints that they were made of: config, names, layouts, numbers and words."""

import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from typer.testing import CliRunner

import gguf_files
import oracle
from conjoin import AutoConfig, AutoTokenizer, EncoderDecoderModel
from conjoin.checkpoint import open_checkpoint, resolve
from conjoin.cli import app
from conjoin.errors import ConfigError, ConjoinError, ConjoinWarning, FileError, MissingBackend, WeightError
from conjoin.families import MODULES
from conjoin.torch.pair.halves import Decoder
from pairs import CLOSE

SIZES: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 12,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "bos_token_id": 5,
    "eos_token_id": 7,
    "pad_token_id": 3,
}
KEYS: dict[str, Any] = {
    "context_length": 64,
    "embedding_length": 12,
    "feed_forward_length": 29,
    "block_count": 3,
    "attention.head_count": 6,
    "attention.head_count_kv": 3,
    "attention.key_length": 8,
    "attention.value_length": 8,
    "attention.layer_norm_rms_epsilon": 1e-3,
    "rope.freq_base": 77.0,
    "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.eos_token_id": 7,
    "tokenizer.ggml.padding_token_id": 3,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
GEMMA = {**SIZES, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8}
# model_type, transformers' fields, llama.cpp's architecture and keys
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "llama": ("llama", {**SIZES, **ROPE}, "llama", {**KEYS, "rope.dimension_count": 8}),
    "llama/linear": (
        "llama",
        {**SIZES, "rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 3.0}},
        "llama",
        {**KEYS, "rope.scaling.type": "linear", "rope.scaling.factor": 3.0},
    ),
    "qwen2": (
        "qwen2",
        {**SIZES, **ROPE, "hidden_size": 48, "tie_word_embeddings": True},
        "qwen2",
        {**KEYS, "embedding_length": 48},
    ),
    "qwen3": ("qwen3", {**SIZES, **ROPE}, "qwen3", KEYS),
    "gemma": (
        "gemma",
        {**SIZES, **ROPE, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
        "gemma",
        KEYS,
    ),
    "gemma2": (
        "gemma2",
        {**GEMMA, **ROPE, "sliding_window": 3, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0},
        "gemma2",
        {**KEYS, "attention.sliding_window": 3, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0},
    ),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "sliding_window": 3,
            "layer_types": ["sliding_attention"] * 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 77.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        "gemma3",
        {**KEYS, "attention.sliding_window": 3},
    ),
}  # fmt: skip
HERE = [name for name, (kind, *_) in CASES.items() if kind in MODULES]


def made(name: str, folder: Path, keys: dict[str, Any] | None = None, **how: Any) -> tuple[Any, Path]:
    """transformers' model, and a GGUF file of its tensors, with some other keys."""
    kind, fields, architecture, usual = CASES[name]
    theirs = oracle.save_config_of(kind, fields, folder / "theirs")
    file = folder / "model-name.gguf"
    gguf_files.write(file, architecture, folder / "theirs", {**usual, **(keys or {})}, heads=(6, 3), **how)
    return theirs, file


@pytest.mark.parametrize("name", HERE)
def test_a_decoder_computes_what_its_original_does(name: str, tmp_path: Path) -> None:
    theirs, file = made(name, tmp_path)
    ids = torch.randint(11, 53, (2, 9), generator=torch.Generator().manual_seed(1))
    ours = Decoder.from_pretrained(file)
    torch.testing.assert_close(ours(ids).logits, oracle.decoder_logits(theirs, ids), **CLOSE)
    assert (ours.config.bos_token_id, ours.config.eos_token_id, ours.config.pad_token_id) == (5, 7, 3)
    assert ours.config.rms_norm_eps == 1e-3


@pytest.mark.parametrize("key", ["t5", "t5/gated"])
def test_a_whole_t5_computes_what_its_original_does(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path / "theirs")
    config, file = theirs.config, tmp_path / "t5.gguf"
    keys = {
        "context_length": 64,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "block_count": config.num_layers,
        "decoder_block_count": config.num_decoder_layers,
        "attention.head_count": config.num_heads,
        "attention.key_length": config.d_kv,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "attention.relative_buckets_count": config.relative_attention_num_buckets,
        "decoder_start_token_id": 9,
    }
    # transformers 5 leaves out a head that equals the word table; files of T5 1.1 have one.
    more = {} if key == "t5" else {"output.weight": theirs.lm_head.weight.detach().numpy()}
    gguf_files.write(file, "t5", tmp_path / "theirs", keys, more=more)
    max_distance = config.relative_attention_max_distance  # files leave it out
    ours = EncoderDecoderModel.from_pretrained(file, relative_attention_max_distance=max_distance)
    batch = oracle.batch_for(key, key)
    torch.testing.assert_close(ours(**batch).logits, oracle.pair_outputs(theirs, batch).logits, **CLOSE)
    assert ours.config.decoder_start_token_id == 9


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_matrix_of_each_type_is_decoded_row_by_row(kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    held = gguf_files.write(
        tmp_path / "a.gguf", "qwen3", None, {}, kind=Kind[kind], more={"blk.2.ffn_up.weight": array}
    )
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        found = checkpoint.array("model.layers.2.mlp.up_proj.weight")
    assert found.dtype == np.float32 and not found.flags.writeable
    np.testing.assert_array_equal(found, held["blk.2.ffn_up.weight"])
    np.testing.assert_allclose(found, array, atol=0.5)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_are_decoded_too(kind: str, tmp_path: Path) -> None:
    _, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    raw = np.random.default_rng(1).integers(0, 60, (3, 2 * size), np.uint8)  # small bytes: finite scales
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen3")
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint:
        found = checkpoint.array("model.layers.0.mlp.up_proj.weight")
    assert found.shape == (3, 512) and np.isfinite(found).all() and found.std() > 0
    np.testing.assert_array_equal(found, gguf.quants.dequantize(raw, Kind[kind]))


def test_a_file_joins_on_either_side_and_what_is_saved_needs_it_no_more(tmp_path: Path) -> None:
    oracle.save_encoder("bert", tmp_path / "bert")
    _, file = made("llama", tmp_path)
    ids = {"decoder_start_token_id": 5, "pad_token_id": 3, "eos_token_id": 7}
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "bert", file, **ids)
    assert {name.split(".")[3] for name in model.join_report.fresh} == {"cross_attn", "cross_attn_norm"}
    model.save_pretrained(tmp_path / "out")
    both = EncoderDecoderModel.from_encoder_decoder_pretrained(file, file, **ids)
    assert both.config.encoder.model_type == "llama"
    told = CliRunner().invoke(app, ["join", str(tmp_path / "bert"), str(file), "--out", str(tmp_path / "by-line")])
    assert told.exit_code == 0, told.output
    assert EncoderDecoderModel.from_pretrained(tmp_path / "by-line").config.decoder.model_type == "llama"
    file.unlink()
    batch = oracle.batch_for("bert", "llama")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_a_folder_that_has_a_gguf_file_alone_is_that_model(tmp_path: Path) -> None:
    _, file = made("qwen3", tmp_path)
    (tmp_path / "hub").mkdir()
    file.rename(tmp_path / "hub" / "Qwen3-Q8_0.gguf")
    assert AutoConfig.from_pretrained(tmp_path / "hub").model_type == "qwen3"
    (tmp_path / "hub" / "Qwen3-Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileError, match=r"2 GGUF files: Qwen3-Q4_0.gguf, Qwen3-Q8_0.gguf"):
        AutoConfig.from_pretrained(tmp_path / "hub")


def test_llama_3s_scaling_is_found_in_its_factors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    frequencies = 500000.0 ** (-np.arange(0, 8, 2) / 8)
    turns = 8192 * frequencies / (2 * np.pi)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    base = {"rope.freq_base": 500000.0}
    _, file = made("llama", tmp_path, base, more={"rope_freqs.weight": factors})
    assert AutoConfig.from_pretrained(file).rope_scaling == scaling
    _, file = made("llama", tmp_path / "odd", base, more={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ConfigError, match=r"not Llama 3.1's scaling by 32.0"):
        AutoConfig.from_pretrained(file)


def damaged(data: bytes, what: str) -> bytes:
    changes = {
        "empty": b"",
        "magic": b"GGML" + data[4:],
        "version": data[:4] + struct.pack("<I", 99) + data[8:],
        "counts": data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
        "header": data[:200],
        "tensors": data[:-64],
    }
    return changes[what]


@pytest.mark.parametrize("what", ["empty", "magic", "version", "counts", "header", "tensors"])
def test_a_damaged_file_is_a_clear_error(what: str, tmp_path: Path) -> None:
    _, file = made("qwen3", tmp_path)
    file.write_bytes(damaged(file.read_bytes(), what))
    for read in (AutoConfig.from_pretrained, AutoTokenizer.from_pretrained, Decoder.from_pretrained):
        with pytest.raises(WeightError, match=r"no usable GGUF file: .*\n\nhint: download or convert the file again"):
            read(file)


def test_every_cut_of_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    _, file = made("qwen3", tmp_path, kind=Kind.F16)
    data = file.read_bytes()
    for length in range(0, len(data) - 1, 97):
        file.write_bytes(data[:length])
        with pytest.raises(ConjoinError):
            resolve(file)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"attention.head_count": 0}, r"llama.attention.head_count = 0; expected a whole number of at least 1"),
        ({"embedding_length": "12"}, r"llama.embedding_length = '12'; expected a whole number of at least 1"),
        ({"block_count": [3, 3, -1]}, r"llama.block_count = \[3, 3, -1\]; expected a whole number of at least 1"),
        ({"rope.freq_base": float("nan")}, r"llama.rope.freq_base = nan; expected a finite number"),
        ({"rope.scaling.type": 2}, r"llama.rope.scaling.type = 2; expected a text"),
        ({"tokenizer.ggml.tokens": [1, 2]}, r"tokenizer.ggml.tokens = \[1, 2\]; expected a list of texts"),
        ({"tokenizer.ggml.eos_token_id": "7"}, r"tokenizer.ggml.eos_token_id = '7'; expected a whole number"),
        ({"tokenizer.ggml.add_bos_token": 1}, r"tokenizer.ggml.add_bos_token = 1; expected true or false"),
    ],
)
def test_a_value_of_another_kind_is_an_error_that_names_it(keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "a.gguf", "llama", None, {**KEYS, **keys})
    with pytest.raises(WeightError, match=rf"no usable GGUF file: values of its metadata .*\n  {says}"):
        AutoConfig.from_pretrained(tmp_path / "a.gguf")


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "a.gguf", "mamba", None, {})
    with pytest.raises(ConfigError, match=r"general.architecture = 'mamba'"):
        AutoConfig.from_pretrained(tmp_path / "a.gguf")
    _, file = made("llama", tmp_path)
    data = file.read_bytes()
    place = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    file.write_bytes(data[:place] + struct.pack("<I", 16) + data[place + 4 :])
    with pytest.raises(WeightError, match=r"ggml's type 16, which conjoin does not decode"):
        Decoder.from_pretrained(file)


def test_without_the_package_quantized_files_are_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.ones((2, 32), np.float32)
    gguf_files.write(tmp_path / "a.gguf", "qwen3", None, {}, kind=Kind.Q8_0, more={"blk.0.ffn_up.weight": array})
    monkeypatch.setitem(sys.modules, "gguf", None)
    says = pytest.raises(MissingBackend, match=r"pip install 'conjoin\[gguf\]'")
    with open_checkpoint(tmp_path / "a.gguf") as checkpoint, says:
        checkpoint.array("model.layers.0.mlp.up_proj.weight")


def test_settings_that_are_not_known_are_named(tmp_path: Path) -> None:
    keys = {**KEYS, "attention.temperature": 2.0}
    array = np.ones((53, 12), np.float32)
    gguf_files.write(tmp_path / "a.gguf", "llama", None, keys, more={"token_embd.weight": array})
    with pytest.warns(ConjoinWarning, match=r"does not know and leaves out: attention.temperature"):
        resolve(tmp_path / "a.gguf")
