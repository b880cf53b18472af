"""Languages of every tokenizer that has them, by two letters: in training, commands, pipelines and the server."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import EncoderDecoderModel, MBartConfig, pipeline
from conjoin.errors import ConfigError, ConjoinWarning, TokenizerError
from conjoin.join import set_languages
from conjoin.serving import reading
from conjoin.serving.limits import Limits
from conjoin.serving.refusal import Refusal
from conjoin.serving.request import Request
from conjoin.tokenizer import AutoTokenizer
from conjoin.training import Recipe
from conjoin.training.launch import launch
from tokenizer_samples import pieces_folder, raw_folder, write_marian
from training_toys import write_rows

CODES = {
    "mbart": ("cs_CZ", "ro_RO"),
    "mbart50": ("cs_CZ", "ro_RO"),
    "nllb": ("ces_Latn", "ron_Latn"),
    "nllb-legacy": ("ces_Latn", "ron_Latn"),
    "m2m100": ("cs", "ro"),
    "marian": (None, "ron"),
}
ROWS = [{"source": "the quick fox", "target": "le renard"}] * 8
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}


def whole(kind: str, folder: Path) -> EncoderDecoderModel:
    """A tiny mBART with a tokenizer of its own, saved and loaded."""
    torch.manual_seed(0)
    if kind == "marian":
        (folder / kind).mkdir(parents=True)
        write_marian(folder / kind, codes=["ron", "est", "fra"])
    else:
        (pieces_folder if kind == "m2m100" else raw_folder)(kind, folder / kind)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / kind)
    for side in ("src_lang", "tgt_lang"):
        tokenizer.settings.options.pop(side, None)
    tokenizer.frame()
    sizes = {**SIZES, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    config = MBartConfig(vocab_size=len(tokenizer), **sizes, decoder_start_token_id=2, eos_token_id=2)
    model = EncoderDecoderModel(config=config)
    model.tokenizer = tokenizer
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder / "model")
    return EncoderDecoderModel.from_pretrained(folder / "model")


def token(model: Any, code: str) -> int:
    return model.tokenizer.lang_code_to_id[code]


def first_ids(model: Any, kind: str, code: str) -> list[int]:
    """What targets begin with."""
    return {"mbart": [token(model, code)], "marian": [2]}.get(kind, [2, token(model, code)])


@pytest.mark.parametrize("kind", CODES)
def test_two_letters_are_a_language_and_are_saved_with_the_model(kind: str, tmp_path: Path) -> None:
    model: Any = whole(kind, tmp_path)
    source, target = CODES[kind]
    set_languages(model, model.tokenizer, None if source is None else "cs", "ro")
    assert (model.tokenizer.src_lang, model.tokenizer.tgt_lang) == (source, target)
    model.save_pretrained(tmp_path / "out")
    again: Any = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert (again.tokenizer.src_lang, again.tokenizer.tgt_lang) == (source, target)
    ids = again.tokenizer(["the fox"], return_tensors="pt")
    assert token(again, target if source is None else source) in ids["input_ids"]
    start = first_ids(again, kind, target)
    assert again.generate(**ids)[0].tolist()[: len(start)] == start
    labels = again.tokenizer("a", text_target="the fox")["labels"]
    assert (token(again, target) in labels) is (kind != "marian")


@pytest.mark.parametrize("kind", CODES)
def test_a_task_names_languages(kind: str, tmp_path: Path) -> None:
    model: Any = whole(kind, tmp_path)
    _, target = CODES[kind]
    before = copy.deepcopy(model.tokenizer.settings.options)
    pipe: Any = pipeline("translation_cs_to_ro", model, num_beams=1, max_new_tokens=20)
    (made,) = pipe("the fox", return_tensors=True)
    start = first_ids(model, kind, target)
    ids = made["translation_token_ids"].tolist()
    assert ids[: len(start)] == start
    assert model.tokenizer.settings.options == before
    expected = copy.deepcopy(model)
    set_languages(expected, expected.tokenizer, None if kind == "marian" else "cs", "ro")
    batch = expected.tokenizer(["the fox"], return_tensors="pt")
    assert ids == expected.generate(**batch, num_beams=1, max_new_tokens=20)[0].tolist()[: len(ids)]
    with pytest.raises(TokenizerError, match=r"'xx' is none that this .*Tokenizer knows"):
        pipe("the fox", tgt_lang="xx")
    if kind == "marian":
        with pytest.warns(ConjoinWarning, match="src_lang = 'cs' has no effect: .* no languages of its sources"):
            pipe("the fox", src_lang="cs", tgt_lang="ro")
        assert pipeline("translation", model, num_beams=1, max_new_tokens=20)(">>fra<< the fox")
    else:
        with pytest.raises(ConfigError, match="tgt_lang is not set"):
            pipeline("translation", model, max_new_tokens=20)("the fox")


@pytest.mark.parametrize("kind", CODES)
def test_a_request_has_its_own_languages(kind: str, tmp_path: Path) -> None:
    model: Any = whole(kind, tmp_path)
    source, target = CODES[kind]
    limits = Limits()
    plain = model.tokenizer("the fox")["input_ids"]
    options = dict(model.tokenizer.settings.options)
    prompt = reading.read(model, Request(source="the fox", languages=("cs", "ro")), limits)
    assert token(model, source or target) in prompt.ids
    forced = {"mbart": {"decoder_start_token_id": token(model, target)}, "marian": {}}
    assert {name: prompt.settings[name] for name in prompt.settings if "token_id" in name} == forced.get(
        kind, {"forced_bos_token_id": token(model, target)}
    )
    assert model.tokenizer("the fox")["input_ids"] == plain
    assert model.tokenizer.settings.options == options
    with pytest.raises(Refusal, match="'xx' is none"):
        reading.read(model, Request(source="the fox", languages=(None, "xx")), limits)
    assert model.tokenizer.settings.options == options


@pytest.mark.parametrize("kind", ["nllb", "marian", pytest.param("m2m100", marks=pytest.mark.slow)])
def test_a_run_is_trained_into_a_language(kind: str, tmp_path: Path, run: Any) -> None:
    model: Any = whole(kind, tmp_path)
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    words: dict[str, Any] = {
        "model": str(tmp_path / "model"),
        "train": str(tmp_path / "pairs.jsonl"),
        "target_language": "ro",
        "max_steps": 1,
        "warmup_steps": 0,
        "use_cpu": True,
        "report_to": "none",
        "doctor": False,
        "out": str(tmp_path / "out"),
    }
    if kind != "marian":
        words["source_language"] = "cs"
    launch(Recipe.of(words))
    trained: Any = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert (trained.tokenizer.src_lang, trained.tokenizer.tgt_lang) == CODES[kind]
    forced = None if kind == "marian" else token(model, CODES[kind][1])
    assert trained.generation_config.forced_bos_token_id == forced
    told = run("generate", tmp_path / "out", "the fox", "--target-language", "et")
    assert told.code == 0, told.err
    told = run("generate", tmp_path / "out", "the fox", "--target-language", "rou")
    assert (told.code, CODES[kind][1] in told.err) == (1, True)
    told = run("generate", tmp_path / "out", "the fox", "--source-language", "en")
    assert told.code == (1 if kind == "marian" else 0), told.err
