"""Texts of single tokens add up to the text."""

from typing import Any

import pytest

from conjoin import AutoTokenizer
from conjoin.serving.words import token_texts
from tokenizer_samples import raw_folder

TEXT = "Hello, naïve café: 漢字 and 🙂 🏳️‍🌈 at the end."


@pytest.fixture(name="tokenizer", scope="module")
def tokenizer_fixture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gpt2")
    raw_folder("gpt2", folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_character_of_several_tokens_is_added_by_the_last_of_them(tokenizer: Any) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    texts = token_texts(tokenizer, ids, is_end=True)
    assert "".join(texts) == TEXT
    assert len(ids) > len([text for text in texts if text])  # bytes that are no character alone


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_text_in_two_parts_is_the_same_text(tokenizer: Any, cut: int) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    begin, end = token_texts(tokenizer, ids[:cut]), token_texts(tokenizer, ids[cut:], ids[:cut], is_end=True)
    assert "".join([*begin, *end]) == TEXT


def test_what_is_no_character_at_the_end_is_told(tokenizer: Any) -> None:
    ids = tokenizer("🙂")["input_ids"][:-1]
    assert "".join(token_texts(tokenizer, ids)) == ""
    assert "".join(token_texts(tokenizer, ids, is_end=True)).endswith("\ufffd")
