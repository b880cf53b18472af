"""`servers.start_server`, which the other tests of serving rely on."""

from pathlib import Path

import pytest

from command_line import folder_fixture  # noqa: F401  (fixture)
from servers import start_server


def test_a_server_is_ready_when_it_is_returned_and_exits_with_0(folder: Path) -> None:
    server = start_server(f"{folder}=tiny")
    assert server.info()["models"][0]["state"] == "ready"
    assert server.metric("conjoin_rows") == 0
    assert server.stop() == 0


def test_a_server_that_cannot_start_fails_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot load"):
        start_server(tmp_path)
