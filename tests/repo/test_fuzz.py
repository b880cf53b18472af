"""The fuzzer tells every bad end of a case; and no damaged file of any kind has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
KINDS = [
    "bin",
    "bin_legacy",
    "bin_shards",
    "config",
    "csv",
    "generation_config",
    "gguf",
    "gz",
    "h5",
    "index",
    "journal",
    "jsonl",
    "jsonl_source",
    "msgpack",
    "pair_tokenizer",
    "parquet",
    "parts",
    "recipe",
    "recipe_toml",
    "safetensors",
    "shards",
    "tok_bert",
    "tok_gpt2",
    "tok_json",
    "tok_llama",
    "tok_t5",
    "tok_xlmr",
    "trainer",
]
TELLS = """
import ctypes, os, sys, time
from pathlib import Path
from fuzz import runner
from conjoin.errors import ConfigError

class Steers(ConfigError):
    def __str__(self): return "\\x1b[2J"  # an error spells out what it is made of, unless a class evades that

def use(folder):
    match (folder / "file").read_text():
        case "refused": raise ConfigError("no")
        case "escape": open("/etc/passwd").read()
        case "other": {}["key"]
        case "steers a terminal": raise Steers("no")
        case "wrong": assert False
        case "memory": bytearray(3 << 30)
        case "crash": ctypes.string_at(0)
        case "hang": time.sleep(9)
        case "stops": os._exit(0)

def run(word):
    def write(folder, text): (folder / "file").write_text(text)
    kind = runner.Kind(word, lambda folder: write(folder, "works"), lambda folder, _: write(folder, word), use)
    return runner.Bench(kind, Path(sys.argv[1]) / word).run(0, 0).word

runner.SECONDS = 0.5
for word in sys.argv[2:]:
    print(word, "->", run(word))
"""


def _python(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(map(str, (SUPPORT.parents[1] / "src", SUPPORT)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], check=False, capture_output=True, text=True, env=environment, cwd=SUPPORT
    )


def test_every_way_to_end_is_told(tmp_path: Path) -> None:
    expected = {word: word for word in ("works", "refused", "escape", "other", "wrong", "memory", "crash", "hang")}
    expected |= {"steers a terminal": "other", "stops": "crash"}
    work = _python("-c", TELLS, tmp_path, *expected)
    assert work.stdout.splitlines() == [f"{word} -> {end}" for word, end in expected.items()], work.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_works(kind: str) -> None:
    work = _python("-m", "fuzz", kind, "--cases", "200", "--seed", "1")
    assert work.returncode == 0, work.stdout + work.stderr
