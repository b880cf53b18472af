"""Models behind a URL: `conjoin serve`, and its ASGI application for other servers."""

from typing import TYPE_CHECKING, Any

from conjoin._lazy import public_dir

if TYPE_CHECKING:
    from conjoin.serving.app import Application
    from conjoin.serving.settings import ServeSettings

__all__ = ["Application", "ServeSettings"]

__dir__ = public_dir(__all__)


def __getattr__(name: str) -> Any:
    if name == "Application":
        from conjoin.serving.app import Application

        return Application
    if name == "ServeSettings":
        from conjoin.serving.settings import ServeSettings

        return ServeSettings
    raise AttributeError(f"module 'conjoin.serving' has no attribute {name!r}")
