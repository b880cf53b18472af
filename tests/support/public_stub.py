"""What type checkers read of `import conjoin`: src/conjoin/__init__.pyi. `make fix` runs this file, which writes it."""

from itertools import groupby
from pathlib import Path

import conjoin

STUB = Path(conjoin.__file__).with_suffix(".pyi")


def stub() -> str:
    """Return the stub's text: every public name, imported from the module that has it."""
    places = sorted((module, name) for name, module in conjoin._MODULE_OF.items())
    lines = ['"""Written by `make fix` from __init__.py and model_types.py."""', ""]
    for module, names in groupby(places, key=lambda place: place[0]):
        lines += [f"from conjoin.{module} import {name} as {name}" for _, name in names]
    return "\n".join([*lines, "", "__version__: str", ""])


if __name__ == "__main__":
    STUB.write_text(stub())
