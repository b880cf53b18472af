"""The package's public face: one sorted list, loaded on demand, clear words where a backend is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import conjoin
from conjoin.families import MODULES, families
from public_stub import STUB, stub

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "conjoin"


def test_type_checkers_see_the_names_that_run_time_finds() -> None:
    written = STUB.read_text().splitlines()  # in the order that ruff prefers
    assert sorted(written) == sorted(stub().splitlines()), "`make fix` writes it"


@pytest.mark.parametrize("name", conjoin.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(conjoin, name) is not None


def test_the_list_of_families_is_sorted_and_names_their_configs() -> None:
    assert list(MODULES) == sorted(MODULES)
    configs = {name: made.config for name, made in families().items()}
    places = {name: f"{config.__module__.rsplit('.')[-1]}.{config.__name__}" for name, config in configs.items()}
    assert places == MODULES


def test_the_version_is_the_packages() -> None:
    assert conjoin.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("name", "framework"), [("EncoderDecoderModel", "torch"), ("TFEncoderDecoderModel", "tensorflow")]
)
def test_a_model_without_its_framework_says_in_one_line_what_to_install(name: str, framework: str) -> None:
    code = (
        f"import sys; sys.modules['{framework}'] = sys.modules['keras'] = None\n"
        f"try:\n    from conjoin import {name}\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parent, capture_output=True, text=True)
    assert told.stdout == f"MissingBackend {name} needs {framework}: pip install 'conjoin[{framework}]'\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'EncoderDecodeModel'"):
        _ = conjoin.EncoderDecodeModel  # pyright: ignore[reportAttributeAccessIssue]


def test_configs_and_tokenizers_load_without_a_framework() -> None:
    code = (
        "import sys; from conjoin import BertConfig, AutoTokenizer, EncoderDecoderConfig; print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parent, capture_output=True, text=True)
    assert told.stdout == "False\n"
