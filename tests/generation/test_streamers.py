"""Text while it is generated: transformers' text, piece by piece, and what of a beam search is certain."""

import asyncio
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle_generation as oracle
from conjoin.errors import GenerationError
from conjoin.tokenizer import AutoTokenizer
from conjoin.torch.generation import streamers
from tokenizer_samples import TEXTS, raw_folder


@pytest.fixture(scope="module", params=["gpt2", "bert", "llama"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = raw_folder(request.param, tmp_path_factory.mktemp(request.param))
    return AutoTokenizer.from_pretrained(folder)


def feed(streamer: Any, prompt: list[int], ids: list[int]) -> None:
    streamer.put(torch.tensor([prompt]))
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()


@pytest.mark.parametrize("skip_prompt", [False, True])
@pytest.mark.parametrize("skip_special_tokens", [False, True])
def test_text_comes_in_transformers_pieces(tokenizer: Any, skip_prompt: bool, skip_special_tokens: bool) -> None:
    options = {"skip_prompt": skip_prompt, "skip_special_tokens": skip_special_tokens}
    mine = streamers.TextIteratorStreamer(tokenizer, **options)
    theirs = oracle.streamer("TextIteratorStreamer", tokenizer, **options)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        for streamer in (mine, theirs):
            feed(streamer, ids[:2], ids[2:])
        assert list(mine) == list(theirs)


def test_printed_text_is_transformers_text(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for streamer in (streamers.TextStreamer(tokenizer), oracle.streamer("TextStreamer", tokenizer)):
        ids = tokenizer("The quick brown fox\njumps over 玻璃 the lazy dog")["input_ids"]
        feed(streamer, ids[:1], ids[1:])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].endswith("\n")


def test_a_second_result_starts_anew(tokenizer: Any) -> None:
    streamer, ids = streamers.TextIteratorStreamer(tokenizer, skip_prompt=True), tokenizer("a b c d")["input_ids"]
    results = []
    for _ in range(2):
        feed(streamer, [ids[0]], ids)
        results.append("".join(streamer))
    assert results[0] == results[1] != ""


def test_several_rows_are_an_error(tokenizer: Any) -> None:
    with pytest.raises(GenerationError, match="A streamer follows one result; tokens of 2 rows were put"):
        streamers.TextStreamer(tokenizer).put(torch.zeros(2, 1, dtype=torch.long))


def test_waiting_ends_after_the_timeout(tokenizer: Any) -> None:
    with pytest.raises(Empty):
        next(streamers.TextIteratorStreamer(tokenizer, timeout=0.01))


def test_text_can_be_awaited(tokenizer: Any) -> None:
    ids = tokenizer("The quick brown fox jumps")["input_ids"]

    async def run() -> list[str]:
        streamer = streamers.AsyncTextIteratorStreamer(tokenizer, timeout=30)
        feeding = asyncio.create_task(asyncio.to_thread(feed, streamer, ids[:1], ids[1:]))
        pieces = [piece async for piece in streamer]
        await feeding
        return pieces

    mine = streamers.TextIteratorStreamer(tokenizer)
    feed(mine, ids[:1], ids[1:])
    assert asyncio.run(run()) == list(mine)


def test_awaiting_ends_after_the_timeout(tokenizer: Any) -> None:
    async def run() -> None:
        await anext(streamers.AsyncTextIteratorStreamer(tokenizer, timeout=0.01))

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_the_stable_prefix_is_what_all_hypotheses_share() -> None:
    running = torch.tensor([[1, 5, 6, 7], [1, 5, 6, 8], [1, 5, 9, 7]])
    assert streamers.stable_prefix(running) == 2
    assert streamers.stable_prefix(running[:2]) == 3
    assert streamers.stable_prefix(running[:1]) == 4
    assert streamers.stable_prefix(running, [torch.tensor([1, 5, 2])]) == 2
    assert streamers.stable_prefix(running[:2], [torch.tensor([1, 5])]) == 2
    assert streamers.stable_prefix(running[:2], [torch.tensor([1, 2])]) == 1
    assert streamers.stable_prefix(torch.tensor([[1], [2]])) == 0


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_what_was_sent_never_changes(futures: list[list[int]], finishes_at: int) -> None:
    """Whichever of the hypotheses wins in the end, what was sent before is its beginning."""
    finals, sent = [[1, *future] for future in futures], []

    class Collector:
        def put(self, value: Tensor) -> None:
            sent.extend(value.tolist())

        def end(self) -> None:
            sent.append(None)

    for winner in finals:
        sent.clear()
        stream = streamers.StablePrefixStreamer(Collector(), prompt_length=1)
        for length in range(1, 7):
            ended = [torch.tensor(finals[-1][:finishes_at])] if length >= finishes_at else []
            stream.put(torch.tensor([final[:length] for final in finals]), ended)
        stream.end(torch.tensor(winner[:finishes_at] if winner is finals[-1] else winner))
        assert sent == [*(winner[1:finishes_at] if winner is finals[-1] else winner[1:]), None]


def test_a_streamer_without_a_rule_says_so() -> None:
    with pytest.raises(NotImplementedError, match="define put"):
        streamers.BaseStreamer().put(torch.zeros(1, dtype=torch.long))
    with pytest.raises(NotImplementedError, match="define end"):
        streamers.BaseStreamer().end()
