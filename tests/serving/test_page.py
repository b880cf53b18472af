"""The page at /, in Chromium: streams, stops, shows what the API tells, and leaves nobody out."""

import json
import re
import time
import urllib.request
from itertools import product
from typing import Any

import pytest
from playwright.sync_api import expect

from browser import TEXT, generate, opened_page, posted, shown
from lanes import lanes
from servers import Server

LONG = "#max_new_tokens=600&min_new_tokens=600"
"""Settings with which the model writes for seconds."""


def answer_of(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """Return what POST /generate answers."""
    request = urllib.request.Request(f"{server.url}/generate", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def until(page: Any, holds: Any, seconds: float = 20) -> None:
    """Wait until something holds, while the page goes on."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        page.wait_for_timeout(50)


def test_the_target_arrives_in_pieces(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/#max_new_tokens=100&min_new_tokens=100")
    page.evaluate(
        """() => { window.sizes = new Set();
        const target = document.getElementById("target");
        new MutationObserver(() => window.sizes.add(target.textContent.length)).observe(target, {childList: true}) }"""
    )
    generate(page)
    assert page.evaluate("window.sizes.size") > 5


def test_esc_closes_the_connection_and_the_server_frees_the_rows(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/{LONG}&num_beams=4")
    page.fill("#source", TEXT)
    page.click("#run")
    until(page, lambda: server.metric("conjoin_rows") > 0)
    before = server.metric("conjoin_cancelled_total")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("stopped")
    until(page, lambda: server.metric("conjoin_rows") == 0, 5)
    assert server.metric("conjoin_cancelled_total") == before + 1
    expect(page.locator("#stop")).to_be_disabled()


def test_beams_are_shown_as_what_is_certain_and_a_guess(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/{LONG}&num_beams=4")
    page.fill("#source", TEXT)
    page.click("#run")
    expect(page.locator("#target .guess")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator("#target .guess")).to_have_count(0)


def test_text_numbers_and_warnings_are_those_of_the_api(page: Any, server: Server) -> None:
    generate(page)
    told = answer_of(server, {"inputs": TEXT, "parameters": {"details": True}})
    assert shown(page) == told["generated_text"].lstrip()
    status = page.inner_text("#status").split()
    assert str(told["details"]["generated_tokens"]) in status and str(told["details"]["input_length"]) in status
    expect(page.locator("#status .warning")).to_contain_text("longest length")


def test_a_cut_source_is_struck_through_where_it_was_not_read(page: Any) -> None:
    generate(page, "word " * 80 + "and the end")
    expect(page.locator("#warnings")).to_contain_text("The source was cut")
    cut = page.locator("#mirror .cut")
    assert cut.text_content().endswith("and the end")
    read = page.evaluate("[...document.querySelectorAll('#mirror .read')].map((each) => each.textContent)")
    assert len(read) == 62  # of 64 tokens, two are special


def test_words_have_their_probability_as_title_colour_and_underline(page: Any, server: Server) -> None:
    generate(page)
    told = answer_of(server, {"inputs": TEXT, "parameters": {"details": True}})["details"]["tokens"]
    words = page.locator("#target .word")
    number = int(words.last.get_attribute("data-place"))
    probability = 2.718281828 ** told[number]["logprob"]
    assert float(words.last.get_attribute("title").split()[0]) == pytest.approx(100 * probability, abs=0.51)
    styles = page.evaluate(
        """() => [...document.querySelectorAll("#legend .word")].map(
        (each) => getComputedStyle(each).textDecorationStyle)"""
    )
    assert len(set(styles)) == 5


def test_a_clicked_word_offers_alternatives_and_the_text_goes_on_from_one(page: Any, server: Server) -> None:
    generate(page)
    bodies = posted(page, "/generate_stream")
    before = answer_of(server, {"inputs": TEXT, "parameters": {"details": True, "top_n_tokens": 8}})["details"]
    page.locator("#target [data-place='3']").click()
    options = page.locator("#alternatives [role=option]")
    expect(options).to_have_count(8)
    ids = [each["id"] for each in before["top_tokens"][3]]
    chosen = next(place for place, id in enumerate(ids) if id != before["tokens"][3]["id"])
    read = (
        "[...document.querySelectorAll('#mirror .read')].filter((each) => each.style.getPropertyValue('--share') > 0)"
    )
    assert page.evaluate(f"{read}.length") > 0
    options.nth(chosen).click()
    expect(page.locator("#back")).to_be_visible()
    prefix = [token["id"] for token in before["tokens"][:3]] + [ids[chosen]]
    assert bodies[0]["parameters"]["target_prefix"] == prefix
    expect(page.locator("#target .kept")).not_to_have_count(0)
    whole = answer_of(server, {"inputs": TEXT, "parameters": {"target_prefix": prefix}})
    assert shown(page) == whole["generated_text"].lstrip()
    first = page.inner_text("#target")
    page.click("#back")
    assert page.inner_text("#target") != first


def test_results_and_alternatives_can_be_reached_by_keys_alone(page: Any) -> None:
    page.select_option("#preset", "beams")
    generate(page)
    bodies = posted(page, "/generate_stream")
    results = page.locator("#nbest [role=option]")
    expect(results).to_have_count(4)
    expect(page.locator("#nbest mark")).not_to_have_count(0)
    page.locator("#target button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#alternatives")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    assert page.evaluate("document.activeElement.classList.contains('word')")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "nbest"
    page.keyboard.press("ArrowDown")
    expect(results.nth(1)).to_have_attribute("aria-selected", "true")
    assert page.get_attribute("#nbest", "aria-activedescendant") == "result-1"
    assert shown(page) == page.evaluate("document.querySelector('#result-1 p').textContent").lstrip()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#back")).to_be_visible()
    assert len(bodies[0]["parameters"]["target_prefix"]) == 1  # another token for the first


def test_hovering_a_word_marks_what_it_read(page: Any) -> None:
    generate(page)
    shares = (
        "[...document.querySelectorAll('#mirror .read')].map((each) => Number(each.style.getPropertyValue('--share')))"
    )
    assert sum(page.evaluate(shares)) == 0
    page.locator("#target .word").nth(1).hover()
    assert sum(page.evaluate(shares)) > 0
    read = page.evaluate("[...document.querySelectorAll('#mirror .read')].map((each) => each.textContent).join('')")
    assert read == re.sub(r"\s", "", TEXT)
    page.hover("h1")
    assert sum(page.evaluate(shares)) == 0


def test_the_map_shows_one_layer_and_head_of_the_same_text(page: Any) -> None:
    generate(page)
    text = page.inner_text("#target")
    bodies = posted(page, "/generate")
    page.click("#attention summary")
    picture = "document.getElementById('map').toDataURL()"
    blank = page.evaluate("document.createElement('canvas').toDataURL()")
    until(page, lambda: page.evaluate(picture) != blank)
    mean = page.evaluate(picture)
    page.select_option("#layer", "1")
    until(page, lambda: page.evaluate(picture) != mean)
    page.select_option("#head", "2")
    until(page, lambda: len(bodies) == 2)
    assert bodies[1]["parameters"]["attention"] == {"layer": 1, "head": 2}
    expect(page.locator("#attention-state")).to_be_empty()
    assert page.inner_text("#target") == text
    assert "read most" in page.get_attribute("#map", "aria-label")


def test_settings_are_those_of_info_and_live_in_the_address(page: Any, server: Server) -> None:
    info = server.info()
    page.click("#open-settings")
    for name, about in info["settings"].items():
        if name != "truncation" and page.locator(f"#field-{name}").count():
            expect(page.locator(f"#field-{name}-hint")).to_contain_text(about["range"] or "JSON")
    assert page.locator("#fields .field").count() > 30  # truncation has another meaning in requests
    assert page.get_attribute("#field-num_beams", "max") == str(info["limits"]["max_beams"])
    assert page.get_attribute("#field-max_new_tokens", "placeholder") == "12"
    page.fill("#field-num_beams", "3")
    page.fill("#field-stop", "one\ntwo")
    page.locator("#field-stop").blur()
    assert "num_beams=3" in page.url
    bodies = posted(page, "/generate_stream")
    page.reload()
    generate(page)
    assert bodies[0]["parameters"]["num_beams"] == 3 and bodies[0]["parameters"]["stop"] == ["one", "two"]
    page.click("#open-settings")
    page.click("#reset")
    assert "num_beams" not in page.url and page.input_value("#field-num_beams") == ""


def test_an_error_is_told_in_the_words_of_the_api_and_at_its_field(page: Any) -> None:
    page.click("#open-settings")
    page.fill("#field-num_beams", "99")
    page.fill("#source", TEXT)
    page.click("#run")
    message = "num_beams = 99; this server allows at most 8."
    expect(page.locator("#problem")).to_have_text(message)
    expect(page.locator("#field-num_beams-error")).to_have_text(message)
    expect(page.locator("#field-num_beams")).to_have_attribute("aria-invalid", "true")
    page.problems.clear()  # Chromium reports the 422 on the console


def test_a_screen_reader_hears_sentences_not_tokens(page: Any) -> None:
    heard = page.evaluate(
        """async () => {
        const { SentenceReader } = await import("/page/dom.js");
        const reader = new SentenceReader();
        for (const text of ["One", "One two.", "One two. Thr", "One two. Three! Four"]) reader.read(text);
        reader.read("One two. Three! Four five", true);
        return [...document.querySelectorAll("#live p")].map((each) => each.textContent) }"""
    )
    assert heard == ["One two.", "Three!", "Four five"]
    assert page.get_attribute("#live", "aria-live") == "polite"


def test_alt_c_copies_the_target(browser: Any, server: Server) -> None:
    with opened_page(browser, server.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(server.url)
        generate(page)
        page.keyboard.press("Alt+KeyC")
        expect(page.locator("#copy")).to_have_text("Copied")
        told = answer_of(server, {"inputs": TEXT})
        assert page.evaluate("navigator.clipboard.readText()") == told["generated_text"]


def test_texts_are_never_markup(page: Any) -> None:
    text = '<img src="x" onerror="alert(1)"> & <b>'
    generate(page, text)
    assert page.locator("img[src='x']").count() == 0
    header = page.evaluate("fetch('/').then((response) => response.headers.get('content-security-policy'))")
    assert "unsafe" not in header and "require-trusted-types-for 'script'" in header


@pytest.mark.parametrize(
    ("width", "scheme"),
    lanes(product((1200, 320), ("light", "dark")), {(1200, "dark"), (320, "light")}.__contains__),
)
def test_axe_finds_nothing_serious(browser: Any, server: Server, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened_page(browser, server.url, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        page.goto(f"{server.url}/#num_beams=3&num_return_sequences=3")
        generate(page)
        page.click("#attention summary")
        page.click("#open-settings")
        page.click("#fields summary")
        page.locator("#target .word").first.click()
        _check(Axe().run(page))
        page.keyboard.press("Escape")
        page.click("#view-files")
        page.set_input_files("#file", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"id,text\n1,one\n2,\n"})
        page.click("#file-start")
        expect(page.locator("#file-state")).to_contain_text("Done")
        _check(Axe().run(page))
        page.click("#open-code")
        _check(Axe().run(page))
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def _check(results: Any) -> None:
    found = [each for each in results.response["violations"] if each["impact"] in ("serious", "critical")]
    told = [f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes'][:3]]}" for each in found]
    assert not told, "\n".join(told)
