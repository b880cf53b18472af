"""Settings of a server: one set of words for the command line and the file."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from command_line import run_fixture  # noqa: F401  (fixture)
from conjoin import ConjoinError
from conjoin.serving import ServeSettings
from conjoin.serving.settings import read_toml


def test_the_command_line_wins_over_the_file(run: Any, tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text('models = ["a=x", "b"]\nport = 9000\nmax-queue = 7\ntranslate = ["en:de=x"]\n')
    told = run("serve", "--config", tmp_path / "serve.toml", "--port", "9001", "--int8", "--print-config")
    assert told.code == 0, told.err
    settings = ServeSettings.of(tomllib.loads(told.out))
    assert (settings.port, settings.max_queue, settings.int8) == (9001, 7, True)
    assert settings.named_models == [("a", "x"), ("b", "b")]
    assert settings.pairs == {("en", "de"): "x"}


def test_printed_settings_are_the_same_settings() -> None:
    settings = ServeSettings(models=('p/"a"\\b=n',), cors=("https://x",), ttl=1.5, page=False, max_rows=3)
    assert ServeSettings.of(tomllib.loads(settings.toml())) == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "models is empty"),
        ({"models": ["a"], "prot": 1}, "Did you mean port"),
        ({"models": ["a"], "port": "80"}, "port = '80'; expected int"),
        ({"models": ["a"], "port": True}, "port"),
        ({"models": ["a"], "port": 70000}, "65535"),
        ({"models": ["a", "b/a"]}, "two models are called 'a'"),
        ({"models": ["a"], "max_queue": 0}, "above 0"),
        ({"models": ["a"], "translate": ["en"]}, "SOURCE:TARGET"),
        ({"models": ["a"], "translate": ["en:de=b"]}, "no model is called 'b'"),
        ({"models": ["a"], "chat": "all"}, "last or strict"),
        ({"models": ["a"], "host": "0.0.0.0"}, "reachable from other machines"),
        ({"models": ["a"], "host": "::"}, "reachable"),
        ({"models": ["a"], "root_path": "x"}, "a path"),
        ({"models": [1]}, "list of texts"),
    ],
)
def test_wrong_settings_are_told(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConjoinError, match=words):
        ServeSettings.of(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.5.5"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    assert ServeSettings.of({"models": ["a"], "host": host}).is_private


def test_a_public_address_needs_a_key_or_a_word(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k\n")
    public = {"models": ["a"], "host": "0.0.0.0"}
    assert ServeSettings.of({**public, "no_auth": True}).keys == ()
    assert ServeSettings.of({**public, "api_key_file": str(tmp_path / "keys")}).keys == ("k",)
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(ConjoinError, match="holds no key"):
        ServeSettings.of({**public, "api_key_file": str(tmp_path / "empty")})
    with pytest.raises(ConjoinError, match="cannot be read"):
        ServeSettings.of({**public, "api_key_file": str(tmp_path / "none")})


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("models = [")
    with pytest.raises(ConjoinError, match="no TOML"):
        read_toml(tmp_path / "x.toml")
