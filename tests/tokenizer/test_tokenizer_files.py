"""Files: what is read and written, and what each broken or missing one says."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import models

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinError, FileError, TokenizerError
from conjoin.tokenizer import AutoTokenizer, BertTokenizer, GPT2Tokenizer, Tokenizer
from conjoin.tokenizer.formats.sentencepiece import merges_of, read_sentencepiece
from tokenizer_samples import (
    ALBERT_SPM,
    BPE_SPM,
    GEMMA_SPM,
    SENTENCES,
    T5_SPM,
    UNIGRAM,
    raw_folder,
    spm_bytes,
    write_json,
)


@pytest.mark.parametrize("options", [UNIGRAM, T5_SPM, ALBERT_SPM, BPE_SPM, GEMMA_SPM], ids=lambda o: o["model_type"])
def test_our_sentencepiece_reader_finds_what_protobuf_finds(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(spm_bytes(**options))
    expected = sentencepiece_model_pb2.ModelProto()
    expected.ParseFromString(path.read_bytes())
    model = read_sentencepiece(path)
    assert [(piece.text, piece.score, int(piece.type)) for piece in model.pieces] == [
        (piece.piece, piece.score, piece.type) for piece in expected.pieces
    ]
    assert model.is_unigram == (expected.trainer_spec.model_type == 1)
    assert model.charsmap == (expected.normalizer_spec.precompiled_charsmap or None)


@given(text=st.text(alphabet=sorted(set("".join(SENTENCES)) - set(" \t\n")), min_size=1, max_size=50))
def test_a_bpe_model_cuts_as_sentencepiece_itself_does(text: str) -> None:
    """A .model file keeps pieces, not merges; the merges rebuilt from them give SentencePiece's own ids."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=spm_bytes(**BPE_SPM))
    ids = {processor.IdToPiece(index): index for index in range(processor.GetPieceSize())}
    bpe = models.BPE(ids, merges_of(ids), byte_fallback=True, fuse_unk=True)
    assert [token.id for token in bpe.tokenize("\u2581" + text)] == processor.EncodeAsIds(text)


@pytest.mark.parametrize("options", [BPE_SPM, GEMMA_SPM], ids=["llama", "gemma"])
def test_rebuilt_merges_stand_in_transformers_order(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(spm_bytes(**options))
    ids = read_sentencepiece(tmp_path / "a.model").ids()
    assert merges_of(ids) == oracle.merges(ids)


def test_a_cut_off_sentencepiece_model_says_so(tmp_path: Path) -> None:
    raw_folder("t5", tmp_path)
    path = tmp_path / "spiece.model"
    for broken in (path.read_bytes()[:-7], b"version https://git-lfs.github.com/spec/v1\n", b""):
        path.write_bytes(broken)
        with pytest.raises(TokenizerError, match=r"spiece\.model: (not a readable SentencePiece model|.*no pieces)"):
            room.T5Tokenizer.from_pretrained(tmp_path)


def test_a_sentencepiece_model_of_the_other_kind_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm_bytes(**UNIGRAM))
    with pytest.raises(TokenizerError, match="a SentencePiece unigram model, but this family needs BPE"):
        room.LlamaTokenizer.from_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spm_bytes(**BPE_SPM))
    with pytest.raises(TokenizerError, match=r"a SentencePiece BPE .* model, but this family needs unigram"):
        room.T5Tokenizer.from_pretrained(tmp_path)


def cut(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


BROKEN: list[tuple[str, Callable[[Path], None], type[ConjoinError], str]] = [
    ("gpt2", lambda f: (f / "vocab.json").unlink(), FileError, r"no tokenizer\.json and no vocab\.json \+ merges\.txt"),
    ("gpt2", lambda f: (f / "merges.txt").unlink(), FileError, r"There is: tokenizer_config\.json, vocab\.json"),
    ("gpt2", lambda f: cut(f / "vocab.json", '{"a": 0'), TokenizerError, r"vocab\.json: not valid JSON"),
    ("gpt2", lambda f: cut(f / "vocab.json", "[1]"), TokenizerError, "holds a list, expected a JSON object"),
    ("gpt2", lambda f: cut(f / "vocab.json", '{"a": 0}'), TokenizerError, r"disagree: \d+ of \d+ merges name pieces"),
    ("gpt2", lambda f: cut(f / "merges.txt", "#version\na b c\n"), TokenizerError, r"line 2 is 'a b c', expected two"),
    (
        "gpt2",
        lambda f: cut(f / "tokenizer_config.json", "{"),
        TokenizerError,
        r"tokenizer_config\.json: not valid JSON",
    ),
    ("gpt2", lambda f: cut(f / "tokenizer.json", "{}"), TokenizerError, "holds no `model` with a `vocab`"),
    (
        "gpt2",
        lambda f: cut(f / "tokenizer.json", '{"model": {"vocab": {}}}'),
        TokenizerError,
        "WordPiece model, expected BPE",
    ),
    ("bert", lambda f: (f / "vocab.txt").write_bytes(b"\xff\xfe"), TokenizerError, r"vocab\.txt: not UTF-8 text"),
    ("bert", lambda f: cut(f / "vocab.txt", ""), TokenizerError, "the vocabulary is empty"),
    (
        "bert",
        lambda f: write_json(f / "tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        TokenizerError,
        "a tokenizer file holds something of an unexpected shape: ValueError: .*'x'",
    ),
    (
        "bert",
        lambda f: write_json(f / "tokenizer_config.json", {"added_tokens_decoder": [7]}),
        TokenizerError,
        "of an unexpected shape: AttributeError",
    ),
    ("bert", lambda f: write_json(f / "added_tokens.json", {"a": None}), TokenizerError, "unexpected shape: TypeError"),
    (
        "bert",
        lambda f: write_json(f / "tokenizer_config.json", {"strip_accents": "no"}),
        TokenizerError,
        "cannot become a",
    ),
    (
        "bert",
        lambda f: write_json(f / "tokenizer_config.json", {"pad_token": 3}),
        TokenizerError,
        "pad_token = 3, expected",
    ),
    (
        "bert",
        lambda f: write_json(f / "tokenizer_config.json", {"extra_special_tokens": "x"}),
        TokenizerError,
        "extra_special_tokens = 'x', expected a list",
    ),
]


@pytest.mark.parametrize(("kind", "breaks", "error", "message"), BROKEN, ids=[case[3] for case in BROKEN])
def test_a_broken_or_missing_file_is_named(
    kind: str, breaks: Callable[[Path], None], error: type[ConjoinError], message: str, tmp_path: Path
) -> None:
    folder = raw_folder(kind, tmp_path)
    breaks(folder)
    with pytest.raises(error, match=message):
        (GPT2Tokenizer if kind == "gpt2" else BertTokenizer).from_pretrained(folder)


def test_a_folder_that_does_not_say_its_family_gets_the_line_to_write(tmp_path: Path) -> None:
    raw_folder("gpt2", tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"nothing says which .* fit: GPT2Tokenizer, RobertaTokenizer, "):
        AutoTokenizer.from_pretrained(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "MadeUpTokenizer"})
    with pytest.raises(TokenizerError, match=r"(?s)'MadeUpTokenizer' is not known.*hint: GPT2Tokenizer\.from"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_place_without_any_tokenizer_says_what_is_there(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(FileError, match=r"BertTokenizer reads\. There is: config\.json"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileError):
        AutoTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileError, match="no folder 'inner'"):
        AutoTokenizer.from_pretrained(tmp_path, subfolder="inner")
    with pytest.raises(FileError):
        AutoTokenizer.from_pretrained("no-such/repository", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(TokenizerError, match=r"hint: AutoTokenizer\.from_pretrained"):
        AutoTokenizer()


def test_a_subfolder_and_a_single_file_can_be_named(tmp_path: Path) -> None:
    folder = raw_folder("bert", tmp_path / "inner")
    expected = BertTokenizer.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(tmp_path, subfolder="inner")("a b c") == expected("a b c")
    assert BertTokenizer.from_pretrained(folder / "vocab.txt")("a b c") == expected("a b c")
    expected.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved" / "tokenizer.json")("a b c")["input_ids"] == expected.encode(
        "a b c"
    )


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--something"
    snapshot = repository / "snapshots" / "0123456789012345678901234567890123456789"
    raw_folder("bert", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    ours = AutoTokenizer.from_pretrained("someone/something", cache_dir=tmp_path, local_files_only=True)
    assert isinstance(ours, BertTokenizer)


def test_settings_that_conjoin_does_not_know_are_saved_again(tmp_path: Path) -> None:
    folder = raw_folder("gpt2", tmp_path / "raw")
    config = {"chat_template": "{{ x }}", "made_up": [1, {"a": None}], "clean_up_tokenization_spaces": True}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "errors": "strict", **config})
    ours = GPT2Tokenizer.from_pretrained(folder, model_max_length=77)
    written = ours.save_pretrained(tmp_path / "saved")
    assert sorted(Path(path).name for path in written) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert (saved["errors"], saved["made_up"], saved["model_max_length"]) == ("strict", [1, {"a": None}], 77)
    assert saved["tokenizer_class"] == "GPT2Tokenizer"
    assert oracle.load(tmp_path / "saved").chat_template == "{{ x }}"
    assert GPT2Tokenizer.from_pretrained(tmp_path / "saved").init_kwargs["chat_template"] == "{{ x }}"


def test_named_chat_templates_keep_their_files(tmp_path: Path) -> None:
    folder = raw_folder("gpt2", tmp_path / "raw")
    templates = [{"name": "default", "template": "{{ a }}"}, {"name": "tool_use", "template": "{{ b }}"}]
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "chat_template": templates})
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    expected = {"default": "{{ a }}", "tool_use": "{{ b }}"}
    assert oracle.load(tmp_path / "saved").chat_template == expected
    assert GPT2Tokenizer.from_pretrained(tmp_path / "saved").init_kwargs["chat_template"] == expected


def test_a_chat_template_cannot_be_written_outside_the_folder(tmp_path: Path) -> None:
    templates = [{"name": "../../evil", "template": "x"}]
    ours = GPT2Tokenizer.from_pretrained(raw_folder("gpt2", tmp_path / "raw"), chat_template=templates)
    with pytest.raises(TokenizerError, match=r"name '\.\./\.\./evil', which is not a file name"):
        ours.save_pretrained(tmp_path / "saved")


def test_a_setting_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    ours = GPT2Tokenizer.from_pretrained(raw_folder("gpt2", tmp_path / "raw"), made_up=object())
    with pytest.raises(TokenizerError, match="a tokenizer setting cannot be saved"):
        ours.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_a_token_that_a_file_denies_stays_denied_when_saved(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**config, "mask_token": None})
    ours = AutoTokenizer.from_pretrained(folder)
    ours.save_pretrained(tmp_path / "ours")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").mask_token is None
    assert oracle.load(tmp_path / "ours", config["tokenizer_class"]).mask_token is None
    ours.mask_token = "[SEP]"
    ours.save_pretrained(tmp_path / "ours")
    assert AutoTokenizer.from_pretrained(tmp_path / "ours").mask_token == "[SEP]"


def test_saving_over_a_folder_leaves_whole_files_and_nothing_else(tmp_path: Path) -> None:
    ours = BertTokenizer.from_pretrained(raw_folder("bert", tmp_path / "raw"))
    for _ in range(2):
        ours.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        ours.save_pretrained(tmp_path / "file")


def test_calls_with_padding_leave_no_padding_in_the_saved_file(tmp_path: Path) -> None:
    ours = BertTokenizer.from_pretrained(raw_folder("bert", tmp_path / "raw"))
    ours(["a", "b c"], padding=True, truncation=True, max_length=4)
    ours.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (document["padding"], document["truncation"]) == (None, None)


def test_a_generic_tokenizer_needs_a_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no tokenizer\.json, which Tokenizer reads"):
        Tokenizer.from_pretrained(raw_folder("bert", tmp_path))


def test_every_class_has_its_fast_name_and_the_public_list_is_sorted() -> None:
    names = [name for name in room.__all__ if name.endswith("Tokenizer") and name not in ("AutoTokenizer", "Tokenizer")]
    assert all(getattr(room, f"{name}Fast") is getattr(room, name) for name in names)
    assert room.__all__ == sorted(room.__all__)
    assert room.BartTokenizer is room.RobertaTokenizer
    assert room.OPTTokenizer is room.GPT2Tokenizer


def test_importing_the_room_loads_no_framework() -> None:
    heavy = "{'torch', 'numpy', 'jax', 'tensorflow', 'transformers', 'huggingface_hub', 'sentencepiece'}"
    code = f"import sys, conjoin.tokenizer; print(sorted({heavy} & set(sys.modules)))"
    source = str(Path(room.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_saving_over_a_folder_of_transformers_4_keeps_what_was_saved(kind: str, tmp_path: Path) -> None:
    """Its special_tokens_map.json and added_tokens.json would win over the tokens that are written now."""
    tokenizer = AutoTokenizer.from_pretrained(raw_folder(kind, tmp_path / "raw"))
    tokenizer.save_pretrained(tmp_path / "old")
    write_json(tmp_path / "old" / "special_tokens_map.json", {"pad_token": "[older]", "eos_token": "[older]"})
    write_json(tmp_path / "old" / "added_tokens.json", {"[older]": len(tokenizer)})
    (tmp_path / "old" / "chat_template.jinja").write_text("{{ older }}")
    (tmp_path / "old" / "notes.txt").write_text("mine")
    tokenizer.add_special_tokens({"pad_token": "<P>", "eos_token": "<E>"})
    tokenizer.save_pretrained(tmp_path / "old")
    again = AutoTokenizer.from_pretrained(tmp_path / "old")
    assert (again.pad_token, again.eos_token) == ("<P>", "<E>") and again.get_vocab() == tokenizer.get_vocab()
    assert again.init_kwargs.get("chat_template") is None and (tmp_path / "old" / "notes.txt").read_text() == "mine"
