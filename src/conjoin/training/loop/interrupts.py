"""Ctrl-C, a scheduler's SIGTERM and a closed terminal end a run after the running step, with a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from conjoin.errors import TrainingError

_SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(TrainingError):
    """A signal ended the run, and a checkpoint is saved.

    Attributes:
        exit_code: Exit code of the command: 130 for Ctrl-C, as usual, else 1.
    """

    def __init__(self, what: str, *, by: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = 128 + signal.SIGINT if by == signal.SIGINT.name else 1


class Interrupts:
    """A context in which the first signal is noted; a second one acts as it did before.

    Args:
        watched: False leaves signals alone, since several processes would stop at different steps.
    """

    def __init__(self, *, watched: bool) -> None:
        self.name: str | None = None
        self._watched = watched and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if self._watched:
            self._before = {each: signal.signal(each, self._note) for each in _SIGNALS if not _is_nohup(each)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}


def _is_nohup(number: signal.Signals) -> bool:
    """True if the run was started by nohup, to outlive its terminal."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN
