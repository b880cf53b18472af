"""A run's report is one file with its curves, samples and attention, and nothing that needs a network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from conjoin import FileError
from conjoin.training.report.charts import Series, heat_map, line_chart, short, ticks
from conjoin.training.report.report import write_report

VOID = {"meta", "path", "rect", "circle"}


class Balanced(HTMLParser):
    """Fails at a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def run_folder(folder: Path, **evaluation: float) -> Path:
    """A run of 100 steps, two evaluations and a last line that a kill cut short."""
    lines: list[dict[str, Any]] = []
    for step in range(5, 105, 5):
        base = {"step": step, "epoch": step / 50, "time_s": step * 2.0}
        train = {"kind": "train", "loss": 5 / step, "lr_encoder": 1e-4, "lr_decoder": 2e-4, "tokens_per_s": 900.0}
        lines.append({**base, **train, "grad_norm": None if step == 50 else 1.5})
        if step % 50 == 0:
            lines.append(
                {
                    **base,
                    "kind": "eval",
                    "eval_loss": 6 / step,
                    "eval_rouge1": step / 2,
                    "eval_runtime": 3.0,
                    **evaluation,
                }
            )
            sample = {"source": "a <b> & c", "target": "<i>x</i>", "prediction": "y" if step == 50 else "<i>x</i>"}
            lines.append({**base, "kind": "sample", **sample})
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(f'{text}\n{{"step": 10')
    return folder


def report(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    html = path.read_text()
    reader = Balanced()
    reader.feed(html)
    assert not reader.open
    return html


def test_a_report_has_curves_samples_and_figures(tmp_path: Path) -> None:
    html = report(run_folder(tmp_path / "my-run", eval_bleu=31.5))
    assert "<title>my-run</title>" in html
    for title in ("loss", "ROUGE", "bleu", "learning rate", "tokens per second", "gradient norm"):
        assert f"<b>{title}</b>" in html
    assert "training" in html and "validation" in html
    assert "3:20 min" in html
    assert "runtime" not in html
    assert "step 100" in html


def test_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    html = report(run_folder(tmp_path / "run"))
    assert "a &lt;b&gt; &amp; c" in html
    assert "<i>x</i>" not in html
    assert html.count("class=ok") == 1  # the second prediction is the target


def test_a_report_needs_no_network_and_is_light_and_dark(tmp_path: Path) -> None:
    html = report(run_folder(tmp_path / "run"))
    assert not re.search(r"https?://|<script|<link|url\(|@import|src=", html)
    assert "prefers-color-scheme:dark" in html


def test_attention_is_drawn_where_it_was_recorded(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    assert "What the decoder reads" not in report(folder)
    layers = [[[0.25, 0.75]], [[0.75, 0.25]]]
    example = {"source": ["[CLS]", "<hi>"], "target": ["ho"], "layers": layers}
    (folder / "attention.json").write_text(json.dumps([example]))
    html = report(folder)
    assert "What the decoder reads" in html
    assert html.count('fill-opacity="0.50"') == 2  # the mean of two layers
    assert "ho reads &lt;hi&gt;: 0.75" in html


@pytest.mark.parametrize("text", ["", "{not json\n"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, text: str) -> None:
    if text:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(FileError, match="nothing to report"):
        write_report(tmp_path)


def test_a_run_of_one_line_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "kind": "eval", "eval_loss": 0.0, "eval_bleu": 0.0}\n')
    assert "validation loss" in report(tmp_path)


def test_a_long_curve_keeps_its_spikes_and_stays_small() -> None:
    points = [(float(step), 100.0 if step == 77_777 else 1.0) for step in range(100_000)]
    svg = line_chart("loss", [Series("training", points)])
    assert len(svg) < 40_000
    path = re.search(r'class="l s0" d="M([^"]+)"', svg)
    assert path
    heights = [float(spot.split()[1]) for spot in path[1].split("L")]
    assert min(heights) < 40 < max(heights)


def test_axes_have_round_numbers() -> None:
    assert ticks(0, 1000) == [0, 200, 400, 600, 800, 1000]
    assert ticks(0.13, 0.41) == [0.2, 0.3, 0.4]
    assert [short(number) for number in (0, 0.00003, 0.25, 12000, 2_500_000)] == ["0", "3e-05", "0.25", "12k", "2.5M"]


def test_a_heat_map_names_rows_and_columns() -> None:
    svg = heat_map(["r"], ["a", "漢字"], [[0.1, 0.9]])
    assert svg.count('class="h"') == 2
    assert "漢字" in svg


ODD_LINES = ['{"step": "1", "kind": "eval"}', "[]", '{"step": 1, "kind": "sample", "source": 1}']


@pytest.mark.parametrize("line", ODD_LINES)
def test_a_line_that_no_run_writes_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 1, "kind": "train"}}\n')
    with pytest.raises(FileError, match=r"metrics\.jsonl, line 1: "):
        write_report(tmp_path)


def test_values_that_cannot_be_drawn_are_left_out(tmp_path: Path) -> None:
    odd = ("null", "[1]", '"x"', '{"a": 1}', "1e999", "true", "1" + "0" * 400, "-1e308", "1e308")
    lines = [f'{{"step": {step}, "kind": "eval", "eval_f": {value}}}' for step, value in enumerate(odd)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    report(tmp_path)


ODD_ATTENTION = [
    "{",
    "{}",
    "[1]",
    '[{"source": "a", "target": ["b"], "layers": [[[1]]]}]',
    '[{"source": ["a"], "target": ["b"], "layers": [[[1, 0]]]}]',
    '[{"source": ["a"], "target": ["b"], "layers": [[["1"]]]}]',
    '[{"source": ["a"], "target": ["b"]}]',
]


@pytest.mark.parametrize("text", ODD_ATTENTION)
def test_attention_that_was_not_recorded_is_refused(text: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "attention.json").write_text(text)
    with pytest.raises(FileError, match=r"attention\.json: "):
        write_report(folder)
