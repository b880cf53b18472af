"""Ids of added tokens are those of the files, or loading is refused; what a file lists as special is special."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from conjoin.errors import ConjoinWarning, TokenizerError
from conjoin.tokenizer import AutoTokenizer, Tokenizer
from tokenizer_pipelines import with_added
from tokenizer_samples import raw_folder, write_json


def load(folder: Path, **overrides: Any) -> Tokenizer:
    found = AutoTokenizer.from_pretrained(folder, **overrides)
    assert isinstance(found, Tokenizer)
    return found


@pytest.mark.parametrize("index", [5, 7], ids=["a hole", "another's id"])
def test_an_added_token_never_gets_another_id_than_the_file_says(index: int, tmp_path: Path) -> None:
    backend = with_added(Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), "<x>")
    document = json.loads(backend.to_str())
    document["added_tokens"].append({**document["added_tokens"][0], "content": "<y>", "id": index})
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=rf"'<y>' has the id {index}, but gets 3"):
        load(tmp_path)


@pytest.mark.parametrize("listing", ["added_tokens.json", "added_tokens_decoder"])
@pytest.mark.parametrize("kind", ["bert", "tokenizer.json"])
def test_ids_of_added_tokens_are_honoured_or_refused(kind: str, listing: str, tmp_path: Path) -> None:
    folder = raw_folder("bert", tmp_path / "raw")
    size = len(load(folder))
    if kind == "tokenizer.json":
        load(folder).save_pretrained(tmp_path / "json")
        folder = tmp_path / "json"

    def write_ids(ids: dict[str, int]) -> None:
        config: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["<x>"]}
        listed = {str(index): {"content": text, "special": False} for text, index in ids.items()}
        if listing == "added_tokens.json":
            write_json(folder / listing, ids)
        write_json(
            folder / "tokenizer_config.json", config | ({listing: listed} if listing in "added_tokens_decoder" else {})
        )

    write_ids({"<x>": size, "<y>": size + 1})
    ours = load(folder)
    assert ours.convert_tokens_to_ids(["<x>", "<y>"]) == [size, size + 1]
    assert ours.decode([size, size + 1], skip_special_tokens=True) == "<y>"
    for wrong in ({"<x>": size, "<y>": size + 2}, {"<x>": size + 1}, {"<x>": 5}):
        write_ids(wrong)
        with pytest.raises(TokenizerError, match="the ids of added tokens cannot be honoured"):
            load(folder)
    write_ids({"[CLS]": size - 1, "<x>": size})
    if kind == "bert":
        with pytest.raises(TokenizerError, match=rf"'\[CLS\]' should have the id {size - 1}, but gets 2"):
            load(folder)
    else:
        with pytest.warns(ConjoinWarning, match=rf"the id of '\[CLS\]' = {size - 1} there, 2 in tokenizer\.json"):
            assert load(folder).cls_token_id == 2


def test_a_new_token_never_gets_the_id_of_another(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 2})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "GPT2Tokenizer", "unk_token": None, "bos_token": None, "eos_token": "<e>"}
    write_json(tmp_path / "tokenizer_config.json", config)
    with pytest.raises(TokenizerError, match="'<e>' gets the id 2, which 'b' has"):
        load(tmp_path)


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer.json"])
def test_additional_special_tokens_of_an_old_map_are_special_and_skipped(where: str, tmp_path: Path) -> None:
    folder = raw_folder("gpt2", tmp_path / "raw")
    if where == "tokenizer.json":
        plain = load(folder)
        plain.add_tokens(["<a>"])
        plain.save_pretrained(tmp_path / "json")
        folder = tmp_path / "json"
    write_json(folder / "added_tokens.json", {"<a>": 480})
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": ["<a>"]})
    ours = load(folder)
    assert ours.extra_special_tokens == ["<a>"]
    ids = ours("x<a> y").input_ids
    assert 480 in ids
    assert ours.decode(ids, skip_special_tokens=True) == "x y"
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == ["x", "\u0120", "y"]


@pytest.mark.parametrize("listing", ["added_tokens.json", "added_tokens_decoder"])
def test_rules_of_an_added_token_are_those_of_the_tokenizer_json(listing: str, tmp_path: Path) -> None:
    """added_tokens.json has ids only, so it contradicts no rule; added_tokens_decoder may."""
    token = AddedToken("<m>", lstrip=True, special=True)
    file = with_added(Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), token)
    file.save(str(tmp_path / "tokenizer.json"))
    if listing == "added_tokens.json":
        write_json(tmp_path / listing, {"<m>": 2})
        ours = load(tmp_path)
    else:
        write_json(tmp_path / "tokenizer_config.json", {listing: {"2": {"content": "<m>", "special": True}}})
        with pytest.warns(ConjoinWarning, match="the rules of '<m>' = 'none' there, 'lstrip' in"):
            ours = load(tmp_path)
    assert ours("a <m>", return_offsets_mapping=True).offset_mapping == file.encode("a <m>").offsets == [(0, 1), (1, 5)]
