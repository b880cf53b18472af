"""Public names that are loaded when first asked for, so that `import conjoin` loads no framework."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

_EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax"}
"""Package that a backend's room is named after -> the extra that brings it."""
_PARTS = {"keras": "tensorflow"}
"""Package -> the framework that it comes with."""


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds each name in its home.

    Args:
        homes: Public name -> module, relative to `package`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f".{homes[name]}", package), name)
        except ModuleNotFoundError as error:
            raise _explained(package, name, homes[name], error) from None

    return find


def public_dir(names: Iterable[str]) -> Callable[[], list[str]]:
    """A package's `__dir__`: its public names, those that are loaded when asked for among them."""
    listed = sorted(names)
    return lambda: list(listed)


def _explained(package: str, name: str, home: str, error: ModuleNotFoundError) -> ImportError:
    """What to install, in one line; other missing modules are mistakes and come through as they are."""
    from conjoin.errors import MissingBackend

    room = next((part for part in home.split(".") if part in _EXTRAS), home)
    missing = error.name or ""
    framework = missing.split(".")[0]
    if _PARTS.get(framework, framework) == room and room in _EXTRAS:
        return MissingBackend(f"{name} needs {room}: pip install '{package}[{_EXTRAS[room]}]'")
    return error
