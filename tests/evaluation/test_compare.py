"""Runs side by side: scores, significance, files of texts, and the page of the texts that differ."""

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import ConfigError, DataError, EncoderDecoderModel
from conjoin.evaluation.comparison import SideBySide, read_run, single_scores
from conjoin.evaluation.evaluate import evaluate, evaluate_texts
from conjoin.evaluation.metrics import score
from conjoin.evaluation.side_by_side import marked_words, side_by_side

SOURCES = [f"source {n}" for n in range(6)]
REFERENCES = [f"the {word} cat sat" for word in ("red", "blue", "old", "new", "big", "shy")]
GOOD = [*REFERENCES[:5], "the cat"]
BAD = ["a dog ran", REFERENCES[1], "the old dog sat", "a cat", "the big cat sat", "the cat"]
METRICS = "exact_match,chrf,bleu"


def texts(predictions: list[str], metrics: str = METRICS) -> Any:
    return evaluate_texts(predictions, SOURCES, REFERENCES, metrics=metrics)


def test_scores_of_single_texts_are_those_of_a_corpus_of_one() -> None:
    evaluation = texts(BAD)
    for measure in evaluation.measures:
        alone = [score(measure.name, [p], [r])[measure.name] for p, r in zip(BAD, REFERENCES, strict=True)]
        np.testing.assert_allclose(single_scores(measure), alone, atol=1e-9)


def test_differing_texts_are_sorted_by_difference_and_the_best_is_named() -> None:
    runs = SideBySide(["good", "bad"], [texts(GOOD), texts(BAD)])
    found = runs.differences()
    assert [each.index for each in found] != sorted(each.index for each in found)
    assert {each.index for each in found} == {0, 2, 3}
    assert [each.spread for each in found] == sorted((each.spread for each in found), reverse=True)
    assert all(each.best == 0 for each in found)
    worse = SideBySide(["bad", "good"], [texts(BAD), texts(GOOD)]).differences("bleu")
    assert all(each.best == 1 for each in worse)


def test_every_run_is_tested_against_the_first() -> None:
    runs = SideBySide(["a", "b", "c"], [texts(GOOD), texts(BAD), texts(GOOD)])
    versus = runs.versus()
    assert [(each.first, each.second) for each in versus] == [("a", "b"), ("a", "c")]
    assert versus[1].metrics[0].difference == 0 and versus[1].metrics[0].better is None
    exact = versus[0].metrics[0]
    assert exact.name == "exact_match" and exact.difference == pytest.approx(100 * (2 - 5) / 6)
    plain = runs.to_dict()
    assert plain["pairs"] == 6 and plain["different_texts"] == 3
    assert plain["runs"][1]["scores"]["exact_match"]["value"] == pytest.approx(100 * 2 / 6)
    json.dumps(plain)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="two or more"):
        SideBySide(["a"], [texts(GOOD)])
    with pytest.raises(ConfigError, match="one name"):
        SideBySide(["a", "a"], [texts(GOOD), texts(BAD)])
    other = evaluate_texts(GOOD, SOURCES[::-1], REFERENCES, metrics=METRICS)
    with pytest.raises(ConfigError, match="different pairs"):
        SideBySide(["a", "b"], [texts(GOOD), other])
    with pytest.raises(ConfigError, match="expected one of chrf, bleu, exact_match"):
        SideBySide(["a", "b"], [texts(GOOD), texts(BAD)]).differences("rougeL")


class Reader(HTMLParser):
    """Collects the text of every cell, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src",)]

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


HOSTILE = '<script>alert("1")</script> & <img src=x onerror=y> </td>'


def test_the_page_holds_every_text_and_nothing_in_it_runs() -> None:
    good, bad = [HOSTILE, *GOOD[1:]], BAD
    sources = [f"{HOSTILE} {n}" for n in range(6)]
    runs = [evaluate_texts(each, sources, REFERENCES, metrics=METRICS) for each in (good, bad)]
    names = ["<b>one</b>", "two"]
    text = side_by_side(SideBySide(names, runs), title="<i>title</i>")
    reader = Reader()
    reader.feed(text)
    assert not {"script", "img", "b", "link", "iframe"} & set(reader.tags)
    assert HOSTILE in reader.cells and sources[0] in reader.cells and BAD[0] in reader.cells
    assert REFERENCES[1] not in reader.cells  # both runs wrote the same
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text
    assert "<b>one</b> is better" in re.sub("&lt;", "<", re.sub("&gt;", ">", text))


def test_a_page_is_cut_after_the_largest_differences() -> None:
    text = side_by_side(SideBySide(["a", "b"], [texts(GOOD), texts(BAD)]), title="t", limit=2)
    assert "The first 2 of 3." in text and text.count('class="card"') == 2


def test_words_that_another_text_lacks_are_marked() -> None:
    assert marked_words("the red cat", "the cat", "ins") == "the <ins>red </ins>cat"
    assert marked_words("a < b", "a & b", "del") == "a <del>&lt;</del> b"
    assert marked_words("same", "same", "del") == "same"
    assert marked_words("", "x", "ins") == ""


def test_texts_are_read_from_lines_and_tables(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("".join(f"{text}\n" for text in GOOD))
    rows = tmp_path / "b.jsonl"
    rows.write_text("".join(json.dumps({"source": s, "out": t}) + "\n" for s, t in zip(SOURCES, GOOD, strict=True)))
    table = tmp_path / "c.csv"
    table.write_text("prediction,other\n" + "".join(f"{text},x\n" for text in GOOD))
    for path, column in ((lines, "prediction"), (rows, "out"), (table, "prediction")):
        read = read_run(path, SOURCES, REFERENCES, metrics=METRICS, column=column)
        assert list(read.predictions) == GOOD and np.isnan(read.losses).all()
    first = read_run(lines, SOURCES[:2], REFERENCES[:2], metrics=METRICS, limit=2)
    assert list(first.predictions) == GOOD[:2]


def test_texts_of_other_sources_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"source": "x", "prediction": text}) + "\n" for text in GOOD))
    with pytest.raises(DataError, match=r"texts of other sources:\n.*text 1: 'x' instead of 'source 0'"):
        read_run(path, SOURCES, REFERENCES, metrics=METRICS)
    with pytest.raises(DataError, match="holds 6 texts"):
        read_run(path, SOURCES[:2], REFERENCES[:2], metrics=METRICS)
    with pytest.raises(DataError, match="--prediction-column"):
        read_run(path, SOURCES, REFERENCES, metrics=METRICS, column="hypothesis")


def test_the_command_compares_models_and_files(tmp_path: Path, run: Any, folder: Path) -> None:
    pairs = [("the quick brown fox", "a fox"), ("the lazy dog", "a dog"), ("jumps over", "over")]
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in pairs))
    other = tmp_path / "other.txt"
    other.write_text("a fox\na cat\nover\n")
    page = tmp_path / "page.html"
    options = ("--metrics", "chrf,exact_match", "--max-new-tokens", "4")
    told = run("compare", folder, other, data, "--page", page, "--json", *options)
    result = json.loads(told.out)
    assert [each["name"] for each in result["runs"]] == [str(folder), str(other)]
    assert set(result["runs"][0]["scores"]) == {"chrf", "exact_match", "loss", "token_accuracy"}
    assert set(result["runs"][1]["scores"]) == {"chrf", "exact_match"}
    assert [row["name"] for row in result["comparisons"][0]["metrics"]] == ["chrf", "exact_match"]
    assert page.read_text().startswith("<!doctype html>") and "texts that differ" in told.err
    assert run("compare", folder, other, data, "--page", page, *options).code == 1
    both = run("compare", folder, folder, data, *options)
    assert both.code == 0 and "no difference" in both.out and "loss" in both.out
    assert run("compare", folder, data).code == 2


def test_a_metric_that_sorts_nothing_is_told_before_any_model_is_loaded(tmp_path: Path, run: Any) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"source": "a", "target": "b"}\n')
    for name, metrics in (("loss", "chrf"), ("typo", "chrf"), ("bleu", "chrf,rouge")):
        told = run(
            *("compare", tmp_path / "none", tmp_path / "nor", data, "--metrics", metrics),
            *("--page", tmp_path / "p.html", "--sort-by", name),
        )
        assert told.code == 1 and f"Texts cannot be sorted by '{name}'" in told.err and "chrf" in told.err
        assert not (tmp_path / "p.html").exists()


def test_texts_that_no_metric_sorts_are_counted_all_the_same() -> None:
    one, other = texts(GOOD, "rougeLsum"), texts(BAD, "rougeLsum")
    runs = SideBySide(["a", "b"], [one, other])
    assert runs.to_dict()["different_texts"] == len(runs.differences()) == 3


def test_predictions_with_a_prefix_are_compared_with_those_without(tmp_path: Path, run: Any, folder: Path) -> None:
    """What the model reads has the prefix; the pairs have not, for other models have none, or another one."""
    data = tmp_path / "pairs.jsonl"
    rows = [{"source": f"the cat {number}", "target": "a cat"} for number in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, prefixed = tmp_path / "plain.jsonl", tmp_path / "prefixed.jsonl.gz"
    assert run("evaluate", folder, data, "--predictions", plain).code == 0
    words = ("evaluate", folder, data, "--source-prefix", "short: ", "--against", folder, "--predictions", prefixed)
    assert run(*words).code == 0
    other = tmp_path / "prefixed.against.jsonl.gz"
    with gzip.open(prefixed, "rt") as one, gzip.open(other, "rt") as two:
        written = [json.loads(line) for line in one]
        assert [row["source"] for row in written] == [row["source"] for row in rows]
        assert written == [json.loads(line) for line in two]
    model = EncoderDecoderModel.from_pretrained(folder)
    read = evaluate(model, [f"short: {row['source']}" for row in rows], ["a cat"] * 3, metrics="chrf")
    assert [row["prediction"] for row in written] == list(read.predictions)
    assert [row["loss"] for row in written] == pytest.approx(list(read.losses), abs=1e-5)
    told = run("compare", plain, prefixed, folder, data, "--source-prefix", "short: ", "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["runs"][1]["scores"]["chrf"] == json.loads(told.out)["runs"][2]["scores"]["chrf"]
    assert run("evaluate", folder, data, "--predictions", tmp_path / "p.csv").code == 1
