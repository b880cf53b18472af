"""What the page at / makes of servers: keys, several models, languages, a proxy's path, requests as code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from browser import generate, opened_page, shown
from conjoin.generation.settings import SETTINGS
from conjoin.serving.page import PATHS
from servers import Server, start_server

PAGE = Path(__file__).parents[2] / "src" / "conjoin" / "serving" / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))


def test_every_file_of_the_page_is_served() -> None:
    files = {path.name for path in PAGE.iterdir() if path.suffix in (".html", ".js", ".css", ".svg")}
    assert files == {path.rsplit("/", 1)[1] or "index.html" for path in PATHS}


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    for banned in ("style=", "onclick", "http:", "https:", "<style", "<script>"):
        assert banned not in html, banned
    for path in SCRIPTS:
        code = path.read_text()
        for banned in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "new Function",
            "document.write",
            "http:",
            "https:",
        ):
            assert banned not in code, f"{path.name}: {banned}"


def test_a_file_that_has_not_changed_is_not_sent_again(server: Server) -> None:
    first = httpx.get(f"{server.url}/page/main.js")
    again = httpx.get(f"{server.url}/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def test_info_has_what_a_form_needs_to_ask_for_a_setting(server: Server) -> None:
    told = server.info()["settings"]
    for name, about in told.items():
        expected = SETTINGS[name].range
        match about["kind"]:
            case "switch":
                assert expected.holds(True) and expected.holds(False), name
            case "choice":
                assert all(expected.holds(option) for option in about["options"]), name
            case "whole":
                assert expected.holds(about["least"]) and not expected.holds(about["least"] + 0.5), name
            case "number":
                inside = (about["least"] + about.get("most", about["least"] + 1)) / 2
                assert expected.holds(inside) and not expected.holds(about["least"] - 1), name
            case kind:
                assert kind == "other", name
    assert told["num_beams"] == {"range": "a whole number of at least 1", "kind": "whole", "default": 1, "least": 1}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_have_no_syntax_errors(path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not here; the browser reads the scripts in the other tests")
    checked = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_key_is_asked_for_and_kept_for_the_tab_only(browser: Any, guarded: Server) -> None:
    with opened_page(browser, guarded.url) as page:
        page.goto(guarded.url)
        expect(page.locator("#key-text")).to_contain_text("A key is needed")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_have_value("")
        expect(page.locator("#key-form")).to_be_visible()
        page.fill("#key", "open-sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#key-form")).to_be_hidden()
        expect(page.locator("#about")).to_contain_text("there")
        assert page.evaluate("JSON.stringify([localStorage, document.cookie])") == '[{},""]'
        assert "sesame" not in page.url
        page.reload()
        expect(page.locator("#about")).to_contain_text("there")
        page.click("#open-code")
        assert "sesame" not in page.inner_text("#code-text") and "$CONJOIN_KEY" in page.inner_text("#code-text")
        page.problems.clear()  # Chromium reports the 401s on the console


def test_languages_choose_the_model_and_are_swapped_with_the_texts(browser: Any, guarded: Server) -> None:
    with opened_page(browser, guarded.url) as page:
        page.add_init_script("sessionStorage.setItem('conjoin-key', 'open-sesame')")
        page.goto(guarded.url)
        expect(page.locator("#source-language")).to_have_value("en")
        expect(page.locator("#model")).to_be_hidden()
        bodies: list[Any] = []
        page.on(
            "request", lambda each: each.url.endswith("generate_stream") and bodies.append(json.loads(each.post_data))
        )
        generate(page)
        target = page.evaluate("document.getElementById('target').textContent.replace('∎', '')")
        assert page.get_attribute("#source", "lang") == "en" and page.get_attribute("#target", "lang") == "de"
        page.click("#swap")
        assert page.input_value("#source-language") == "de" and page.input_value("#source").lstrip() == target
        page.click("#run")
        expect(page.locator("#status")).to_contain_text("End")
        told = [(body["model"], body["parameters"]["src_lang"], body["parameters"]["tgt_lang"]) for body in bodies]
        assert told == [("there", "en", "de"), ("back", "de", "en")]


def test_one_of_several_models_is_chosen_and_kept_in_the_address(browser: Any, guarded: Server) -> None:
    with opened_page(browser, guarded.url) as page:

        def without_pairs(route: Any) -> None:
            response = route.fetch()
            route.fulfill(response=response, json={**response.json(), "translate": []})

        page.route("**/info", without_pairs)
        page.add_init_script("sessionStorage.setItem('conjoin-key', 'open-sesame')")
        page.goto(guarded.url)
        page.select_option("#model", "back")
        assert "model=back" in page.url
        page.reload()
        expect(page.locator("#model")).to_have_value("back")
        expect(page.locator("#about")).to_contain_text("back")
        expect(page.locator("#languages")).to_be_hidden()


def test_code_of_a_request_gives_what_the_page_shows(page: Any, server: Server, busy_folder: Path) -> None:
    text = 'It\'s "quoted" $HOME `here` \\ and über'
    page.goto(f"{server.url}/#num_beams=3&num_return_sequences=1&do_sample=false&max_new_tokens=8")
    generate(page, text)
    target = shown(page)
    page.click("#open-code")
    codes = {}
    for name in ("curl", "InferenceClient", "openai", "conjoin"):
        page.click(f"#tab-{name}")
        codes[name] = page.inner_text("#code-text")
        expect(page.locator("#code-note")).to_be_hidden()
    told = subprocess.run(["bash", "-c", codes.pop("curl")], capture_output=True, text=True, check=True).stdout
    assert json.loads(told)["generated_text"].lstrip() == target
    codes["conjoin"] = codes["conjoin"].replace("path/to/tiny", str(busy_folder))
    program = "\nprint('----')\n".join(codes.values())
    online = {**os.environ, "HF_HUB_OFFLINE": "0"}  # for InferenceClient, which would not even reach this machine
    ran = subprocess.run([sys.executable, "-c", program], env=online, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    inference, openai, conjoin = ran.stdout.split("----\n")
    assert inference.strip() == openai.strip() == target.strip()
    assert conjoin.strip().strip("[]'\"").strip() == target.strip()


@pytest.mark.slow
def test_the_page_works_below_a_path_of_a_proxy(browser: Any, busy_folder: Path) -> None:
    with (
        start_server(busy_folder, "--root-path", "/models/one", "--max-rows", "4") as below,
        opened_page(browser, below.url) as page,
    ):
        page.goto(f"{below.url}/")
        expect(page.locator("#about")).to_contain_text("Bert")
        generate(page)
