"""A request on its way: pieces of text while it runs, its answer at the end, both for the event loop."""

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

from conjoin.serving.growth import Growth
from conjoin.serving.reading import Prompt, as_refusal
from conjoin.serving.refusal import Kind, Refusal
from conjoin.serving.request import Answer, Finish, Piece, Request, Result, Token
from conjoin.serving.words import likeliest, token_texts


class _Stopped(Exception):
    """A stop string was found; nothing more is wanted."""


class Running:
    """One request in the engine.

    Args:
        model: Decodes.
        warnings: Told in the answer.
        timeout_s: Seconds after its arrival at which it is given up.
        arrived: When it came, in the loop's time.
        on_done: Called in the event loop when it is over.
    """

    def __init__(
        self,
        model: Any,
        request: Request,
        prompt: Prompt,
        handle: Any,
        *,
        warnings: tuple[str, ...],
        timeout_s: float,
        arrived: float,
        on_done: Any,
    ) -> None:
        self.request, self.prompt = request, prompt
        self._model, self._handle, self._warnings = model, handle, warnings
        self._target: Any = getattr(model.tokenizer, "target", model.tokenizer)
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._growths: dict[int, Growth] = {}
        self._seen: dict[int, list[Token]] = {}
        self._timer = self._loop.call_at(arrived + timeout_s, self._give_up, timeout_s)
        self._on_done = on_done
        self._is_followed = False
        handle.add_done_callback(self._ended)

    @property
    def is_done(self) -> bool:
        """True once nothing of it runs any more."""
        return self._done.is_set()

    def cancel(self) -> None:
        """Give the request up: its rows are free at the next step."""
        self._handle.cancel(Refusal(Kind.UNAVAILABLE, "The request was given up."))

    def give_up(self, refusal: Refusal) -> None:
        """Give the request up, and say why."""
        self._handle.cancel(refusal)

    async def answer(self) -> Answer:
        """Return the answer.

        Raises:
            Refusal: there is none.
        """
        if self.request.stop and not self._is_followed:  # it is over as soon as a stop string is there
            async for _ in self.pieces():
                pass
        await self._done.wait()
        return self._answer()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what becomes certain; `answer` follows. Ends early if there is an error, which `answer` raises."""
        self._is_followed = True
        self._handle.follow(self)
        while (progress := await self._events.get()) is not None:
            piece = self._piece(progress)
            if piece is not None:
                yield piece
            if len(self._growths) == self._wanted and all(growth.is_stopped for growth in self._growths.values()):
                self._handle.cancel(_Stopped())
        if self._handle.error is None:
            for piece in self._rest():
                yield piece

    @property
    def _wanted(self) -> int:
        """Number of results; of several by beams only the first is told before the end."""
        own = getattr(self._model.generation_config, "num_return_sequences", None)
        return self.prompt.settings.get("num_return_sequences") or own or 1

    def put(self, progress: Any) -> None:
        """Take progress from the engine's thread."""
        self._call(self._events.put_nowait, progress)

    def _call(self, function: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _ended(self, _: Any) -> None:
        self._call(self._finish)

    def _finish(self) -> None:
        if not self._done.is_set():
            self._timer.cancel()
            self._done.set()
            self._events.put_nowait(None)
            self._on_done(self)

    def _give_up(self, timeout_s: float) -> None:
        self._handle.cancel(Refusal(Kind.TIMEOUT, f"The request was not done after {timeout_s:g} seconds."))

    def end(self) -> None:
        """Take the news that no progress follows; `_finish` tells it to the reader."""

    def _growth(self, row: int) -> Growth:
        if row not in self._growths:
            self._growths[row] = Growth(self._decode, self.prompt.prefix, self.request.stop)
        return self._growths[row]

    def _decode(self, ids: Any) -> str:
        spaces = self.request.clean_up_spaces
        return self._target.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=spaces)

    def _piece(self, progress: Any) -> Piece | None:
        growth, seen = self._growth(progress.row), self._seen.setdefault(progress.row, [])
        tokens = self._tokens(progress.tokens, progress.scores, [token.id for token in seen])
        seen += tokens
        text = growth.add(progress.tokens)
        guess = growth.guess(progress.guess)
        if not (text or guess or tokens):
            return None
        return Piece(row=progress.row, text=text, guess=guess, tokens=tuple(tokens))

    def _rest(self) -> list[Piece]:
        """Return the end of each result, which was held back until it was certain."""
        outcome, pieces = self._handle.outcome(0), list[Piece]()
        for row in range(len(outcome.sequences)):
            growth, seen = self._growth(row), self._seen.setdefault(row, [])
            ids = outcome.tokens(row)[len(seen) :]
            scores = None if outcome.details is None else outcome.details[row][len(seen) :]
            tokens = self._tokens(ids, scores, [token.id for token in seen])
            text = growth.finish(ids)
            if text or tokens:
                pieces.append(Piece(row=row, text=text, tokens=tuple(tokens)))
        return pieces

    def _tokens(self, ids: list[int], scores: Any, before: list[int], *, is_end: bool = False) -> list[Token]:
        texts = token_texts(self._target, ids, [*self.prompt.prefix, *before], is_end=is_end)
        special = self._special
        tops = likeliest(self._target, [score.top for score in scores]) if scores else [()] * len(ids)
        return [
            Token(
                id=token,
                text=text,
                special=token in special,
                logprob=None if scores is None else scores[place].logprob,
                top=tops[place],
                attention=None if scores is None else scores[place].attention,
            )
            for place, (token, text) in enumerate(zip(ids, texts, strict=True))
        ]

    def _answer(self) -> Answer:
        error = self._handle.error
        if isinstance(error, _Stopped):
            return self._made([self._stopped(row) for row in sorted(self._growths)], self._handle.times)
        if error is not None:
            raise as_refusal(error)
        outcome = self._handle.outcome(0)
        return self._made([self._result(outcome, row) for row in range(len(outcome.sequences))], outcome.times)

    def _made(self, results: list[Result], times: Any) -> Answer:
        wanted = self.request.attention is not None
        source: Any = getattr(self._model.tokenizer, "source", self._model.tokenizer)
        return Answer(
            results=tuple(results),
            source_tokens=len(self.prompt.ids),
            source_texts=tuple(source_texts(source, self.prompt.ids)) if wanted else None,
            source_places=self.prompt.places,
            prefix=self._prefix(),
            was_cut=self.prompt.was_cut,
            seed=self.prompt.seed,
            warnings=self._warnings,
            queue_s=_seconds(times, "started"),
            first_s=_seconds(times, "first"),
            total_s=_seconds(times, "finished"),
        )

    def _prefix(self) -> tuple[Token, ...]:
        ids = self.prompt.prefix
        texts = token_texts(self._target, ids)
        return tuple(Token(id=id, text=text, special=id in self._special) for id, text in zip(ids, texts, strict=True))

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self._target.all_special_ids)

    def _stopped(self, row: int) -> Result:
        growth, tokens = self._growths[row], self._seen.get(row, [])
        return self._text(growth.text(), "stop_sequence", len(tokens), None, tokens)

    def _result(self, outcome: Any, row: int) -> Result:
        ids = outcome.tokens(row)
        growth = Growth(self._decode, self.prompt.prefix, self.request.stop)
        text = growth.finish(ids)
        finish: Finish = "eos_token" if outcome.ended(row) else "length"
        if growth.is_stopped:
            finish = "stop_sequence"
        score = None if outcome.scores is None else float(outcome.scores[row])
        scores = None if outcome.details is None else outcome.details[row]
        tokens = None if scores is None else self._tokens(ids, scores, [], is_end=True)
        return self._text(text, finish, len(ids), score, tokens)

    def _text(self, text: str, finish: Finish, count: int, score: float | None, tokens: list[Token] | None) -> Result:
        begin = self._decode(self.prompt.prefix) if self.prompt.prefix else ""
        wanted = self.request.top is not None or self.request.attention is not None
        return Result(
            text=begin + text,
            continuation=text,
            finish=finish,
            num_tokens=count,
            score=score,
            tokens=tuple(tokens) if tokens is not None and wanted else None,
        )


def source_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """Return the text of every source token; special tokens by their names."""
    special = {token: text for token, text in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)}
    return [special.get(token, text) for token, text in zip(ids, token_texts(tokenizer, ids), strict=True)]


def _seconds(times: Any, name: str) -> float:
    moment = getattr(times, name, None)
    return 0.0 if times is None or moment is None else round(moment - times.arrived, 6)
