"""The tokenizer of a GGUF file gives the ids of the vocabulary that the file was made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_files
from conjoin import AutoTokenizer
from conjoin.checkpoint import resolve
from conjoin.errors import ConjoinWarning, TokenizerError
from tokenizer_samples import BPE_SPM, GEMMA_SPM, T5_SPM, TEXTS, raw_folder, spm_bytes

KEYS = {
    "context_length": 4096,
    "embedding_length": 4,
    "feed_forward_length": 4,
    "block_count": 1,
    "attention.head_count": 1,
    "attention.key_length": 4,
    "attention.layer_norm_rms_epsilon": 1e-3,
}


def write(folder: Path, architecture: str, words: dict[str, Any]) -> Path:
    """A GGUF file that has a vocabulary."""
    file = folder / "a.gguf"
    table = np.zeros((len(words.get("tokens", ())), 4), np.float32)
    named = {f"tokenizer.ggml.{key}": value for key, value in words.items()}
    gguf_files.write(file, architecture, None, {**KEYS, **named}, more={"token_embd.weight": table})
    return file


def same_ids(file: Path, folder: Path, texts: list[str] = TEXTS) -> Any:
    """Compare every text's ids, and what they decode to."""
    found, expected = AutoTokenizer.from_pretrained(file), AutoTokenizer.from_pretrained(folder)
    for text in texts:
        ids = expected(text)["input_ids"]
        assert found(text)["input_ids"] == ids, text
        assert found.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)
    return found


def test_llama_vocabularies(tmp_path: Path) -> None:
    raw_folder("llama-legacy", tmp_path / "raw")
    words = {"model": "llama", **gguf_files.spm_words(spm_bytes(**BPE_SPM)), "add_eos_token": True}
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # llama.cpp puts a space before every piece of text; transformers' class only where none stands.
    texts = [text for text in TEXTS if not text.startswith((" ", "\u2581")) and "<s>" not in text]
    found = same_ids(write(tmp_path, "llama", {**words, **ids}), tmp_path / "raw", texts)
    assert (found.bos_token, found.eos_token, found.unk_token) == ("<s>", "</s>", "<unk>")


def test_gemma_vocabularies(tmp_path: Path) -> None:
    raw_folder("gemma", tmp_path / "raw")
    words = {"model": "llama", **gguf_files.spm_words(spm_bytes(**GEMMA_SPM))}
    ids = {"padding_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "unknown_token_id": 3}
    texts = [text for text in TEXTS if "<" not in text]  # which of them stay whole is another question in raw folders
    same_ids(write(tmp_path, "gemma2", {**words, **ids}), tmp_path / "raw", texts)


def test_t5_vocabularies(tmp_path: Path) -> None:
    raw_folder("t5", tmp_path / "raw")
    words = {"model": "t5", **gguf_files.spm_words(spm_bytes(**T5_SPM))}
    count = len(words["tokens"])
    words["tokens"] += [f"[PAD{place}]" for place in range(count, count + 7)]
    words["scores"] += [-1000.0] * 7
    words["token_type"] += [5] * 7
    ids = {"padding_token_id": 0, "eos_token_id": 1, "unknown_token_id": 2}
    found = same_ids(write(tmp_path, "t5", {**words, **ids}), tmp_path / "raw")
    assert found("<extra_id_0>")["input_ids"] == [count + 6, 1]


def byte_level(kind: str, folder: Path) -> dict[str, Any]:
    """The words of a vocabulary, whose raw files are written beside them."""
    raw_folder(kind, folder / "raw")
    AutoTokenizer.from_pretrained(folder / "raw").save_pretrained(folder / "saved")
    model = json.loads((folder / "saved" / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in model["added_tokens"]}
    merges = (folder / "raw" / "merges.txt").read_text(encoding="utf-8")
    return gguf_files.byte_level_words({**model["model"]["vocab"], **special}, merges, set(special))


@pytest.mark.parametrize(("kind", "pre"), [("gpt2", "gpt-2"), ("qwen2", "qwen2")])
def test_byte_level_vocabularies(kind: str, pre: str, tmp_path: Path) -> None:
    same_ids(write(tmp_path, "qwen2", {"model": "gpt2", "pre": pre, **byte_level(kind, tmp_path)}), tmp_path / "raw")


def test_digits_stand_alone_where_the_vocabulary_was_trained_so(tmp_path: Path) -> None:
    vocab = {letter: place for place, letter in enumerate("0123456789ab\u0120")} | {"12": 13, "\u01201": 14, "ab": 15}
    words = gguf_files.byte_level_words(vocab, "1 2\n\u0120 1\na b", set())
    for pre, ids in (("smollm", [15, 12, 1, 2]), ("gpt-2", [15, 12, 13])):
        file = write(tmp_path, "llama", {"model": "gpt2", "pre": pre, **words})
        assert AutoTokenizer.from_pretrained(file)("ab 12")["input_ids"] == ids
        file.unlink()


def test_a_vocabulary_of_an_unknown_kind_is_left_out_with_a_warning(tmp_path: Path) -> None:
    words = gguf_files.byte_level_words({"a": 0, "b": 1}, "", set())
    file = write(tmp_path, "llama", {"model": "gpt2", "pre": "martian", **words})
    with pytest.warns(ConjoinWarning, match=r"no tokenizer is read, since .* pre = 'martian' is not a kind"):
        folder = resolve(file)
    assert not (folder / "tokenizer.json").exists()


def test_a_damaged_vocabulary_is_one_error_with_every_problem(tmp_path: Path) -> None:
    words = {"model": "llama", "tokens": ["a", "a"], "scores": [1.0], "eos_token_id": 9}
    with pytest.raises(TokenizerError, match=r"scores has 1 entries.*eos_token is id 9; two tokens have one spelling"):
        resolve(write(tmp_path, "llama", words))


def test_a_split_that_the_file_does_not_tell_is_that_of_its_architecture_or_none(tmp_path: Path) -> None:
    """Files from before May 2024; the ids of another split are not those that the model was trained on."""
    words = byte_level("qwen2", tmp_path)
    for told in ({}, {"pre": "default"}):
        same_ids(write(tmp_path, "qwen2", {"model": "gpt2", **told, **words}), tmp_path / "raw")
        file = write(tmp_path, "llama", {"model": "gpt2", **told, **words})
        with pytest.warns(ConjoinWarning, match=r"no tokenizer is read, since .* pre = 'default' is not a kind"):
            assert not (resolve(file) / "tokenizer.json").exists()
