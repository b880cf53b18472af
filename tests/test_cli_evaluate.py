"""`conjoin evaluate`: scores with intervals on stdout, predictions in a file, two models compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from conjoin.evaluation import evaluate

PAIRS = [("the cat sat", "a cat"), ("a dog ran to the mat", "the dog"), ("hello", "hello world")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pairs as JSON lines."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS))
    return path


def test_scores_are_those_of_the_library(run: Any, folder: Path, data: Path, tmp_path: Path) -> None:
    told = run("evaluate", folder, data, "--json", "--metrics", "chrf,rouge", "--predictions", tmp_path / "p.jsonl")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    model = EncoderDecoderModel.from_pretrained(folder)
    ours = evaluate(model, [s for s, _ in PAIRS], [t for _, t in PAIRS], metrics="chrf,rouge")
    assert found["pairs"] == 3
    names = ["chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "loss", "token_accuracy"]
    assert list(found["scores"]) == names
    for name in names:
        assert found["scores"][name]["value"] == pytest.approx(ours[name])
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == list(ours.predictions)
    assert [(row["source"], row["target"]) for row in rows] == PAIRS


@pytest.mark.parametrize("test", ["bootstrap", "randomisation"])
def test_two_models_are_compared(run: Any, folder: Path, data: Path, tmp_path: Path, test: str) -> None:
    words = ("evaluate", folder, data, "--against", folder, "--test", test, "--metrics", "exact_match")
    told = run(*words, "--json", "--predictions", tmp_path / "p.jsonl")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    assert found["comparison"]["test"] == test
    assert {row["name"]: row["p_value"] for row in found["comparison"]["metrics"]} == {
        "exact_match": 1.0,
        "loss": 1.0,
        "token_accuracy": 1.0,
    }
    assert (tmp_path / "p.against.jsonl").read_text() == (tmp_path / "p.jsonl").read_text()


def test_without_json_there_is_a_table(run: Any, folder: Path, data: Path) -> None:
    told = run("evaluate", folder, data, "--limit", "2", "--against", folder)
    assert told.code == 0, told.err
    assert "2 pairs" in told.out
    assert "95 % interval" in told.out
    assert "no difference" in told.out


BAD = {
    "line": ('{"source": "a", "target": "b"}\n{"source"', "line 2: is not JSON"),
    "column": ('{"source": "a", "goal": "b"}', "line 1: has no column 'target'"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs_are_one_message(run: Any, folder: Path, tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    told = run("evaluate", folder, path)
    assert told.code == 1
    assert message in told.err and str(path) in told.err
    assert "Traceback" not in told.err and told.out == ""


def test_an_unknown_metric_is_told_before_the_model_is_loaded(run: Any, data: Path) -> None:
    told = run("evaluate", "no/model", data, "--metrics", "blue")
    assert told.code == 1
    assert "No metric is called 'blue'" in told.err
