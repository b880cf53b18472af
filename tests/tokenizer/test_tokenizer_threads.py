"""One tokenizer in several threads: calls, settings, copies and files are one step each, and see no half of another."""

import copy
import json
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conjoin.errors import TokenizerError
from conjoin.tokenizer import AutoTokenizer, MBart50Tokenizer, TokenizerPair
from tokenizer_samples import raw_folder

SECONDS = 0.4
TEXTS = ["a cat sat on the mat", "dog"] * 100


@pytest.fixture
def tokenizer(tmp_path: Path) -> MBart50Tokenizer:
    return MBart50Tokenizer.from_pretrained(raw_folder("mbart50", tmp_path / "mbart50"), tgt_lang="ro_RO")


def at_once(*steps: Callable[[], object]) -> None:
    """Repeat every step in a thread of its own for a while; the first that fails stops all."""
    problems: list[BaseException] = []
    end = time.monotonic() + SECONDS

    def repeat(step: Callable[[], object]) -> None:
        try:
            while time.monotonic() < end and not problems:
                step()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=repeat, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not [thread for thread in threads if thread.is_alive()], "a thread waits for ever"
    if problems:
        raise problems[0]


def cutting(tokenizer: Any) -> Callable[[], object]:
    """Calls that truncate and pad, and say so if a row came out as another call's."""

    def step() -> None:
        batch = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
        assert {len(row) for row in batch["input_ids"]} == {5}

    return step


def test_targets_keep_their_language_while_the_source_language_is_set(tokenizer: MBart50Tokenizer) -> None:
    expected = tokenizer.convert_tokens_to_ids("ro_RO")
    codes = iter(["de_DE", "en_XX", "fr_XX"] * 100_000)

    def targets() -> None:
        assert {row[0] for row in tokenizer(text_target=TEXTS)["input_ids"]} == {expected}

    def setter() -> None:
        tokenizer.src_lang = code = next(codes)
        assert tokenizer.src_lang == code
        assert tokenizer("a").tokens()[0] == code

    at_once(targets, targets, setter)
    assert tokenizer("a").tokens()[0] == tokenizer.src_lang


def test_sources_keep_their_language_while_the_target_language_is_set(tokenizer: MBart50Tokenizer) -> None:
    codes = iter(["de_DE", "en_XX"] * 100_000)
    source = tokenizer.convert_tokens_to_ids("fr_XX")

    def sources() -> None:
        assert {row[0] for row in tokenizer(TEXTS)["input_ids"]} == {source}

    def setter() -> None:
        tokenizer.tgt_lang = code = next(codes)
        labels = tokenizer(TEXTS, text_target=TEXTS)["labels"]
        assert {tokenizer.convert_ids_to_tokens(row[0]) for row in labels} == {code}

    at_once(sources, sources, setter)


def test_a_language_that_is_refused_leaves_the_one_before(tokenizer: MBart50Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="xx_XX"):
        tokenizer.src_lang = "xx_XX"
    assert tokenizer.src_lang == "fr_XX"
    assert tokenizer("a").tokens()[0] == "fr_XX"


def test_files_hold_no_other_threads_padding_truncation_or_frame(tokenizer: MBart50Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "alone")
    alone = (tmp_path / "alone" / "tokenizer.json").read_text(encoding="utf-8")

    def save() -> None:
        tokenizer.save_pretrained(tmp_path / "out")
        assert (tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8") == alone

    at_once(cutting(tokenizer), lambda: tokenizer(text_target=TEXTS), save)


def test_two_threads_may_save_into_one_folder(tokenizer: MBart50Tokenizer, tmp_path: Path) -> None:
    at_once(*[lambda: tokenizer.save_pretrained(tmp_path / "out")] * 2)
    other = copy.deepcopy(tokenizer)
    at_once(lambda: tokenizer.save_pretrained(tmp_path / "out"), lambda: other.save_pretrained(tmp_path / "out"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a")["input_ids"] == tokenizer("a")["input_ids"]


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_whole_while_others_cut(tokenizer: MBart50Tokenizer, copied: Callable[[Any], Any]) -> None:
    codes = iter(["de_DE", "en_XX"] * 100_000)

    def copier() -> None:
        twin = copied(tokenizer)
        assert twin.backend.padding is None
        assert twin.backend.truncation is None
        assert twin("a").tokens()[0] == twin.src_lang

    def setter() -> None:
        tokenizer.src_lang = next(codes)

    at_once(cutting(tokenizer), copier, setter)


def test_a_copy_goes_its_own_way(tokenizer: MBart50Tokenizer) -> None:
    for twin in (copy.copy(tokenizer), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        twin.src_lang = "de_DE"
        twin.add_tokens(["a word of its own"])
        assert (tokenizer.src_lang, len(twin)) == ("fr_XX", len(tokenizer) + 1)


def test_the_rust_tokenizer_is_read_between_calls_only(tokenizer: MBart50Tokenizer) -> None:
    frame = str(tokenizer.backend.post_processor)

    def read() -> None:
        document = json.loads(tokenizer.backend.to_str())
        assert (document["padding"], document["truncation"]) == (None, None)
        assert (tokenizer.backend.padding, tokenizer.backend.truncation) == (None, None)
        assert str(tokenizer.backend.post_processor) == frame

    at_once(cutting(tokenizer), lambda: tokenizer(text_target=TEXTS), read)


def test_the_rust_tokenizer_is_taken_for_the_real_one(tokenizer: MBart50Tokenizer) -> None:
    import tokenizers

    assert isinstance(tokenizer.backend, tokenizers.Tokenizer)
    for twin in (copy.deepcopy(tokenizer.backend), pickle.loads(pickle.dumps(tokenizer.backend))):
        assert type(twin) is tokenizers.Tokenizer
        assert twin.to_str() == tokenizer.backend.to_str()


def test_tokens_may_be_added_while_others_encode_and_decode(tokenizer: MBart50Tokenizer) -> None:
    rows = tokenizer(TEXTS)["input_ids"]
    expected, size, names = tokenizer.batch_decode(rows), len(tokenizer), iter(range(10**6))
    added: list[str] = []

    def add() -> None:
        if len(added) < 200:  # every added token makes encoding slower
            token = f"token{next(names)}"
            assert tokenizer.add_tokens([token]) == 1
            assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(token)) == token
            added.append(token)
        time.sleep(0.001)

    def decode() -> None:
        assert tokenizer.batch_decode(rows) == expected

    def encode() -> None:
        assert tokenizer(TEXTS)["input_ids"] == rows

    at_once(add, decode, encode, encode)
    assert len(tokenizer) == size + len(added)
    assert added


def test_a_special_token_and_its_id_change_together(tokenizer: MBart50Tokenizer) -> None:
    old, names = tokenizer.pad_token_id, iter(range(10**6))
    pads = {old}

    def name() -> None:
        if len(pads) < 50:
            tokenizer.add_special_tokens({"pad_token": f"<pad{next(names)}>", "extra_special_tokens": ["<x>"]})
            pads.add(tokenizer.pad_token_id)

    def read() -> None:
        assert tokenizer.pad_token_id != tokenizer.unk_token_id
        assert all(isinstance(index, int) for index in tokenizer.all_special_ids)

    def fill() -> None:
        row = tokenizer("a", padding="max_length", max_length=20)["input_ids"]
        assert row[-1] >= size or row[-1] == old

    size = len(tokenizer)
    at_once(name, read, read, fill)


def test_a_pair_is_as_safe_as_its_halves(tokenizer: MBart50Tokenizer, tmp_path: Path) -> None:
    source = AutoTokenizer.from_pretrained(raw_folder("bert", tmp_path / "bert"))
    pair = TokenizerPair(source, tokenizer)  # pyright: ignore[reportArgumentType]
    pair.save_pretrained(tmp_path / "alone")
    files = [Path("tokenizer.json"), Path("target_tokenizer/tokenizer.json")]
    alone = [(tmp_path / "alone" / file).read_text(encoding="utf-8") for file in files]
    end, languages = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(["de_DE", "en_XX", "ro_RO"])
    codes = iter(["de_DE", "en_XX"] * 100_000)

    def targets() -> None:
        labels = pair(TEXTS, text_target=TEXTS, padding=True, truncation=True, max_length=6)["labels"]
        assert {row[0] for row in labels} <= set(languages)
        assert len({row[0] for row in labels}) == 1
        assert all(end in row for row in labels)

    def setter() -> None:
        tokenizer.tgt_lang = next(codes)

    def save() -> None:
        pair.save_pretrained(tmp_path / "out")
        assert [(tmp_path / "out" / file).read_text(encoding="utf-8") for file in files] == alone
        twin = pickle.loads(pickle.dumps(pair))
        assert (twin.source.backend.padding, twin.target.backend.truncation) == (None, None)

    at_once(targets, targets, setter, save)


def test_limits_that_rust_refuses_do_not_stay(tokenizer: MBart50Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="max_length"):
        tokenizer("a", padding=True, truncation=True, max_length=2**70)
    assert (tokenizer.backend.padding, tokenizer.backend.truncation) == (None, None)
