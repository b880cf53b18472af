"""Hub ids in place of folders, the cache without a network, and uploading; the hub itself is played by stubs."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from conjoin import AutoConfig, AutoTokenizer, EncoderDecoderModel, FileError, TokenizerPair
from pairs import with_tokenizer

join = EncoderDecoderModel.from_encoder_decoder_pretrained


def cached(cache: Path, name: str, folder: Path, revision: str = "main") -> None:
    """Lay a folder out as the hub's cache does."""
    repository = cache / f"models--{name.replace('/', '--')}"
    sha = f"{abs(hash((name, revision))):040x}"[:40]
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(sha)
    shutil.copytree(folder, repository / "snapshots" / sha)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a BERT, a GPT-2 and their pair, and a working folder where no such folders are."""
    bert, gpt2 = with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2")
    other = with_tokenizer(tmp_path / "other", "gpt2", n_layer=2)
    join(bert, gpt2).save_pretrained(tmp_path / "pair")
    cached(tmp_path / "cache", "org/bert", bert)
    cached(tmp_path / "cache", "org/gpt2", gpt2)
    cached(tmp_path / "cache", "org/gpt2", other, revision="v2")
    cached(tmp_path / "cache", "org/pair", tmp_path / "pair")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "cache"


def test_everything_loads_from_the_cache_without_a_network(cache: Path) -> None:
    model = EncoderDecoderModel.from_pretrained("org/pair", cache_dir=cache)
    assert isinstance(model.tokenizer, TokenizerPair)
    assert isinstance(AutoTokenizer.from_pretrained("org/pair", cache_dir=cache), TokenizerPair)
    assert AutoConfig.from_pretrained("org/pair", cache_dir=cache) == model.config
    data = model.tokenizer(["a fox"], text_target=["a dog"], return_tensors="pt")
    assert torch.isfinite(model(**data).loss)


def test_what_loading_reads_is_what_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chat templates in files of their own among it, which a pair with `source_template="chat"` needs."""
    asked: list[list[str]] = []

    def fetched(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        asked.append(allow_patterns)
        return str(with_tokenizer(tmp_path / "bert", "bert"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    EncoderDecoderModel.from_encoder_decoder_pretrained("org/bert", "org/bert")
    names = ("chat_template.jinja", "tokenizer.json", "model.safetensors", "vocab.txt", "spiece.model")
    assert all(any(fnmatch(name, pattern) for pattern in asked[0]) for name in names)


def test_two_hub_ids_are_joined_each_at_its_own_revision(cache: Path) -> None:
    plain = join("org/bert", "org/gpt2", cache_dir=cache)
    later = join("org/bert", "org/gpt2", cache_dir=cache, decoder_revision="v2")
    assert (plain.spec.decoder.num_layers, later.spec.decoder.num_layers) == (3, 2)
    assert isinstance(plain.tokenizer, TokenizerPair)


def test_a_folder_of_that_name_wins_over_the_hub(cache: Path) -> None:
    shutil.copytree(cache.parent / "other", Path("org") / "gpt2")
    assert join("org/bert", "org/gpt2", encoder_cache_dir=cache).spec.decoder.num_layers == 2


def test_what_is_not_in_the_cache_is_one_clear_error(cache: Path) -> None:
    with pytest.raises(FileError, match=r"org/none is not, or not completely, in the local cache[^$]*HF_HUB"):
        EncoderDecoderModel.from_pretrained("org/none", cache_dir=cache)
    with pytest.raises(FileError, match="org/bert is not"):
        join("org/bert", "org/gpt2", cache_dir=cache, encoder_revision="v9")


class Hub:
    """Stands in for huggingface_hub.HfApi: keeps what is uploaded."""

    kept: Path
    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, token: Any = None) -> None:
        self.calls.append(("token", {"token": token}))

    def create_repo(self, repo_id: str, **given: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **given}))

    def create_branch(self, repo_id: str, **given: Any) -> None:
        self.calls.append(("create_branch", {"repo_id": repo_id, **given}))

    def upload_folder(self, *, folder_path: Path, **given: Any) -> Any:
        self.calls.append(("upload_folder", given))
        shutil.copytree(folder_path, self.kept)
        address = f"https://huggingface.co/{given['repo_id']}/commit/1"
        return huggingface_hub.CommitInfo(commit_url=address, commit_message="", commit_description="", oid="1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.kept, Hub.calls = tmp_path / "uploaded", []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub


def test_what_is_pushed_is_the_whole_model(hub: type[Hub], tmp_path: Path) -> None:
    model = join(with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2"))
    address = model.push_to_hub("me/pair", private=True, token="secret", revision="next", commit_message="first")
    assert address == "https://huggingface.co/me/pair/commit/1"
    calls = dict(hub.calls)
    assert calls["token"] == {"token": "secret"}
    assert calls["create_repo"] == {"repo_id": "me/pair", "private": True, "exist_ok": True}
    assert calls["create_branch"] == {"repo_id": "me/pair", "branch": "next", "exist_ok": True}
    assert calls["upload_folder"]["commit_message"] == "first"
    again = EncoderDecoderModel.from_pretrained(hub.kept)
    assert isinstance(again.tokenizer, TokenizerPair)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in model.named_parameters())


def test_a_refusal_of_the_hub_is_one_clear_error(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Hub, repo_id: str, **given: Any) -> None:
        raise RuntimeError("401 Client Error\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    bert = with_tokenizer(tmp_path / "bert", "bert")
    with pytest.raises(
        FileError, match=r"me/pair could not be uploaded to the hub\. RuntimeError: 401 Client Error\n\nhint"
    ):
        join(bert, bert).push_to_hub("me/pair")


def test_the_second_tokenizer_of_a_pair_is_fetched_with_the_model(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        fetched.append(allow_patterns)
        return str(tmp_path / "pair")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    EncoderDecoderModel.from_pretrained("org/pair")
    assert ["target_tokenizer/*"] in fetched
