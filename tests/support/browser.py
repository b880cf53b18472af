"""Debian's Chromium as tests of the page use it: what the page must never do ends the test."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

PATIENCE_S = 60
"""Seconds that a test waits for the page: other tests run beside."""
TEXT = "Hello there, world. A second sentence, with Café and 漢字 and 🙂 at the end."
_MISSING = "Chromium was not found: apt-get install chromium, of Debian. Playwright's own download is not used."


@contextmanager
def started_browser() -> Iterator[Any]:
    """Start Chromium; skips the test where there is none, and fails it in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_MISSING)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser: Any, origin: str, **options: Any) -> Iterator[Any]:
    """Open a page of its own; at the end, complain of what it must never do.

    That is: a request to another origin, an error on the console (which every violation of the CSP is), an exception
    that nobody caught.

    Args:
        origin: The only one that requests may go to.
        options: Of the browser's context.

    Attributes of the page:
        problems: What is complained of; a test that provokes errors on purpose clears it.
    """
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    context.set_default_timeout(PATIENCE_S * 1000)
    page, problems = context.new_page(), list[str]()
    page.problems = problems

    def stay(route: Any) -> None:
        url = route.request.url
        if url.startswith("blob:") or urlsplit(url).netloc == urlsplit(origin).netloc:
            route.fallback()
        else:
            problems.append(f"a request left the origin: {url}")
            route.abort()

    context.route("**/*", stay)
    page.on("console", lambda message: message.type == "error" and problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    try:
        yield page
        assert not problems, "\n".join(problems)
    finally:
        context.close()


def generate(page: Any, text: str = TEXT) -> None:
    """Write a source and generate; returns when the answer is there."""
    from playwright.sync_api import expect

    page.fill("#source", text)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("End")


def posted(page: Any, path: str) -> list[dict[str, Any]]:
    """Return a list to which the bodies of later requests are added."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda each: each.url.endswith(path) and bodies.append(json.loads(each.post_data)))
    return bodies


def shown(page: Any) -> str:
    """Return the target's text, without the sign for its end."""
    return page.evaluate("document.getElementById('target').textContent.replace('∎', '')")
