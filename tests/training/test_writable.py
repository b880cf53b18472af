"""The doctor's look at targets: what the decoder's tokenizer loses, no model ever writes, whatever its loss says."""

import json
import string
from pathlib import Path

import pytest

from conjoin import Seq2SeqTrainer
from conjoin.join.diagnosis import Finding
from conjoin.texts.pairs import Pairs
from conjoin.tokenizer import AutoTokenizer, TokenizerPair
from conjoin.training.data.datasets import SAMPLED, sample_of
from conjoin.training.data.tokenizing import Room
from conjoin.training.loop.writable import check_targets
from tokenizer_samples import raw_folder
from training_toys import SPECIALS, arguments, toy_model, toy_rows, write_rows, write_tokenizer

LETTERS = [*string.ascii_letters, *"äöüÄÖÜß", *string.punctuation]
GERMAN = ["Das Paket enthält Überreste.", "Ein kleines Werkzeug", "Größe (in Byte)"]


def letters(folder: Path, **options: bool) -> TokenizerPair:
    """A BERT tokenizer that knows Latin letters, and continues words by them."""
    write_tokenizer(folder, [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    config = {"tokenizer_class": "BertTokenizer", **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    one = AutoTokenizer.from_pretrained(folder)
    return TokenizerPair(one, one)


def look(tokenizer: TokenizerPair, targets: list[str], limit: int | None = None) -> Finding:
    """The finding on some targets."""
    pairs = Pairs("pairs", ["a"] * len(targets), targets, range(1, len(targets) + 1))
    return check_targets(pairs, tokenizer, Room(None, limit))


def test_an_uncased_vocabulary_loses_capital_letters_and_accents(tmp_path: Path) -> None:
    found = look(letters(tmp_path), GERMAN)
    assert found.status == "failed" and "3 of 3 cannot be written" in found.detail
    assert "capital letters and accents" in found.detail and "characters" not in found.detail
    assert "'Das Paket enthält Überreste.' becomes 'das paket enthalt uberreste.'" in found.detail
    assert "cased" in found.fix


def test_a_cased_vocabulary_loses_nothing(tmp_path: Path) -> None:
    found = look(letters(tmp_path, do_lower_case=False), GERMAN)
    assert found.status == "ok" and "3 of 3" in found.detail  # "( in byte )": spaces do not count


def test_accents_alone(tmp_path: Path) -> None:
    found = look(letters(tmp_path, do_lower_case=False, strip_accents=True), GERMAN)
    assert "loses accents." in found.detail and "capital" not in found.detail


@pytest.mark.parametrize("targets", [["ein → aus"], ["cat", "eine Katze 猫", "dog"]])
def test_characters_that_a_vocabulary_lacks_are_named(tmp_path: Path, targets: list[str]) -> None:
    found = look(letters(tmp_path, do_lower_case=False), targets)
    assert found.status == "failed" and f"1 of {len(targets)} cannot" in found.detail
    assert ("characters (→)" if "→" in targets[0] else "characters (猫)") in found.detail
    assert "accents" not in found.detail and "capital" not in found.detail


def test_many_missing_characters_are_not_all_named(tmp_path: Path) -> None:
    found = look(letters(tmp_path), [" ".join("абвгдежзик")])
    assert " ...)" in found.detail


def test_bytes_lose_nothing(tmp_path: Path) -> None:
    one = AutoTokenizer.from_pretrained(raw_folder("gpt2", tmp_path))
    found = look(TokenizerPair(one, one), [*GERMAN, "ein → aus", "猫 🙂", "two  spaces\nand a line"])
    assert found.status == "ok"


def test_a_rare_sign_is_nobodys_worry_and_cut_targets_are_not_looked_at(tmp_path: Path) -> None:
    tokenizer = letters(tmp_path, do_lower_case=False)
    assert look(tokenizer, ["cat"] * 199 + ["→"]).status == "ok"
    assert look(tokenizer, ["cat"] * 19 + ["→"]).status == "failed"
    assert look(tokenizer, ["cat", "a target that is cut"], limit=8).detail.startswith("1 of 1 come back")


@pytest.mark.parametrize("auto", ["none", "max_source_length,max_target_length"])
def test_the_trainer_shows_it_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], auto: str
) -> None:
    rows = [{"source": row["source"], "target": row["target"].upper()} for row in toy_rows(40)]
    data = write_rows(tmp_path / "train.jsonl", rows)
    run = arguments(tmp_path / "run", doctor=True, max_steps=1, warmup_steps=0, auto=auto)
    Seq2SeqTrainer(toy_model(tmp_path / "toy"), None, run, train_dataset=data).train()
    shown = " ".join(capsys.readouterr().err.split())
    assert "40 of 40 cannot be written as they are: the tokenizer loses capital letters." in shown


def test_limits_are_chosen_from_all_over_a_file(tmp_path: Path) -> None:
    """A file that begins with its shortest pairs: the first 2,000 would cut most of the others."""
    rows = [{"source": "a " * (1 + number // 1000), "target": "a"} for number in range(9000)]
    sample = sample_of(write_rows(tmp_path / "train.jsonl", rows), "data", arguments(tmp_path))
    assert sample is not None and SAMPLED <= len(sample) <= 2 * SAMPLED
    lengths = [len(source.split()) for source in sample.sources]
    assert (min(lengths), max(lengths)) == (1, 9) and abs(sum(lengths) / len(lengths) - 5) < 0.05
    assert [rows[line - 1]["source"].split() for line in sample.lines] == [text.split() for text in sample.sources]


def test_a_small_file_is_seen_whole(tmp_path: Path) -> None:
    rows = toy_rows(300)
    sample = sample_of(write_rows(tmp_path / "train.jsonl", rows), "data", arguments(tmp_path))
    assert sample is not None and list(sample.targets) == [row["target"] for row in rows]
