"""The package's public face: one sorted list, loaded on demand, clear words where a backend is missing."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import conjoin
from conjoin.families import families

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "conjoin"


def _typed_imports() -> dict[str, str]:
    """Name -> module of what `if TYPE_CHECKING:` imports in __init__.py."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_run_time_finds() -> None:
    homes = {name: f"conjoin.{home}" for name, home in conjoin._HOMES.items()}
    assert _typed_imports() == homes


@pytest.mark.parametrize("name", conjoin.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(conjoin, name) is not None


def test_every_family_config_is_public() -> None:
    configs = {made.config.__name__ for made in families().values()}
    assert configs <= set(conjoin.__all__)


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
