"""A server with a model that takes its time, and a browser: both are started once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import opened_page, started_browser
from conjoin import EncoderDecoderModel
from pairs import stir, with_tokenizer
from servers import Server, start_server


@pytest.fixture(scope="session")
def busy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joined model with random parameters that is large enough for streams to take seconds."""
    base = tmp_path_factory.mktemp("busy")
    size: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 4, "num_hidden_layers": 6}
    decoder = with_tokenizer(base / "decoder", "bert", **size, max_position_embeddings=1024)
    halves = with_tokenizer(base / "encoder", "bert"), decoder
    model = stir(EncoderDecoderModel.from_encoder_decoder_pretrained(*halves))
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(base / "pair")
    return base / "pair"


@pytest.fixture(scope="session")
def server(busy_folder: Path) -> Iterator[Server]:
    """A server of one model."""
    with start_server(f"{busy_folder}=tiny", "--max-rows", "8") as started:
        yield started


@pytest.fixture(scope="session")
def guarded(busy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two models, one for each direction, that asks for the key "open-sesame"."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("open-sesame\n")
    pairs = ("--translate", "en:de=there", "--translate", "de:en=back")
    flags = ("--max-rows", "4", "--api-key-file", str(keys), *pairs)
    with start_server(f"{busy_folder}=there", f"{busy_folder}=back", *flags) as started:
        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    with started_browser() as started:
        yield started


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page of `server`, opened."""
    with opened_page(browser, server.url) as opened:
        opened.goto(server.url)
        opened.wait_for_selector("#field-num_beams", state="attached")
        yield opened
