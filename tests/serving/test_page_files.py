"""Files on the page at /: read as their formats say, run row by row, paused, resumed after a reload, downloaded."""

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import expect

from browser import opened_page
from servers import Server

QUOTED = 'id;source;note\r\n1;"a ""quoted"" text; with\na line";x\r\n2;plain;"y"\r\n'


def upload(page: Any, name: str, text: str) -> None:
    """Open the view of files and choose a file."""
    page.click("#view-files")
    page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    expect(page.locator("#file-options")).to_contain_text(name)


def finish(page: Any) -> None:
    """Wait until all rows are done."""
    expect(page.locator("#file-state")).to_have_text(re.compile("^Done"))


def download(page: Any, format: str) -> str:
    """Return the downloaded results."""
    page.select_option("#file-format", format)
    with page.expect_download() as coming:
        page.click("#file-download")
    assert coming.value.suggested_filename.endswith(f".predictions.{format}")
    return Path(coming.value.path()).read_bytes().decode()


def in_module(page: Any, module: str, code: str) -> Any:
    """Return what a function of the module returns in the browser."""
    return page.evaluate(f"async () => {{ const m = await import('/page/{module}.js'); return {code} }}")


def rows_of(page: Any, name: str, text: str) -> Any:
    """Return what a file is read as."""
    code = "(({rows, columns, problems, delimiter}) => ({rows, columns, problems: [...problems], delimiter}))"
    return in_module(page, "tables", f"{code}(m.readTable({json.dumps(name)}, {json.dumps(text)}))")


def test_files_are_read_as_their_formats_say(page: Any) -> None:
    table = rows_of(page, "a.csv", QUOTED)
    assert table["delimiter"] == ";" and table["columns"] == ["id", "source", "note"] and not table["problems"]
    assert table["rows"][0] == {"id": "1", "source": 'a "quoted" text; with\na line', "note": "x"}
    assert rows_of(page, "a.tsv", "a\tb\n1,5\t\n")["rows"] == [{"a": "1,5", "b": ""}]
    assert rows_of(page, "a.csv", "\ufeffa,a,\n1,2,3")["columns"] == ["a", "a_", "column 3"]
    assert rows_of(page, "a.csv", "a,b\n1\n")["problems"] == [[0, "The row has 1 cells; expected 2."]]
    assert rows_of(page, "a.txt", "one\r\n\r\nthree\n")["rows"] == [{"text": "one"}, {"text": ""}, {"text": "three"}]
    table = rows_of(page, "a.jsonl", '{"q": "x", "n": 1}\n\n"y"\n[1]\n{')
    assert table["rows"][:2] == [{"q": "x", "n": 1}, {"text": "y"}]
    assert [row for row, _ in table["problems"]] == [2, 3]


def test_python_reads_what_the_page_writes(page: Any) -> None:
    texts = ["plain", 'with "quotes"', "with, comma", "with\nline", " spaces ", "é漢🙂", ""]
    results = [[number, {"text": text, "score": -0.5, "wasCut": number == 1}] for number, text in enumerate(texts)]
    code = f"m.writeTable(m.readTable('a.txt', {json.dumps(chr(10).join('abcdefg'))}), new Map({json.dumps(results)}), "
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        written = list(
            csv.DictReader(
                io.StringIO(in_module(page, "tables", f"{code}'{format}')"), newline=""), delimiter=delimiter
            )
        )
        assert [row["prediction"] for row in written] == texts
        assert [row["text"] for row in written] == list("abcdefg")
        assert written[1]["source_was_cut"] == "true"
    lines = [json.loads(line) for line in in_module(page, "tables", f"{code}'jsonl')").splitlines()]
    assert [line["prediction"] for line in lines] == texts and lines[0]["score"] == -0.5
    assert in_module(page, "tables", f"{code}'txt')").split("\n")[3] == "with line"


def test_a_run_that_is_paused_and_resumed_after_a_reload_gives_every_row_once(page: Any, server: Server) -> None:
    sources = [f"text number {number}, of some length" for number in range(120)]
    answered: Counter[str] = Counter()
    page.on(
        "requestfinished",
        lambda request: request.url.endswith("/generate") and answered.update(json.loads(request.post_data)["inputs"]),
    )
    upload(page, "many.jsonl", "".join(json.dumps({"id": n, "source": text}) + "\n" for n, text in enumerate(sources)))
    page.click("#file-start")
    expect(page.locator("#file-state")).to_have_text(re.compile(r"^[1-9]\d* of 120"))
    page.click("#file-pause")
    expect(page.locator("#file-state")).to_have_text(re.compile("^Paused"))
    kept = int(re.search(r"\d+", page.inner_text("#file-state"))[0])
    assert 0 < kept < 120
    page.reload()
    page.click("#view-files")
    expect(page.locator("#stored li")).to_contain_text(f"{kept} of 120 rows")
    page.click("#stored button")
    finish(page)
    assert set(answered) == set(sources) and max(answered.values()) == 1
    rows = [json.loads(line) for line in download(page, "jsonl").splitlines()]
    assert [row["id"] for row in rows] == list(range(120))
    answers = httpx.post(f"{server.url}/generate", json={"inputs": sources[:40]}, timeout=120).json()
    assert [row["prediction"] for row in rows[:40]] == [answer["generated_text"] for answer in answers]


def test_the_same_file_with_the_same_settings_goes_on_and_with_others_begins_anew(page: Any) -> None:
    text = "".join(f"line {number}\n" for number in range(6))
    upload(page, "same.txt", text)
    page.click("#file-start")
    finish(page)
    page.reload()
    upload(page, "same.txt", text)
    page.click("#file-start")
    expect(page.locator("#file-state")).to_have_text("Done: 6 of 6 rows.")
    bodies: list[Any] = []
    page.on(
        "request", lambda request: request.url.endswith("/generate") and bodies.append(json.loads(request.post_data))
    )
    page.click("#open-settings")
    page.fill("#field-num_beams", "2")
    page.locator("#field-num_beams").blur()
    upload(page, "same.txt", text)
    page.click("#file-start")
    finish(page)
    assert sum(len(body["inputs"]) for body in bodies) == 6
    assert all(body["parameters"] == {"num_beams": 2, "priority": "bulk"} for body in bodies)
    expect(page.locator("#stored li")).to_have_count(2)


def test_a_run_that_is_opened_again_brings_its_settings_back(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/#num_beams=2&stop=zzz")
    upload(page, "mine.csv", QUOTED)
    page.select_option("#file-options select", "note")
    page.click("#file-start")
    finish(page)
    page.click("#open-settings")
    page.click("#reset")
    expect(page.locator("#file-start")).to_be_enabled()  # with other settings it is another run
    assert "num_beams" not in page.url
    page.click("#stored button")
    expect(page.locator("#file-state")).to_have_text("Done: 2 of 2 rows.")
    assert "num_beams=2" in page.url and page.input_value("#field-stop") == "zzz"
    assert page.input_value("#file-options select") == "note"


def test_a_failed_row_is_kept_with_its_error_and_the_others_go_on(page: Any) -> None:
    upload(page, "bad.csv", "source,n\none,1\ntwo\n,3\nfour,4\n")
    page.click("#file-start")
    finish(page)
    expect(page.locator("#file-failures summary")).to_have_text("1 failed")
    rows = list(csv.DictReader(io.StringIO(download(page, "csv"))))
    assert [bool(row["prediction"]) for row in rows] == [True, False, False, True]
    assert rows[1]["error"] == "The row has 1 cells; expected 2." and rows[2]["error"] == ""
    expect(page.locator("#file-retry")).to_be_visible()


def test_a_wrong_setting_ends_the_run_instead_of_failing_every_row(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/#num_beams=99")
    upload(page, "a.txt", "one\ntwo\n")
    page.click("#file-start")
    expect(page.locator("#file-problem")).to_have_text("num_beams = 99; this server allows at most 8.")
    expect(page.locator("#file-failures")).to_be_hidden()
    page.problems.clear()  # Chromium reports the 422 on the console


def test_a_busy_server_is_asked_again_when_it_says_and_a_chunk_that_is_too_much_is_divided(
    browser: Any, server: Server
) -> None:
    with opened_page(browser, server.url) as page:
        refusals = [(429, "2", "The queue is full."), (504, "", "not done"), (413, "", "too large")]
        sizes: list[int] = []

        def refuse_first(route: Any) -> None:
            sizes.append(len(json.loads(route.request.post_data)["inputs"]))
            if not refusals:
                route.fallback()
                return
            status, after, text = refusals.pop(0)
            headers = {"retry-after": after} if after else {}
            route.fulfill(status=status, headers=headers, json={"error": text, "error_type": "overloaded"})

        page.route("**/generate", refuse_first)
        page.goto(server.url)
        upload(page, "a.txt", "".join(f"line {number}\n" for number in range(4)))
        page.click("#file-start")
        expect(page.locator("#file-state")).to_contain_text("The queue is full. Trying again.")
        finish(page)
        expect(page.locator("#file-failures")).to_be_hidden()
        assert sizes[:3] == [4, 4, 2] and refusals == []
        page.problems.clear()  # Chromium reports 429, 504 and 413 on the console


def test_a_file_that_is_not_utf_8_is_refused_with_words(page: Any) -> None:
    page.click("#view-files")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": "café".encode("latin-1")})
    expect(page.locator("#file-problem")).to_have_text("a.txt is not UTF-8; save it as UTF-8.")
