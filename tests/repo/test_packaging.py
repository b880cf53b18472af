"""What a user pays before the first line of work: import time, what is loaded, what the package may depend on."""

import ast
import importlib
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "conjoin"
FILES = sorted(SOURCE.rglob("*.py"))
FRAMEWORKS = ("torch", "jax", "flax", "tensorflow", "keras")
FREE_OF_FRAMEWORKS = (
    *("errors.py", "configuration.py", "spec", "families", "tokenizer", "texts"),
    *("join", "generation", "pretrained", "functional", "native", "cli"),
)
IMPORT_BUDGET_S = 0.15


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parent, env=_AS_INSTALLED)
    return time.perf_counter() - start


# An installed package is compiled once, whatever this shell says about writing bytecode.
_AS_INSTALLED = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def test_import_conjoin_is_quick() -> None:
    _seconds("import conjoin")
    rounds = [(_seconds("import conjoin"), _seconds("pass")) for _ in range(7)]
    extra_s = statistics.median(loaded - bare for loaded, bare in rounds)
    assert extra_s < IMPORT_BUDGET_S


def test_import_conjoin_loads_no_framework() -> None:
    code = "import conjoin, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parent, capture_output=True, text=True)
    assert not {*FRAMEWORKS, "transformers"} & set(told.stdout.split())


def test_the_public_list_is_sorted_and_every_name_of_it_is_found() -> None:
    conjoin = importlib.import_module("conjoin")
    assert list(conjoin.__all__) == sorted(conjoin.__all__)
    assert len(conjoin.__all__) == len(set(conjoin.__all__))
    assert set(conjoin.__all__) <= set(dir(conjoin))


def test_no_source_file_imports_transformers() -> None:
    assert not [path for path in FILES if "transformers" in set(_imported(path))]


def test_only_one_function_decides_which_line_a_warning_points_at() -> None:
    assert [path.name for path in FILES if "warnings.warn(" in path.read_text()] == ["errors.py"]


@pytest.mark.parametrize("room", FREE_OF_FRAMEWORKS)
def test_a_room_below_the_backends_loads_no_framework(room: str) -> None:
    files = [path for path in FILES if path.relative_to(SOURCE).parts[0] == room]
    found = {str(path.relative_to(SOURCE)): sorted(set(_loaded(path)) & set(FRAMEWORKS)) for path in files}
    assert not {name: frameworks for name, frameworks in found.items() if frameworks}


def _imported(path: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, wherever in it."""
    yield from _packages(ast.walk(ast.parse(path.read_text())))


def _loaded(path: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports as it is imported itself: those outside its functions."""
    yield from _packages(_outside_functions(ast.parse(path.read_text())))


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _outside_functions(child)


def _packages(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_only_the_oracle_imports_transformers() -> None:
    importing = {path.name for path in (ROOT / "tests").rglob("*.py") if "transformers" in set(_imported(path))}
    assert all(name.startswith("oracle") for name in importing), importing


def test_the_extra_all_takes_in_every_extra_but_the_second_tensorflow_and_developers_own() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = re.search(r"\[(.*)\]", everything)
    assert named and set(named[1].split(",")) == set(extras) - {"all", "dev", "bench", "tensorflow-cpu"}


def test_a_test_cannot_reach_another_machine() -> None:
    with socket.socket() as plug, pytest.raises(RuntimeError, match="tried to connect"):
        plug.connect(("192.0.2.1", 80))
