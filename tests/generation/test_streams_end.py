"""A stream ends however generate ends, and its reader gets the error."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle_generation as oracle
from conjoin.errors import GenerationError
from conjoin.torch.generation.streamers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer
from pairs import fresh, stir


class Numbers:
    """A tokenizer whose texts are numbers."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(map(str, ids))


class Plain:
    """A streamer with nothing but put and end."""

    def __init__(self) -> None:
        self.ended = 0

    def put(self, value: Tensor) -> None:
        pass

    def end(self) -> None:
        self.ended += 1


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        raise error

    return call


LONG = torch.full((1, 900), 20)
FAILURES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "unknown keyword": ({"no_such_setting": 1}, GenerationError),
    "out of range": ({"repetition_penalty": 0}, GenerationError),
    "two rows": ({"inputs": torch.tensor([[20, 30], [40, 50]])}, GenerationError),
    "too long": ({"inputs": LONG}, ValueError),
    "no source": ({"inputs": None}, GenerationError),
    "processor": ({"logits_processor": [raising(KeyError("mine"))]}, KeyError),
    "criterion": ({"stopping_criteria": [raising(OSError("mine"))]}, OSError),
    "prefix": ({"prefix_allowed_tokens_fn": raising(ZeroDivisionError())}, ZeroDivisionError),
    "no token left": ({"suppress_tokens": [*range(53)]}, GenerationError),
    "interrupted": ({"logits_processor": [raising(KeyboardInterrupt())]}, GenerationError),
    "iteration": ({"logits_processor": [raising(StopIteration())]}, GenerationError),
}
KINDS: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"do_sample": True}, {"penalty_alpha": 0.6, "top_k": 4}]


def started(run: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that runs it, and what it raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, raised


@pytest.fixture(scope="module")
def model() -> Any:
    return stir(fresh())


@pytest.mark.parametrize("name", FAILURES)
def test_the_reader_gets_the_error_of_the_worker(model: Any, name: str) -> None:
    asked, kind = FAILURES[name]
    for more in KINDS if name in ("processor", "criterion") else KINDS[:1]:
        streamer = TextIteratorStreamer(Numbers(), timeout=60)
        given = {"inputs": torch.tensor([[20, 30, 40]]), "max_new_tokens": 4, **asked, **more}
        thread, raised = started(lambda given=given, streamer=streamer: model.generate(**given, streamer=streamer))
        with pytest.raises(kind) as told:
            list(streamer)
        thread.join()
        assert told.value is raised[0] or told.value.__cause__ is raised[0]


@pytest.mark.parametrize("name", FAILURES)
def test_a_streamer_of_another_make_is_ended_once(model: Any, name: str) -> None:
    asked, _ = FAILURES[name]
    streamer = Plain()
    with pytest.raises((Exception, KeyboardInterrupt)):
        model.generate(**{"inputs": torch.tensor([[20, 30, 40]]), "max_new_tokens": 4, **asked}, streamer=streamer)
    assert streamer.ended == 1


def test_transformers_own_stream_ends_too(model: Any) -> None:
    streamer = oracle.streamer("TextIteratorStreamer", Numbers(), timeout=60)
    thread, raised = started(lambda: model.generate(torch.tensor([[20, 30]]), no_such_setting=1, streamer=streamer))
    assert "".join(streamer) == ""
    thread.join()
    assert isinstance(raised[0], GenerationError)


def test_an_awaited_stream_raises_the_error(model: Any) -> None:
    async def read() -> None:
        streamer = AsyncTextIteratorStreamer(Numbers(), timeout=60)
        call = lambda: model.generate(torch.tensor([[20, 30]]), no_such_setting=1, streamer=streamer)  # noqa: E731
        thread, _ = started(call)
        try:
            async for _ in streamer:
                pass
        finally:
            thread.join()

    with pytest.raises(GenerationError, match="no_such_setting"):
        asyncio.run(read())


def test_printing_ends_its_line(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError):
        model.generate(
            torch.tensor([[20, 30]]),
            max_new_tokens=3,
            stopping_criteria=[raising(KeyError("mine"))],
            streamer=TextStreamer(Numbers()),
        )
    assert capsys.readouterr().out.endswith("\n")


def test_texts_that_cannot_be_decoded_end_the_stream(model: Any) -> None:
    class Broken:
        def decode(self, ids: list[int], **options: Any) -> str:
            raise LookupError("no such id")

    streamer = TextIteratorStreamer(Broken(), timeout=60)
    thread, _ = started(lambda: model.generate(torch.tensor([[20, 30]]), max_new_tokens=3, streamer=streamer))
    with pytest.raises(LookupError, match="no such id"):
        list(streamer)
    thread.join()


def test_what_is_no_streamer_is_refused(model: Any) -> None:
    from conjoin.generation import Stream

    with pytest.raises(GenerationError, match=r"streamer is a list; expected an object with put\(tokens\) and end\(\)"):
        Stream([])
