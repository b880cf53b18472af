"""A caller's streamer, which hears of the end of every call once, of a failed one too."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from conjoin.errors import GenerationError


class Stream:
    """Passes tokens on to a streamer; as a context, ends it when the call is over, however that comes about.

    A streamer with `end_with_error(error)`, as ours are, is told what went wrong; others hear end().
    """

    def __init__(self, streamer: Any) -> None:
        if not callable(getattr(streamer, "put", None)) or not callable(getattr(streamer, "end", None)):
            raise GenerationError(
                f"streamer is a {type(streamer).__name__}; expected an object with put(tokens) and end().",
                hint="conjoin.torch.generation.streamers.TextIteratorStreamer(tokenizer), say.",
            )
        self.streamer = streamer
        self._told = False
        self._ended = False

    def put(self, value: Any) -> None:
        """The next tokens."""
        self.streamer.put(value)

    def end(self) -> None:
        """No token follows."""
        self._told = True
        self.streamer.end()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
        elif not self._told:
            self.end()

    def _fail(self, error: BaseException) -> None:
        """Let the reader go; whatever the streamer does then, the first error is the one that is raised."""
        tell: Callable[[BaseException], None] | None = getattr(self.streamer, "end_with_error", None)
        try:
            if callable(tell) and not self._ended:
                tell(error)
            elif not self._told:
                self.end()
        except Exception as later:
            error.add_note(f"The streamer failed at its end, too: {type(later).__name__}: {later}")
