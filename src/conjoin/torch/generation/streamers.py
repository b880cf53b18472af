"""Text while it is being generated, and how much of a beam search's text can no longer change."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from queue import Queue
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError

_ENDS_A_LOOP = (StopIteration, StopAsyncIteration)
"""Raised to a reader, they would look like the end of the text."""


class BaseStreamer:
    """What receives tokens while they are generated (transformers' class of the same name)."""

    def put(self, value: Tensor) -> None:
        """Take the next tokens: first the prompt, then token by token."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to do with tokens: define put.")

    def end(self) -> None:
        """Take the news that no token follows."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to do at the end: define end.")


class TextStreamer(BaseStreamer):
    """Prints text as soon as its words are complete.

    Args:
        tokenizer: Of the targets.
        skip_prompt: Leave the first tokens put, the decoder's prompt, out.
        decode_kwargs: For tokenizer.decode, as skip_special_tokens=True.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.error: BaseException | None = None
        self._restart()

    def _restart(self) -> None:
        self.token_cache: list[int] = []
        self.print_len = 0
        self.next_tokens_are_prompt = True

    def put(self, value: Tensor) -> None:
        """Take tokens and hand over the words that they complete.

        Raises:
            GenerationError: tokens of more than one row.
        """
        if value.dim() > 1 and len(value) > 1:
            raise GenerationError(
                f"A streamer follows one result; tokens of {len(value)} rows were put.",
                hint="generate for one source at a time, or without a streamer.",
            )
        is_prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if is_prompt and self.skip_prompt:
            return
        self.token_cache.extend(value.flatten().tolist())
        text = self._text()
        complete = self._complete_until(text)
        self.on_finalized_text(text[self.print_len : complete])
        if text.endswith("\n"):
            self.token_cache, self.print_len = [], 0
        else:
            self.print_len = max(self.print_len, complete)

    def end(self) -> None:
        """Hand over what is left, and be ready for the next result."""
        rest = self._text()[self.print_len :] if self.token_cache else ""
        self._restart()
        self.on_finalized_text(rest, stream_end=True)

    def end_with_error(self, error: BaseException) -> None:
        """Hand over what is left, since generating has failed; who iterates gets the error behind it."""
        self.error = error
        try:
            self.end()
        except Exception:  # the text that is left may be what failed
            self._restart()
            self.on_finalized_text("", stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print; override to do something else with text that will not change."""
        sys.stdout.write(text + "\n" if stream_end else text)
        sys.stdout.flush()

    def _text(self) -> str:
        return self.tokenizer.decode(self.token_cache, **self.decode_kwargs)

    def _ending(self) -> Exception | None:
        """What the reader is told at the end: the error that ended generating, if one did."""
        error, self.error = self.error, None
        if error is None or (isinstance(error, Exception) and not isinstance(error, _ENDS_A_LOOP)):
            return error
        told = GenerationError(f"Generating, which this stream follows, was ended by {type(error).__name__}.")
        told.__cause__ = error
        return told

    def _complete_until(self, text: str) -> int:
        """A line's end and a CJK character complete a word; else the last word may still grow."""
        if text.endswith("\n") or (text and _is_cjk(ord(text[-1]))):
            return len(text)
        return text.rfind(" ") + 1


class TextIteratorStreamer(TextStreamer):
    """Text to iterate over in another thread than the one that generates.

    Args:
        timeout: Seconds to wait for the next text; None waits without end. queue.Empty where it is exceeded.

    An error that ends `generate` is raised here too, behind the text so far.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: Queue[str | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue it."""
        self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise self._ending() or StopIteration
        return text


class AsyncTextIteratorStreamer(TextStreamer):
    """Text for `async for`, while another thread generates. To be made inside the running event loop.

    Args:
        timeout: Seconds to wait for the next text; None waits without end. TimeoutError where it is exceeded.

    An error that ends `generate` is raised here too, behind the text so far.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue it, from whichever thread."""
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, None)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        async with asyncio.timeout(self.timeout):
            text = await self.text_queue.get()
        if text is None:
            raise self._ending() or StopAsyncIteration
        return text


class StablePrefixStreamer:
    """Feeds a streamer from a beam search: only what no later step can change."""

    def __init__(self, streamer: Any, prompt_length: int) -> None:
        self.streamer = streamer
        self.sent = prompt_length

    def put(self, running: Int[Tensor, "N t"], finished: Sequence[Int[Tensor, " _"]] = ()) -> None:
        """Send the tokens that have become certain; see `stable_prefix`."""
        self._send(running[0], stable_prefix(running, finished))

    def end(self, winner: Int[Tensor, " f"]) -> None:
        """Send the rest of the result."""
        self._send(winner, len(winner))
        self.streamer.end()

    def _send(self, ids: Tensor, until: int) -> None:
        for token in ids[self.sent : until].cpu():
            self.streamer.put(token[None])
        self.sent = max(self.sent, until)


def stable_prefix(running: Int[Tensor, "N t"], finished: Sequence[Int[Tensor, " _"]] = ()) -> int:
    """How many leading tokens of the result are certain already.

    The result will be a running hypothesis grown longer, or one that has finished. What all of them share cannot
    change. Of the finished ones only the best can still win, since their scores stay; one that cannot win any more
    holds the stream up for nothing, so leave it out.

    Args:
        running: Live hypotheses of one source; leave out those that no candidate filled (score -1e9 or below).
        finished: Finished hypotheses that may still win, without padding.
    """
    shortest = min([running.shape[1], *(len(ids) for ids in finished)])
    rows = torch.stack([*running[:, :shortest], *(ids[:shortest] for ids in finished)])
    same = (rows == rows[:1]).all(0)
    return int(same.long().cumprod(0).sum())


def _is_cjk(point: int) -> bool:
    """Han characters, which are words by themselves; the blocks are transformers' (and BERT's)."""
    return any(low <= point <= high for low, high in _CJK)


_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
