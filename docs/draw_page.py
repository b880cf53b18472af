"""Take pictures of the page of `conjoin serve`: docs/serving/*.png, made by `make docs` where `make demo` has been run.

The model is the demo's, which writes spoken dates, times and amounts as figures. Needs Debian's Chromium.
"""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "serving"
PORT = 8797
URL = f"http://127.0.0.1:{PORT}/"
SOURCE = "alice meets roger in vienna on the twenty third of may at half past five in the afternoon"
SOURCES = (
    SOURCE,
    "the seventh violin costs two hundred and fifty euros in munich",
    "please send the parcel to emily before the first of december",
    "the price of a camera rose by fifteen percent to three hundred pounds",
    "ben paid ninety dollars for the mirror on the third of march",
)
BEAMS = "#do_sample=false&num_beams=4&num_return_sequences=4"


def take(folder: Path) -> None:
    """Take all pictures, of the page before a model."""
    from playwright.sync_api import sync_playwright

    TARGET.mkdir(exist_ok=True)
    with _server(folder), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        _light(_page(browser, 1200, 760, "light"))
        _dark(_page(browser, 1200, 760, "dark"))
        _attention(_page(browser, 1200, 900, "light"))
        _narrow(_page(browser, 360, 780, "light"))
        _files(_page(browser, 900, 840, "dark"))
        browser.close()


def _light(page: Any) -> None:
    """Results of a beam search; what a word read is marked in the source."""
    _generate(page)
    word = page.locator("#target .word", has_text="23")
    (word if word.count() else page.locator("#target .word")).first.hover()
    page.screenshot(path=TARGET / "light.png")


def _dark(page: Any) -> None:
    """Alternatives of the least likely word."""
    _generate(page)
    words = page.locator("#target .word:not(.end)")
    shares = [float(words.nth(place).get_attribute("title").split()[0]) for place in range(words.count())]
    words.nth(shares.index(min(shares))).click()
    page.screenshot(path=TARGET / "dark.png")


def _attention(page: Any) -> None:
    """The map of the attention."""
    _generate(page)
    page.click("#attention summary")
    page.locator("#attention").screenshot(path=TARGET / "attention.png")


def _narrow(page: Any) -> None:
    _generate(page)
    page.screenshot(path=TARGET / "narrow.png", full_page=True)


def _files(page: Any) -> None:
    page.click("#view-files")
    rows = "id,source\n" + "".join(f"{number},{SOURCES[number % len(SOURCES)]}\n" for number in range(100))
    page.set_input_files("#file", {"name": "meetings.csv", "mimeType": "text/csv", "buffer": rows.encode()})
    page.click("#file-start")
    page.get_by_text("a second").wait_for()
    page.screenshot(path=TARGET / "files.png")
    page.click("#file-pause")


def _page(browser: Any, width: int, height: int, scheme: str) -> Any:
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    page.goto(URL + BEAMS)
    page.locator("#field-num_beams").wait_for(state="attached")
    return page


def _generate(page: Any) -> None:
    page.fill("#source", SOURCE)
    page.click("#run")
    page.locator("#target .word").first.wait_for(timeout=120_000)


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "conjoin", "serve", f"{folder}=spoken-to-written", "--port", str(PORT)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not _is_ready():
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with {process.returncode}.")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{URL}ready", timeout=5):
            return True
    except urllib.error.URLError:
        return False


def main() -> None:
    """Take the pictures of the model in a folder, out/demo/model by default."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "demo" / "model"
    if not (folder / "config.json").is_file():
        print(f"{folder} holds no model: the pictures of the page stay as they are. make demo trains one.")
    elif shutil.which("chromium") is None:
        print("chromium is missing: the pictures of the page stay as they are. apt-get install chromium")
    else:
        take(folder)


if __name__ == "__main__":
    main()
