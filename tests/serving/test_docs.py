"""Every command, snippet and table of docs/serving.md is true: they run on a server, or are compared with the code."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin.serving import ServeSettings
from conjoin.serving.metrics import METRICS
from conjoin.serving.refusal import Kind
from servers import Server, start_server

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
BLOCKS = [(found[1], found[2]) for found in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(name="server", scope="module")
def server_fixture(folder: Path) -> Iterator[Server]:
    """The server of the page's first command, on another port and with another model."""
    _, _, model, *flags = shlex.split(COMMANDS[0])
    with start_server(f"{folder}={model.rpartition('=')[2]}", *flags) as server:
        yield server


def test_every_block_is_of_a_kind_that_runs() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "toml"}
    assert all(line.startswith(("conjoin serve ", "curl ")) for line in COMMANDS)


def test_the_python_of_the_page_runs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text.replace("http://127.0.0.1:8000", server.url), text.split("\n")[0], "exec"), names)
    assert len(names["answer"].choices) == 3 and names["details"]["tokens"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("curl")], ids=lambda line: line[:60])
def test_the_curl_lines_of_the_page_are_answered(server: Server, line: str) -> None:
    told = subprocess.run(
        shlex.split(line.replace("http://127.0.0.1:8000", server.url)), capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(("{", "[")) and '"error"' not in told.stdout.replace('"error":null', ""), told.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("conjoin")])
def test_the_commands_of_the_page_are_understood(run: Any, line: str) -> None:
    told = run(*shlex.split(line)[1:], "--print-config")
    assert told.code == 0 and ServeSettings.of(tomllib.loads(told.out))


def test_the_file_of_settings_is_understood() -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "toml")
    settings = ServeSettings.of(tomllib.loads(text))
    assert settings.pairs == {("en", "de"): "en-de", ("en", "fr"): "en-fr"} and settings.ttl == 600


def test_the_tables_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (.*) \|", PAGE, re.M)
    told = {name for row in rows for name in re.findall(r"`(conjoin_\w+)`", row)}
    assert told == set(METRICS)
    statuses = {int(row.split(" ")[0]) for row in rows if row[:3].isdigit()}
    assert statuses == {kind.status for kind in Kind}
    defaults = ServeSettings(models=("a",))
    for row in rows:
        cells = row.split(" | ")
        for name, value in zip(re.findall(r"`([a-z-]+)`", cells[0]), cells[1].split(", "), strict=False):
            if len(cells) == 3 and hasattr(defaults, name.replace("-", "_")) and value[0].isdigit():
                assert float(value.replace(",", "")) == getattr(defaults, name.replace("-", "_")), name
