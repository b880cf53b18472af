"""Public names that are imported on first access, so that `import conjoin` imports no framework."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

_EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax"}
"""Framework (the name of its package and of our backend) -> the extra that installs it."""
_PARTS = {"keras": "tensorflow"}
"""Package -> the framework that it is installed with."""


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__`, which imports each name from its home.

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
    """Return a package's `__dir__`, which lists all public names, imported or not."""
    listed = sorted(names)
    return lambda: list(listed)


def _explained(package: str, name: str, home: str, error: ModuleNotFoundError) -> ImportError:
    """Return an error that says what to install; for modules that are not a framework, return the error unchanged."""
    from conjoin.errors import MissingBackend

    room = next((part for part in home.split(".") if part in _EXTRAS), home)
    missing = error.name or ""
    framework = missing.split(".")[0]
    if _PARTS.get(framework, framework) == room and room in _EXTRAS:
        return MissingBackend(f"{name} needs {room}: pip install '{package}[{_EXTRAS[room]}]'")
    return error
