"""Warn at the line that the user wrote, however deep inside this room the reason was found."""

import inspect
import warnings
from pathlib import Path

from conjoin.errors import ConjoinWarning

_ROOM = str(Path(__file__).parent)


def warn(text: str) -> None:
    """Issue a ConjoinWarning for the nearest caller outside this room."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_ROOM):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, ConjoinWarning, stacklevel=level)
