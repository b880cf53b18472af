"""Text of a result that grows token by token: only what no later token can change, and nothing of a stop string."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class Growth:
    """Turns tokens into pieces of text that add up to the whole text.

    A tokenizer may still change the end of a text: half a character, a space before a comma that vanishes, "do" that
    becomes "don't". So the last word is held back until another follows, and whatever may begin a stop string.

    Args:
        decode: Text of ids.
        begin: Ids of the prefix; their text is not told.
        stop: Texts before which the result is cut.
    """

    def __init__(self, decode: Decode, begin: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._ids = [*begin]
        self._stop = [text for text in stop if text]
        self._skipped = decode(self._ids) if begin else ""
        self._sent = ""
        self.is_stopped = False

    def text(self, more: Sequence[int] = ()) -> str:
        """Return the text behind the prefix with further tokens, cut before a stop string."""
        return self._cut(self._behind_prefix(self._decode([*self._ids, *more])))[0]

    def add(self, tokens: Sequence[int]) -> str:
        """Return the text that further tokens make certain."""
        if self.is_stopped:
            return ""
        self._ids += tokens
        text = self._behind_prefix(self._decode(self._ids))
        stopped, self.is_stopped = self._cut(text.rstrip("\ufffd"))  # half a character may look like a stop string
        return self._tell(stopped if self.is_stopped else text[: self._certain(text)])

    def finish(self, tokens: Sequence[int] = ()) -> str:
        """Return the rest of the text, with the last tokens."""
        if self.is_stopped:
            return ""
        self._ids += tokens
        text, self.is_stopped = self._cut(self._behind_prefix(self._decode(self._ids)))
        return self._tell(text)

    def guess(self, tokens: Sequence[int]) -> str:
        """Return what is not told yet, if these tokens followed."""
        text = self.text(tokens)
        return text[len(self._sent) :] if text.startswith(self._sent) else ""

    def _tell(self, text: str) -> str:
        if not text.startswith(self._sent):  # a tokenizer that changes what came long before
            return ""
        new = text[len(self._sent) :]
        self._sent = text
        return new

    def _behind_prefix(self, text: str) -> str:
        return text[len(self._skipped) :] if text.startswith(self._skipped) else text

    def _cut(self, text: str) -> tuple[str, bool]:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _certain(self, text: str) -> int:
        """Return the number of characters that no later token can change."""
        end = len(text.rstrip("\ufffd"))
        last = text.rstrip()
        space = max(last.rfind(" "), last.rfind("\n")) if not _ends_with_ideograph(text) else end
        end = min(end, max(space, len(self._sent)))
        for stop in self._stop:
            for size in range(min(len(stop) - 1, end), 0, -1):
                if text.startswith(stop[:size], end - size):
                    end -= size
                    break
        return max(end, len(self._sent))


def _ends_with_ideograph(text: str) -> bool:
    """True if the last character is a word of its own, as in Chinese and Japanese."""
    return bool(text) and 0x3000 <= ord(text[-1]) <= 0x9FFF
