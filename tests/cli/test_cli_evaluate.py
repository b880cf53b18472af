"""`conjoin evaluate`: scores with intervals on stdout, predictions in a file, two models compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel, FileError
from conjoin.evaluation import Evaluation, evaluate

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
    numbers = [word for line in told.lines for word in line.split() if "." in word and word.lstrip("+-")[0].isdigit()]
    assert {len(number.partition(".")[2]) for number in numbers} == {3, 4}  # 3 of p, 4 of all others


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


def no_model(*_: object) -> None:
    raise AssertionError("the model was loaded before the output was looked at")


def test_predictions_replace_a_file_only_when_told_to(
    run: Any, folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", folder, data, "--limit", "1", "--metrics", "exact_match", "--predictions")
    (tmp_path / "p.against.jsonl").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("conjoin.cli.options.load", no_model)
        told = run(*words, tmp_path / "p.jsonl", "--against", folder)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith(f"FileError: {tmp_path / 'p.against.jsonl'} exists already.")
    assert "hint: --overwrite replaces it." in told.err
    assert (tmp_path / "p.against.jsonl").read_text() == "mine"
    assert run(*words, tmp_path / "p.against.jsonl", "--overwrite").code == 0
    assert json.loads((tmp_path / "p.against.jsonl").read_text())["source"] == "the cat sat"


def test_predictions_never_replace_the_data(
    run: Any, folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjoin.cli.options.load", no_model)
    before, against = data.read_text(), tmp_path / "q.against.jsonl"
    (tmp_path / "link.jsonl").symlink_to(data)
    against.write_text(before)
    for read, written, more in (
        (data, data, ()),
        (data, tmp_path / "link.jsonl", ()),
        (against, tmp_path / "q.jsonl", ("--against", folder)),
    ):
        told = run("evaluate", folder, read, "--predictions", written, "--overwrite", *more)
        assert (told.code, told.out) == (1, "")
        assert "is an input of this command" in told.err
    assert data.read_text() == against.read_text() == before


@pytest.mark.parametrize(("name", "message"), [("", "is a folder"), ("pairs.jsonl/p.jsonl", "cannot be written")])
def test_predictions_that_cannot_be_written_are_told_before_the_model_is_loaded(
    run: Any, data: Path, tmp_path: Path, name: str, message: str
) -> None:
    told = run("evaluate", "no/model", data, "--predictions", tmp_path / name)
    assert told.code == 1
    assert message in told.err


def test_scores_are_printed_though_predictions_could_not_be_written(
    run: Any, folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FileError("p.jsonl: cannot be written: No space left on device.")

    monkeypatch.setattr(Evaluation, "save_predictions", full)
    told = run("evaluate", folder, data, "--json", "--metrics", "exact_match", "--predictions", tmp_path / "p.jsonl")
    assert told.code == 1
    assert "exact_match" in json.loads(told.out)["scores"]
    assert told.err.startswith("FileError: p.jsonl: cannot be written")
