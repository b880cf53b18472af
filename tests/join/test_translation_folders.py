"""Folders as OPUS-MT, NLLB, M2M-100 and Pegasus have them, with raw tokenizer files: ids and text are transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest

import oracle
import oracle_tokenizers
from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import EncoderDecoderModel, pipeline
from tokenizer_samples import SENTENCES
from translation_folders import HOW, KINDS, TEXTS, expected, folders


@pytest.mark.filterwarnings("ignore:A source has")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_and_writes_what_transformers_writes(kind: str, tmp_path: Path, run: Any) -> None:
    tokenizer, theirs = folders(kind, tmp_path / "checkpoint")
    ours: Any = EncoderDecoderModel.from_pretrained(tmp_path / "checkpoint")
    assert type(ours.tokenizer).__name__ == type(tokenizer).__name__
    pipe: Any = pipeline("summarization" if kind == "pegasus" else "translation_fr_to_de", ours, **HOW)
    rows = [expected(kind, tokenizer, theirs, text) for text in TEXTS]
    name = "summary" if kind == "pegasus" else "translation"
    for text, row in zip(TEXTS, rows, strict=True):
        (made,) = pipe(text, return_tensors=True)
        assert made[f"{name}_token_ids"].tolist() == row, text
    flags = [] if kind == "pegasus" else ["--target-language", "de"]
    flags += ["--source-language", "fr"] if kind in ("nllb", "m2m_100") else []
    for text, row in zip(TEXTS[:2], rows, strict=False):
        told = run("generate", tmp_path / "checkpoint", text, "--num-beams", "1", "--max-new-tokens", "12", *flags)
        assert told.code == 0, told.err
        assert told.out.rstrip("\n") == tokenizer.decode(row, skip_special_tokens=True).strip()


@pytest.mark.filterwarnings("ignore:A source has")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_trained_and_stays_one_that_transformers_reads(kind: str, tmp_path: Path, run: Any) -> None:
    folders(kind, tmp_path / "checkpoint")
    rows = [json.dumps({"source": text, "target": text.upper()}) for text in SENTENCES[:12]]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    flags = [] if kind == "pegasus" else ["--target-language", "de"]
    flags += ["--source-language", "fr"] if kind in ("nllb", "m2m_100") else []
    told = run(
        "train", "--model", tmp_path / "checkpoint", "--train", tmp_path / "pairs.jsonl", "--out", tmp_path / "run",
        "--max-steps", "3", "--learning-rate", "1e-3", *flags,
    )  # fmt: skip
    assert told.code == 0, told.err
    final = next(path.parent for path in sorted((tmp_path / "run").rglob("config.json")))
    tokenizer, theirs = oracle_tokenizers.load(final), oracle.reload_whole(final)
    row = expected(kind, tokenizer, theirs, TEXTS[1])
    told = run("generate", final, TEXTS[1], "--num-beams", "1", "--max-new-tokens", "12")
    assert told.code == 0, told.err
    assert told.out.rstrip("\n") == tokenizer.decode(row, skip_special_tokens=True).strip()
