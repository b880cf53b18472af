"""Text of a result that grows: pieces add up to the whole, nothing that was told changes, stop strings are cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.serving.growth import Growth

WORDS = {0: "the", 1: " cat", 2: " do", 3: " n't", 4: " ,", 5: ".", 6: "猫", 7: "\n", 8: "ing", 9: " STOP", 10: " ST"}


def decode(ids: Sequence[int]) -> str:
    """Join words as a tokenizer does that cleans spaces up."""
    return "".join(WORDS[token] for token in ids).replace(" n't", "n't").replace(" ,", ",")


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(sorted(WORDS)), max_size=4), max_size=8))
def test_pieces_add_up_to_the_text(steps: list[list[int]]) -> None:
    growth = Growth(decode)
    told = "".join(growth.add(step) for step in steps) + growth.finish()
    assert told == decode([token for step in steps for token in step])


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(WORDS)), max_size=12))
def test_nothing_of_a_stop_string_is_told(tokens: list[int]) -> None:
    growth = Growth(decode, stop=["STOP"])
    told = "".join(growth.add([token]) for token in tokens) + growth.finish()
    whole = decode(tokens)
    assert told == (whole[: whole.find("STOP")] if "STOP" in whole else whole)
    assert growth.is_stopped == ("STOP" in whole)


def test_the_prefix_is_not_told() -> None:
    growth = Growth(decode, begin=[0, 1])
    assert growth.add([2]) + growth.add([3]) + growth.finish([5]) == decode([0, 1, 2, 3, 5])[len("the cat") :]


def test_half_a_character_waits_for_the_other_half() -> None:
    parts = {0: b"\xe7", 1: b"\x8c", 2: b"\xab", 3: b" a"}

    def of_bytes(ids: Sequence[int]) -> str:
        return b"".join(parts[token] for token in ids).decode("utf-8", "replace")

    growth = Growth(of_bytes)
    told = [growth.add([token]) for token in (0, 1, 2, 3, 0)]
    assert all("\ufffd" not in piece for piece in told)
    assert "".join(told) + growth.finish([1, 2]) == "猫 a猫"


@pytest.mark.parametrize("tokens", [[0, 1], [0, 1, 2, 3]])
def test_a_guess_goes_on_from_what_was_told(tokens: list[int]) -> None:
    growth = Growth(decode)
    told = growth.add(tokens)
    assert told + growth.guess([4, 0]) == decode([*tokens, 4, 0])
    assert told + growth.finish() == decode(tokens)


def test_half_a_character_is_no_stop_string() -> None:
    parts = {0: b"\xe7", 1: b"\x8c", 2: b"\xab"}

    def of_bytes(ids: Sequence[int]) -> str:
        return b"".join(parts[token] for token in ids).decode("utf-8", "replace")

    growth = Growth(of_bytes, stop=["\ufffd"])
    assert "".join(growth.add([token]) for token in (0, 1, 2)) + growth.finish() == "猫"
    assert not growth.is_stopped
