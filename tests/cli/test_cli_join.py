"""`conjoin families`, `inspect` and `join`: data on stdout, one message and exit 1 for our errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from conjoin.families import MODULES
from pairs import GPT, SOURCE, TARGET, fresh, with_tokenizer

ROOM = Path(__file__).parents[2] / "src"


def conjoin(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    code = "import sys; from conjoin.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOM), "COLUMNS": "200"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_families_lists_every_family_without_a_framework() -> None:
    told = conjoin("families", "--json")
    assert [row["model_type"] for row in json.loads(told.stdout)] == sorted(MODULES)
    table = conjoin("families")
    assert table.returncode == 0
    assert "cross-attention grafted in" in table.stdout


def test_join_writes_a_pair_and_says_where_its_parameters_come_from(tmp_path: Path) -> None:
    bert, gpt2 = with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2")
    told = conjoin("join", bert, gpt2, "--out", tmp_path / "out", "--cross-attention-init", "self_attention")
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == str(tmp_path / "out")
    assert "decoder.cross_attention" in told.stderr
    model = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert model.config.cross_attention_init == "self_attention"
    assert model.tokenizer is not None


def test_join_replaces_nothing_unasked_and_never_its_input(tmp_path: Path, run: Any) -> None:
    fresh().encoder.save_pretrained(tmp_path / "half")
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    words = ("join", tmp_path / "half", tmp_path / "half", "--out")
    told = run(*words, tmp_path / "run")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith(f"FileError: {tmp_path / 'run'} is not empty (checkpoint-5); nothing was changed.")
    assert "hint: --overwrite" in told.err
    assert run(*words, tmp_path / "run", "--overwrite").code == 0
    assert (tmp_path / "run" / "config.json").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "half")
    before = (tmp_path / "half" / "config.json").read_bytes()
    for out in ("half", "link"):
        told = run(*words, tmp_path / out, "--overwrite")
        assert told.code == 1
        assert "is an input of this command" in told.err
    assert (tmp_path / "half" / "config.json").read_bytes() == before
    (tmp_path / "file").touch()
    assert "is a file, expected a folder" in run(*words, tmp_path / "file").err


@pytest.mark.parametrize(("decoder", "share"), [(TARGET, "none"), (GPT, "none"), (SOURCE, "all")])
def test_inspect_shows_an_8_bit_model_as_it_shows_the_float_one(
    tmp_path: Path, run: Any, decoder: Any, share: str
) -> None:
    model = fresh(SOURCE, decoder, share=share)
    model.save_pretrained(tmp_path / "float")
    model.quantize().save_pretrained(tmp_path / "bytes")
    told, wanted = (json.loads(run("inspect", tmp_path / name, "--json").out) for name in ("bytes", "float"))
    assert (told.pop("quantization"), wanted.pop("quantization")) == ("int8", None)
    assert {**told, "folder": ""} == {**wanted, "folder": ""}
    assert "quantization    int8" in run("inspect", tmp_path / "bytes").out


def test_inspect_names_what_an_8_bit_model_lacks(tmp_path: Path, run: Any) -> None:
    fresh().quantize().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = ("encoder.blocks.0.mlp.up.scale", "decoder.head.vocab.weight", "encoder.blocks.0.mlp.up.bias")
    for name in lost:
        kept = {other: tensor for other, tensor in tensors.items() if other != name}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        told = run("inspect", tmp_path)
        assert told.code == 1
        assert f"1 tensor missing:\n  {name}" in told.err


def test_inspect_tells_what_a_pair_or_half_is(tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path / "pair")
    fresh().encoder.save_pretrained(tmp_path / "half")
    facts = json.loads(conjoin("inspect", tmp_path / "pair", "--json").stdout)
    assert facts["decoder"] == {
        "family": "bert",
        "num_layers": 2,
        "hidden_size": 12,
        "num_heads": 3,
        "num_kv_heads": 3,
        "vocab_size": 53,
        "max_positions": 64,
    }
    assert facts["special_tokens"] == {"start": 9, "pad": 3, "eos": [7], "bos": 5}
    half = json.loads(conjoin("inspect", tmp_path / "half", "--json").stdout)
    assert "decoder" not in half and half["encoder"]["hidden_size"] == 20
    assert "decoder.cross_attention" in conjoin("inspect", tmp_path / "pair").stdout


def test_an_error_of_ours_is_one_message_and_exit_1() -> None:
    told = conjoin("inspect", "nowhere/at/all")
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr.startswith("FileError: No folder")
    assert "Traceback" not in told.stderr
    assert "Traceback" in conjoin("--debug", "inspect", "nowhere/at/all").stderr


def test_join_of_folders_that_are_not_there_is_one_message(run: Any) -> None:
    told = run("join", "no/such/one", "no/such/two", "--out", "o")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("FileError: No folder")


def test_wrong_usage_exits_2() -> None:
    assert conjoin("join", "one").returncode == 2


def test_the_command_line_starts_without_a_framework() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import conjoin.cli, sys; print('torch' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOM)},
    )
    assert told.stdout == "False\n"
