"""The command line as tests run it: in this process, or as a process of its own."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conjoin import EncoderDecoderModel
from conjoin.cli import main
from pairs import stir, with_tokenizer

SOURCE = Path(__file__).parents[2] / "src"


class Told:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joined model with tokenizers and random parameters, saved."""
    base = tmp_path_factory.mktemp("model")
    halves = with_tokenizer(base / "bert", "bert"), with_tokenizer(base / "gpt2", "gpt2")
    model = stir(EncoderDecoderModel.from_encoder_decoder_pretrained(*halves))
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(base / "pair")
    return base / "pair"


@pytest.fixture(name="run")
def run_fixture(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command line in this process."""

    def run(*words: str | Path, stdin: str | None = None) -> Told:
        class Pipe(io.StringIO):
            def isatty(self) -> bool:
                return stdin is None

        monkeypatch.setattr(sys, "stdin", Pipe(stdin or ""))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(map(str, words)))
        told = capsys.readouterr()
        return Told(int(end.value.code or 0), told.out, told.err)

    return run


def start(*words: str | Path, **keywords: Any) -> "subprocess.Popen[bytes]":
    """Start `conjoin` as a process of its own."""
    command = [sys.executable, "-c", "from conjoin.cli import main; main()", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **keywords)
